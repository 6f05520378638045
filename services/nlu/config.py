"""What the operator may set. Variables: `MYRIAD_NLU_<FIELD>`."""

from dataclasses import dataclass
from datetime import UTC, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError


@dataclass(frozen=True)
class Config:
    """Configuration of nlu."""

    memory_address: str = "127.0.0.1:7104"
    """Where memory answers, `host:port`, or `inproc:`."""

    triton_address: str = "127.0.0.1:8001"
    """Where Triton answers, `host:port`."""

    models_dir: Path = Path(".myriad/nlu")
    """Folder of intent models, read only. The trainer's `--models-dir` is the same folder."""

    embedder: str = "embedder"
    """Name of the embedding model in Triton. Part of a model's digest: models trained on another are not found."""

    embed_timeout_s: float = 1.5
    """Seconds to wait for the embedding; less when the caller has less left."""

    threads: int = 2
    """Threads for entities of long or dated texts. More help little: they share one interpreter."""

    time_zone: str = "UTC"
    """Zone in which `tomorrow` and `5pm` are read, a name of the IANA database."""

    phone_region: str = ""
    """Country whose national phone numbers are recognised, ISO 3166 (`US`). Empty: only numbers that begin with +."""

    heads_cached: int = 256
    """Intent models kept in memory, the last used ones."""

    def __post_init__(self) -> None:
        """Checks what types cannot say.

        Raises:
            ValueError: a value is out of its range; names the field.
        """
        for name in ("embed_timeout_s", "threads", "heads_cached"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be more than 0")
        self.zone()

    def zone(self) -> tzinfo:
        """The zone that `time_zone` names. UTC needs no database of zones, which small images lack.

        Raises:
            ValueError: there is no such zone.
        """
        if self.time_zone == "UTC":
            return UTC
        try:
            return ZoneInfo(self.time_zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"time_zone: no zone is called {self.time_zone!r}") from None

"""What the operator may set. Variables: `MYRIAD_NLU_<FIELD>`."""

from dataclasses import dataclass
from pathlib import Path


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

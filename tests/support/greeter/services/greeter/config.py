"""What greeter is told. Variables: `MYRIAD_GREETER_<FIELD>`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Config:
    """Defaults are for one machine."""

    noon: int = 12
    """Hour of the day (UTC) from which it is no longer morning."""

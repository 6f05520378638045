"""Runs toolexec: `python -m services.toolexec`."""

from services.kit import serve
from services.toolexec.app import build
from services.toolexec.config import Config

if __name__ == "__main__":
    serve.main("toolexec", Config, build)

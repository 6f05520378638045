"""Runs the service: `python -m services.retrieval`."""

from services.kit import serve
from services.retrieval.app import build
from services.retrieval.config import Config

if __name__ == "__main__":
    serve.main("retrieval", Config, build)

"""Runs the service: `python -m services.nlu`."""

from services.kit import serve
from services.nlu.app import build
from services.nlu.config import Config

if __name__ == "__main__":
    serve.main("nlu", Config, build)

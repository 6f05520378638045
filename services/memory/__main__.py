"""Serves memory."""

from services.kit import serve
from services.memory.app import build
from services.memory.config import Config

if __name__ == "__main__":
    serve.main("memory", Config, build)

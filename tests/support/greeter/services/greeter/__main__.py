"""Serves greeter."""

from services.greeter.app import build
from services.greeter.config import Config
from services.kit import serve

if __name__ == "__main__":
    serve.main("greeter", Config, build)

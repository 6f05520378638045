"""Serves memory."""

import gc

if __name__ == "__main__":
    gc.disable()  # until `serve` enables it
    from services.kit import serve
    from services.memory.app import build
    from services.memory.config import Config

    serve.main("memory", Config, build)

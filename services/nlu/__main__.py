"""Runs the service: `python -m services.nlu`."""

import gc

if __name__ == "__main__":
    gc.disable()  # until `serve` enables it
    from services.kit import serve
    from services.nlu.app import build
    from services.nlu.config import Config

    serve.main("nlu", Config, build)

"""Runs the service: `python -m services.retrieval`."""

import gc

if __name__ == "__main__":
    gc.disable()  # until `serve` enables it
    from services.kit import serve
    from services.retrieval.app import build
    from services.retrieval.config import Config

    serve.main("retrieval", Config, build)

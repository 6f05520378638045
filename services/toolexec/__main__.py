"""Runs toolexec: `python -m services.toolexec`."""

import gc

if __name__ == "__main__":
    gc.disable()  # until `serve` enables it
    from services.kit import serve
    from services.toolexec.app import build
    from services.toolexec.config import Config

    serve.main("toolexec", Config, build)

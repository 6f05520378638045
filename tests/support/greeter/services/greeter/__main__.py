"""Serves greeter."""

import gc

if __name__ == "__main__":
    gc.disable()  # until `serve` enables it
    from services.greeter.app import build
    from services.greeter.config import Config
    from services.kit import serve

    serve.main("greeter", Config, build)

"""`python -m services.orchestrator`, and `python -m services.orchestrator worker`."""

import gc
import sys

if __name__ == "__main__":
    gc.disable()  # until `serve` enables it
    from services.kit import serve
    from services.orchestrator import app
    from services.orchestrator.config import Config

    if sys.argv[1:] == ["worker"]:
        serve.main("worker", Config, app.build_worker, settings="orchestrator")
    else:
        serve.main("orchestrator", Config, app.build)

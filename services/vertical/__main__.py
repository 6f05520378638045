"""`python -m services.vertical`."""

import gc
import os
import sys

if __name__ == "__main__":
    gc.disable()  # until `serve` enables it
    from services.kit.app import KitConfig
    from services.kit.config import ConfigError, load
    from services.kit.serve import CannotStart, run_process
    from services.vertical.app import load_configs, run

    try:
        kit_config = load(KitConfig, os.environ, "MYRIAD_", strict=False)
        configs = load_configs(os.environ)
        run_process(run(kit_config, configs))
    except (CannotStart, ConfigError, ValueError, OSError) as error:
        sys.exit(f"vertical cannot start: {error}")

"""Writes the lock files from pyproject.toml: `python requirements/lock.py [--upgrade]`.

dev.txt is solved first; every other file is constrained by it, so a package has one version everywhere. The file of
Triton's environment stands alone: its Python needs numpy 1. No file names a host.
"""

import subprocess
import sys
from pathlib import Path

from services.kit.topology import SERVICES

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent
RUNTIME = (*SERVICES, "train", "dev")
EVERYTHING = (*RUNTIME, "test", "check")
OPTIONS = ("--generate-hashes", "--no-emit-index-url", "--no-header", "--no-annotate", "--python-version", "3.11", "-q")


def _compile(source: str, target: str, *options: str) -> None:
    print(f"requirements/{target}", flush=True)
    uv = str(Path(sys.executable).parent / "uv")
    subprocess.run(
        [uv, "pip", "compile", source, "-o", f"requirements/{target}", *OPTIONS, *options], cwd=ROOT, check=True
    )


def main(arguments: list[str]) -> None:
    """Writes every lock file. `--upgrade`: to the newest versions that pyproject.toml allows."""
    extras = {"dev": EVERYTHING, "runtime": RUNTIME} | {service: (service,) for service in SERVICES}
    for name, wanted in extras.items():
        constraint = arguments if name == "dev" else ["-c", "requirements/dev.txt"]
        flags = [f"--extra={extra}" for extra in wanted]
        _compile("pyproject.toml", f"{name}.txt", "--universal", *flags, *constraint)
    _compile("requirements/bootstrap.in", "bootstrap.txt", "--universal", *arguments)
    _compile("requirements/triton.in", "triton.txt", "--no-deps", *arguments)


if __name__ == "__main__":
    if not set(sys.argv[1:]) <= {"--upgrade"}:
        sys.exit("usage: python requirements/lock.py [--upgrade]")
    main(sys.argv[1:])

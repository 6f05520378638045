"""Makes the Python environments from the lock files: `python3.11 requirements/install.py runtime|dev|triton ...`.

`runtime` (what `make up` needs) and `dev` (that, and what tests and checks need) live in `.venv`, `triton` in
`.venv-triton`. Each step leaves a stamp with the digest of what it was made from, so a second run does nothing, a run
after a lock file changed does only what changed, and an interrupted one is taken up again. Two at once wait for each
other. Only the standard library is used: nothing is installed yet.
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STAMPS = "installed.json"
FOLDERS = {"runtime": ".venv", "dev": ".venv", "triton": ".venv-triton"}
HINT = """If the lines above speak of a connection, a proxy or a certificate: this machine must reach a package index.
pip's settings are honoured (PIP_INDEX_URL, PIP_CERT, pip.conf), and so are uv's (UV_DEFAULT_INDEX, SSL_CERT_FILE).
Then run the same command again: it takes up where it stopped."""


class InstallError(Exception):
    """An environment could not be made. The message says what, where, and what to do."""


def digest(root: Path, *names: str) -> str:
    """SHA-256 over files, and over all files in folders, below `root`, with their names."""
    total = hashlib.sha256()
    for name in names:
        path = root / name
        for file in sorted(path.rglob("*.proto")) if path.is_dir() else [path]:
            content = hashlib.sha256(file.read_bytes()).hexdigest()
            total.update(f"{file.relative_to(root)} {content}\n".encode())
    return total.hexdigest()


def uv_settings(environ: Mapping[str, str], pip: Mapping[str, str]) -> dict[str, str]:
    """The environment for uv: `environ`, and pip's settings where uv has none of its own.

    Args:
        environ: The environment.
        pip: What `pip config list` says, by name without its section: `index-url`, `cert` ...
    """
    known = {name: value for name, value in environ.items() if value}
    said = {
        "UV_DEFAULT_INDEX": known.get("UV_INDEX_URL") or pip.get("index-url"),
        "UV_INDEX": pip.get("extra-index-url"),
        "SSL_CERT_FILE": known.get("PIP_CERT") or pip.get("cert"),
    }
    return {name: value for name, value in said.items() if value} | known


def parse_pip_config(text: str) -> dict[str, str]:
    """Reads what `pip config list` prints; of a name in two sections, the later line (the stronger one) counts."""
    found = {}
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals:
            found[name.rsplit(".", 1)[-1]] = value.strip("'\"")
    return found


class Environment:
    """One virtual environment and the stamps of the steps that made it."""

    def __init__(self, folder: Path) -> None:
        """Looks at the environment in `folder`, which may not be there yet."""
        self.folder = folder
        self.python = folder / "bin" / "python"

    def stamps(self) -> dict[str, str]:
        """Digest by step. Empty when nothing was finished."""
        try:
            return dict(json.loads((self.folder / STAMPS).read_text()))
        except (OSError, ValueError):
            return {}

    def forget(self, name: str) -> None:
        """Drops a step's stamp, so that it is done again."""
        self._write({step: seen for step, seen in self.stamps().items() if step != name})

    def _write(self, stamps: Mapping[str, str]) -> None:
        whole = self.folder / f"{STAMPS}.new"
        whole.write_text(json.dumps(stamps, indent=1, sort_keys=True) + "\n")
        whole.replace(self.folder / STAMPS)

    def step(self, name: str, wanted: str, work: Callable[[], None], *, say: str, fresh: bool = False) -> None:
        """Does `work` unless the stamp says it was done from the same input.

        Args:
            name: The step.
            wanted: Digest of what it is made from.
            work: Does it. It may be repeated.
            say: What is shown while it runs.
            fresh: It makes the environment anew, so the stamps of all other steps go.
        """
        if self.stamps().get(name) == wanted:
            return
        print(f"{self.folder.name}: {say} ...", flush=True)
        began = time.monotonic()
        work()
        self._write({name: wanted} if fresh else self.stamps() | {name: wanted})
        print(f"{self.folder.name}: done in {time.monotonic() - began:.1f} s", flush=True)


def run(what: str, *command: str | Path, env: Mapping[str, str] | None = None) -> None:
    """Runs a command in the repository, its output shown.

    Raises:
        InstallError: it failed.
    """
    status = subprocess.run([str(part) for part in command], cwd=ROOT, env=env, check=False).returncode
    if status != 0:
        raise InstallError(f"{what} failed with exit status {status}.\n{HINT}")


def uv(*arguments: str | Path) -> None:
    """Runs the uv of `.venv`, with pip's settings where it has none.

    Raises:
        InstallError: it failed.
    """
    programs = ROOT / ".venv" / "bin"
    listing = [str(programs / "python"), "-m", "pip", "config", "list"]
    pip = subprocess.run(listing, capture_output=True, text=True, check=False).stdout
    settings = uv_settings(os.environ, parse_pip_config(pip))
    run("uv " + " ".join(str(argument) for argument in arguments), programs / "uv", *arguments, env=settings)


def _make_python(environment: Environment) -> None:
    if environment.folder.exists():
        shutil.rmtree(environment.folder)
    options = [] if environment.folder.name == ".venv" else ["--without-pip"]
    status = subprocess.run([sys.executable, "-m", "venv", *options, str(environment.folder)], check=False).returncode
    if status != 0:
        raise InstallError("Python's venv module failed. On Debian and Ubuntu: apt-get install python3.11-venv")
    if not options:
        pip = [str(environment.python), "-m", "pip", "--disable-pip-version-check", "install", "-q", "--require-hashes"]
        run("Installing pip and uv", *pip, "-r", "requirements/bootstrap.txt")


def _base(environment: Environment) -> None:
    """The interpreter, made anew when it is gone, the checkout moved (scripts name their folder), or pip or uv did."""
    seen = f"{environment.folder} {digest(ROOT, 'requirements/bootstrap.txt')}"
    wanted = hashlib.sha256(seen.encode()).hexdigest()
    if not environment.python.exists():
        (environment.folder / STAMPS).unlink(missing_ok=True)
    say = f"a new environment with Python {sys.version.split()[0]}"
    environment.step("python", wanted, lambda: _make_python(environment), say=say, fresh=True)


def _packages(environment: Environment, kind: str) -> None:
    if kind == "runtime" and environment.stamps().get("dev") == digest(ROOT, "requirements/dev.txt"):
        return  # dev.txt holds all of runtime.txt, at the same versions
    lock = f"requirements/{kind}.txt"
    options = ["--no-deps"] if kind == "triton" else []

    def work() -> None:
        uv("pip", "install", "--require-hashes", *options, "--python", environment.python, "-r", lock)

    environment.step(kind, digest(ROOT, lock), work, say=f"packages of {lock}")


def _project(environment: Environment) -> None:
    def editable() -> None:
        uv("pip", "install", "-q", "--no-deps", "--no-build-isolation", "--python", environment.python, "-e", ".")

    def generate(step: str) -> Callable[[], None]:
        return lambda: run(f"Generating {step}", environment.python, "protos/generate.py", step)

    environment.step("project", digest(ROOT, "pyproject.toml"), editable, say="this checkout, editable")
    sources = digest(ROOT, "requirements/validate.txt", "protos/generate.py")
    environment.step("validate", sources, generate("validate"), say="buf/validate, generated")
    if not (ROOT / "envoy" / "descriptors.pb").exists():
        environment.forget("descriptors")
    protos = digest(ROOT, "protos/myriad", "protos/generate.py")
    environment.step("descriptors", protos, generate("descriptors"), say="descriptors for Envoy")


@contextmanager
def _alone() -> Iterator[None]:
    """Waits until no other installation of this checkout runs. The kernel frees the lock of one that died."""
    folder = ROOT / ".myriad"
    folder.mkdir(exist_ok=True)
    with (folder / "install.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waiting for another installation of this checkout ...", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def install(kinds: list[str]) -> None:
    """Brings every environment that `kinds` name up to date.

    Raises:
        InstallError: it cannot be done.
    """
    main = Environment(ROOT / ".venv")
    _base(main)
    for kind in kinds:
        environment = Environment(ROOT / FOLDERS[kind])
        if environment.folder != main.folder:
            _base(environment)
        _packages(environment, kind)
        if environment.folder == main.folder:
            _project(environment)


def main(arguments: list[str]) -> int:
    """The command line. Returns the exit status."""
    if not arguments or not set(arguments) <= set(FOLDERS):
        print(f"usage: python3.11 requirements/install.py {'|'.join(FOLDERS)} ...", file=sys.stderr)
        return 2
    if sys.version_info[:2] != (3, 11):
        print(
            f"Myriad runs on Python 3.11; this is {sys.version.split()[0]} ({sys.executable}).\n"
            "Install it (on Debian and Ubuntu: apt-get install python3.11 python3.11-venv),\n"
            "or name it: make up PYTHON=/path/to/python3.11",
            file=sys.stderr,
        )
        return 1
    try:
        with _alone():
            install(arguments)
    except InstallError as error:
        print(f"\nrequirements/install.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nrequirements/install.py: interrupted; run it again to go on.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

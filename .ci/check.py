"""Everything `make check` looks at that is not a test: style, types, imports, contracts, files made from others.

Runs every check, shows what failed, and writes nothing into the tree. Run from an environment made with
`requirements/install.py dev`. `python .ci/check.py NAME ...` runs only those.
"""

import filecmp
import os
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
SITE = Path(sysconfig.get_path("purelib"))


class CheckFailed(Exception):
    """Something is not as it should be. The message says what, and what to do."""


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """Runs a program of this environment. Returns its output.

    Raises:
        CheckFailed: it failed; the message is what it said.
    """
    name, *arguments = (str(part) for part in command)
    program = name if name.startswith("/") else str(BIN / name)
    done = subprocess.run([program, *arguments], cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CheckFailed((done.stdout + done.stderr).strip() or f"{name} failed with exit status {done.returncode}")
    return done.stdout


def style() -> None:
    """Ruff: what STYLE asks for."""
    run("ruff", "check", "--quiet", ".")


def layout() -> None:
    """Ruff: how lines are broken."""
    try:
        run("ruff", "format", "--check", "--quiet", ".")
    except CheckFailed as error:
        raise CheckFailed(f"{error}\nwrite it with: .venv/bin/ruff format .") from None


def types() -> None:
    """mypy, strict."""
    run("mypy", "services", "examples", "requirements", ".ci", "envoy", "docs/render.py", "protos/generate.py")


def imports() -> None:
    """Imports go one way."""
    run("lint-imports")


def contracts() -> None:
    """buf: names, comments; and nothing a client relies on was taken away since main."""
    with tempfile.TemporaryDirectory() as folder:
        now = _image(ROOT / "protos", Path(folder) / "now.binpb")
        run("buf", "lint", now, "--config", "protos/buf.yaml", "--path", "myriad")
        if _checkout_main(Path(folder) / "main"):
            before = _image(Path(folder) / "main" / "protos", Path(folder) / "before.binpb")
            run("buf", "breaking", now, "--against", before, "--config", "protos/buf.yaml", "--path", "myriad")


def _checkout_main(folder: Path) -> bool:
    """Puts main's protos into `folder`. False: there is no main, or it has none."""
    for branch in ("origin/main", "main"):
        archive = subprocess.run(
            ["git", "archive", branch, "protos/myriad"], cwd=ROOT, capture_output=True, check=False
        )
        if archive.returncode == 0:
            with tarfile.open(fileobj=BytesIO(archive.stdout)) as tar:
                tar.extractall(folder, filter="data")
            return True
    return False


def _image(protos: Path, image: Path) -> Path:
    includes = [f"-I{path}" for path in (protos, SITE, SITE / "grpc_tools" / "_proto")]
    sources = sorted(str(path.relative_to(protos)) for path in (protos / "myriad").rglob("*.proto"))
    options = ["--include_imports", "--include_source_info", f"--descriptor_set_out={image}"]
    run("python", "-m", "grpc_tools.protoc", *includes, *options, *sources, cwd=protos)
    return image


def generated() -> None:
    """protos/gen is what the protos make."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "protos"
        copy.mkdir()
        (copy / "myriad").symlink_to(ROOT / "protos" / "myriad")
        (copy / "generate.py").write_bytes((ROOT / "protos" / "generate.py").read_bytes())
        run("python", copy / "generate.py", "code")
        different = sorted(_different(copy / "gen", ROOT / "protos" / "gen"))
    if different:
        raise CheckFailed("\n".join(different) + "\nwrite them with: make gen")


def _different(made: Path, kept: Path) -> Iterator[str]:
    """Files that are in only one of two folders, or not the same in both."""
    names = {
        path.relative_to(folder)
        for folder in (made, kept)
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    for name in names:
        pair = (made / name, kept / name)
        if not all(path.exists() for path in pair) or not filecmp.cmp(*pair, shallow=False):
            yield str(kept.relative_to(ROOT) / name)


def edge() -> None:
    """envoy/envoy.yaml is what its makers make, and Envoy takes it."""
    try:
        run("python", "envoy/render.py", "--check")
    except CheckFailed as error:
        raise CheckFailed(f"{error}\nwrite it with: make gen") from None
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        moved = {
            "/etc/envoy/descriptors.pb": ROOT / "envoy" / "descriptors.pb",
            "/etc/envoy": here,
            "/run/secrets": here,
        }
        for path in (ROOT / "envoy").glob("*.yaml"):
            text = path.read_text()
            for before, now in moved.items():
                text = text.replace(before, str(now))
            (here / path.name).write_text(text)
        (here / "jwks").mkdir()
        (here / "jwks" / "jwks.json").write_text("{}")
        run("envoy", "--mode", "validate", "--log-level", "error", "-c", here / "envoy.yaml")


def configuration() -> None:
    """docs/configuration.md lists what the services read."""
    try:
        run("python", "docs/render.py", "--check")
    except CheckFailed as error:
        raise CheckFailed(f"{error}\nwrite it with: make gen") from None


def manifests() -> None:
    """Every kustomization renders."""
    for kustomization in sorted((ROOT / "k8s").rglob("kustomization.yaml")):
        if "components" not in kustomization.relative_to(ROOT).parts:
            run("kubectl", "kustomize", kustomization.parent)


CHECKS: tuple[Callable[[], None], ...] = (
    style,
    layout,
    types,
    imports,
    contracts,
    generated,
    configuration,
    edge,
    manifests,
)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _tried(check: Callable[[], None]) -> tuple[CheckFailed | None, float]:
    """What a check found wrong, and how many seconds it took."""
    began = time.monotonic()
    try:
        check()
    except CheckFailed as error:
        return error, time.monotonic() - began
    return None, time.monotonic() - began


def main(names: list[str]) -> int:
    """Runs the checks of these names, or all, as many at once as there are processors. Returns the exit status."""
    by_name = {check.__name__: check for check in CHECKS}
    if not set(names) <= set(by_name):
        sys.stderr.write(f"usage: python .ci/check.py [{'|'.join(by_name)}] ...\n")
        return 2
    failed = []
    with ThreadPoolExecutor(os.cpu_count()) as at_once:
        wanted = names or list(by_name)
        for name, (wrong, seconds) in zip(wanted, at_once.map(_tried, (by_name[each] for each in wanted)), strict=True):
            if wrong is not None:
                failed.append(name)
            _say(f"{name}: good ({seconds:.1f} s)" if wrong is None else f"{name}: FAILED\n{wrong}\n")
    _say(f"failed: {', '.join(failed)}" if failed else "all good")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

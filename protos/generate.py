"""Generates code from the protos. One file, run by path, so that an image can use it before anything is installed.

`python protos/generate.py code` writes protos/gen, which is committed. `descriptors` writes envoy/descriptors.pb, which
Envoy's transcoder reads. `validate` puts buf/validate into this environment: no wheel carries validate.proto, but the
source package of protovalidate 1.2.0 does, pinned by its hash in requirements/validate.txt.
"""

import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from pathlib import Path

PROTOS = Path(__file__).resolve().parent
ROOT = PROTOS.parent
SITE = Path(sysconfig.get_path("purelib"))
VALIDATE = "upstream/proto/buf/validate/validate.proto"


def _protoc(*arguments: str) -> None:
    """Runs protoc over our protos; google/api and buf/validate are found in the environment."""
    import grpc_tools  # only in the development environments

    sources = sorted(str(path.relative_to(PROTOS)) for path in (PROTOS / "myriad").rglob("*.proto"))
    includes = [PROTOS, SITE, Path(grpc_tools.__file__).parent / "_proto"]
    command = [sys.executable, "-m", "grpc_tools.protoc", *(f"-I{path}" for path in includes), *arguments, *sources]
    # protoc finds protoc-gen-mypy_grpc beside the interpreter.
    subprocess.run(command, check=True, env={"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"})


def code() -> None:
    """Writes protos/gen."""
    out = PROTOS / "gen"
    out.mkdir(exist_ok=True)
    plain = [f"--{kind}={out}" for kind in ("python_out", "pyi_out", "grpc_python_out")]
    _protoc(*plain, f"--mypy_grpc_out=quiet:{out}")


def descriptors() -> None:
    """Writes envoy/descriptors.pb, with google.rpc's error details: without them a refused stream has no body."""
    details = "google/rpc/error_details.proto"
    kept = ROOT / "envoy" / "descriptors.pb"
    with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
        made = Path(folder) / kept.name
        _protoc("--include_imports", f"--descriptor_set_out={made}", details)
        made.replace(kept)  # at once: an Envoy that starts meanwhile reads the one or the other


def validate() -> None:
    """Puts buf/validate/validate.proto and its generated module into this environment."""
    import grpc_tools

    with tempfile.TemporaryDirectory() as folder:
        # fmt: off
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-build-isolation", "--require-hashes",
             "--no-binary", ":all:", "-r", str(ROOT / "requirements" / "validate.txt"), "-d", folder],
            check=True,
        )
        # fmt: on
        (package,) = Path(folder).glob("*.tar.gz")
        with tarfile.open(package) as archive:
            (member,) = (m for m in archive.getmembers() if m.name.endswith(VALIDATE))
            source = archive.extractfile(member)
            assert source is not None
            target = SITE / "buf" / "validate" / "validate.proto"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read())
    includes = [SITE, Path(grpc_tools.__file__).parent / "_proto"]
    outputs = [f"--python_out={SITE}", f"--pyi_out={SITE}"]
    command = [sys.executable, "-m", "grpc_tools.protoc", *(f"-I{path}" for path in includes), *outputs]
    subprocess.run([*command, "buf/validate/validate.proto"], check=True)


if __name__ == "__main__":
    steps = {"code": code, "descriptors": descriptors, "validate": validate}
    if len(sys.argv) < 2 or not set(sys.argv[1:]) <= set(steps):
        sys.exit(f"usage: python protos/generate.py {'|'.join(steps)} ...")
    for name in sys.argv[1:]:
        steps[name]()

"""Starts Triton from the nvidia-pytriton wheel, whose Python package is never imported."""

import json
import secrets
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from services.dev.engines import Launch

# Asked of the models' interpreter: the services' own has neither the wheel nor numpy 1.
_LAYOUT = "import json, sysconfig as s; print(json.dumps([s.get_path('purelib'), s.get_config_var('LIBDIR')]))"
_PYTHON = "3.11"


def launch(
    *,
    python: Path,
    repository: Path,
    work: Path,
    grpc_port: int,
    metrics_port: int,
    models: Sequence[str],
    http_port: int | None = None,
) -> Launch:
    """Returns how to start a Triton that serves `models` on 127.0.0.1.

    It is ready when `grpc.health.v1.Health/Check` answers SERVING: all models are loaded. A model that cannot be
    loaded ends the process.

    Args:
        python: The interpreter of the environment locked in requirements/triton.txt; it runs the models, too.
        repository: The model repository.
        work: A folder of this server's own; the backend is laid out in it, replacing what was there.
        grpc_port: The port of inference and health.
        metrics_port: The port of Prometheus metrics, at /metrics.
        models: Names of the models to load; the others in the repository stay out.
        http_port: The port of Triton's HTTP endpoint; None leaves it off, as nothing here needs it.

    Raises:
        FileNotFoundError: the environment lacks Triton, or the repository a model.
        subprocess.CalledProcessError: `python` is no working interpreter.
    """
    for model in models:
        if not (repository / model / "config.pbtxt").is_file():
            raise FileNotFoundError(f"no model {model} in {repository}")
    asked = subprocess.run([python, "-c", _LAYOUT], check=True, capture_output=True, text=True)
    packages, libraries = (Path(entry) for entry in json.loads(asked.stdout))
    server = packages / "pytriton" / "tritonserver"
    if not server.is_dir():
        raise FileNotFoundError(f"no Triton in {packages}: install requirements/triton.txt")
    _lay_out_backend(server, work / "backends" / "python")
    # Two servers with one prefix would remove each other's shared memory; the port is this one's alone.
    prefix = f"myriad_triton_{grpc_port}_"
    for region in Path("/dev/shm").glob(f"{prefix}*"):
        # Left by one that was killed.
        region.unlink()
    return Launch(
        argv=(
            str(server / "bin" / "tritonserver"),
            f"--model-repository={repository}",
            f"--backend-directory={work / 'backends'}",
            "--model-control-mode=explicit",
            # A config.pbtxt says all: else each model's process is started twice, once only to be asked for the rest.
            "--disable-auto-complete-config",
            *(f"--load-model={model}" for model in models),
            *_endpoints(grpc_port, http_port, metrics_port),
            f"--backend-config=python,shm-region-prefix-name={prefix}",
            # The default of 30 s is short for a model that loads while everything else on the machine starts.
            "--backend-config=python,stub-timeout-seconds=120",
            "--log-info=false",
            # Memory for copies to a GPU; without one, reserving it fails with a warning.
            "--pinned-memory-pool-byte-size=0",
        ),
        env={
            "LD_LIBRARY_PATH": f"{packages / 'nvidia_pytriton.libs'}:{libraries}",
            # The backend's stub looks here for python3, and takes its packages from the environment that belongs to it.
            "PATH": f"{python.parent}:/usr/local/bin:/usr/bin:/bin",
            # Packages beside the environment's (a developer's own numpy) would come first otherwise.
            "PYTHONNOUSERSITE": "1",
            "PYTHONPATH": "",
        },
        # It keeps nothing, and its own way out takes two seconds: it looks once a second whether its models are gone.
        stop_grace_s=0.0,
        leaves=f"/dev/shm/{prefix}*",
    )


def _endpoints(grpc_port: int, http_port: int | None, metrics_port: int) -> tuple[str, ...]:
    http: tuple[str, ...] = ("--allow-http=false",)
    if http_port is not None:
        http = ("--http-address=127.0.0.1", f"--http-port={http_port}", f"--http-restricted-api={_locked()}")
    return (
        "--grpc-address=127.0.0.1",
        f"--grpc-port={grpc_port}",
        f"--grpc-restricted-protocol={_locked()}",
        *http,
        "--metrics-address=127.0.0.1",
        f"--metrics-port={metrics_port}",
        "--allow-gpu-metrics=false",
    )


def _locked() -> str:
    """Shuts what no client of ours uses behind a header that nobody knows: whoever loads a model runs code."""
    return f"model-repository,shared-memory,trace,logging:lock={secrets.token_hex(16)}"


def _lay_out_backend(server: Path, backend: Path) -> None:
    """Puts backend and stub into one folder, where Triton expects them; the wheel keeps them apart."""
    shutil.rmtree(backend, ignore_errors=True)
    backend.mkdir(parents=True)
    stub = server / "python_backend_stubs" / _PYTHON / "triton_python_backend_stub"
    for source in (server / "backends" / "python" / "libtriton_python.so", stub):
        # Copies: both find their libraries by a path from where they lie, or by LD_LIBRARY_PATH, and a link is neither.
        shutil.copy(source, backend)
    shutil.copy(server / "backends" / "python" / "triton_python_backend_utils.py", backend)

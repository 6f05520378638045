"""The environments: steps are done once, again after a change, and an interrupted one is taken up."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from services.kit.topology import SERVICES

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def install() -> ModuleType:
    spec = importlib.util.spec_from_file_location("install", ROOT / "requirements" / "install.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def environment(install: ModuleType, tmp_path: Path):
    return install.Environment(tmp_path)


def test_step_is_done_once(environment) -> None:
    done: list[str] = []
    for _ in range(2):
        environment.step("packages", "digest", lambda: done.append("packages"), say="packages")
    assert done == ["packages"]


def test_step_is_done_again_when_its_input_changed(environment) -> None:
    done: list[str] = []
    for digest in ("one", "two"):
        environment.step("packages", digest, lambda: done.append("packages"), say="packages")
    assert done == ["packages", "packages"]


def test_interrupted_step_leaves_no_stamp(environment) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        environment.step("packages", "digest", interrupted, say="packages")
    assert environment.stamps() == {}


def test_fresh_step_forgets_every_other(environment) -> None:
    environment.step("packages", "digest", lambda: None, say="packages")
    environment.step("python", "digest", lambda: None, say="python", fresh=True)
    assert environment.stamps() == {"python": "digest"}


def test_broken_stamps_count_as_none(environment, tmp_path: Path) -> None:
    (tmp_path / "installed.json").write_text('{"python": ')
    assert environment.stamps() == {}


def test_digest_changes_with_content_and_with_name(install: ModuleType, tmp_path: Path) -> None:
    seen = set()
    for name, content in (("a", "1"), ("a", "2"), ("b", "2")):
        (tmp_path / name).write_text(content)
        seen.add(install.digest(tmp_path, name))
    assert len(seen) == 3


def test_pip_settings_reach_uv(install: ModuleType) -> None:
    said = "global.cert='/etc/ca.pem'\nglobal.index-url='https://mirror.example/simple'\n:env:.cert='/other.pem'\nnoise"
    settings = install.uv_settings({}, install.parse_pip_config(said))
    assert settings == {"UV_DEFAULT_INDEX": "https://mirror.example/simple", "SSL_CERT_FILE": "/other.pem"}


def test_settings_of_uv_win_over_those_of_pip(install: ModuleType) -> None:
    own = {"UV_DEFAULT_INDEX": "https://a.example", "SSL_CERT_FILE": "/a.pem", "PIP_CERT": "/b.pem"}
    assert install.uv_settings(own, {"index-url": "https://b.example", "cert": "/b.pem"}) == own


def test_wrong_arguments_are_refused(install: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert install.main([]) == 2
    assert install.main(["everything"]) == 2
    assert "runtime|dev|triton" in capsys.readouterr().err


def test_lock_files_name_no_host_and_hash_everything() -> None:
    files = sorted((ROOT / "requirements").glob("*.txt"))
    wanted = ("dev", "runtime", "triton", "bootstrap", *SERVICES)
    assert {f"{name}.txt" for name in wanted} <= {file.name for file in files}
    for file in files:
        text = file.read_text()
        assert "://" not in text, file.name
        pins = re.findall(r"^[A-Za-z0-9._-]+(?:\[[^\]]*\])?==[^\s\\]+", text, re.MULTILINE)
        requirements = re.findall(r"^[^\s#-].*", text, re.MULTILINE)
        assert len(pins) == len(requirements), file.name
        assert text.count("--hash=sha256:") >= len(pins), file.name


def test_every_lock_agrees_with_the_one_of_development() -> None:
    def versions(name: str) -> dict[str, str]:
        text = (ROOT / "requirements" / name).read_text()
        return dict(re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", text, re.MULTILINE))

    everything = versions("dev.txt")
    for name in ("runtime", *SERVICES):
        assert versions(f"{name}.txt").items() <= everything.items(), name

"""What `myriad up` was asked for survives being typed again by the process that stays in the background."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from services.dev import cli, detached
from services.dev.command import Failed
from services.dev.plan import Options
from services.dev.state import Folder


def understood(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> Options:
    """What the command line makes of its arguments."""
    asked: list[Options] = []

    def keep(_console: object, folder: Folder, options: Options) -> int:
        assert folder.path == Path("/w")
        asked.append(options)
        return 0

    monkeypatch.setattr(detached, "up_detached", keep)
    done = CliRunner().invoke(cli.make_app(), ["--work", "/w", "up", "--detach", *arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return asked[0]


@pytest.mark.parametrize(
    "options",
    [
        Options(),
        Options(vertical=True, sim=True, auth=True, tls=True),
        Options(auth=True, replicas={"nlu": 2, "memory": 3}, cors=("http://a:1", "http://b:2")),
    ],
)
def test_options_are_typed_as_they_are_read(monkeypatch: pytest.MonkeyPatch, options: Options) -> None:
    assert understood(monkeypatch, options.arguments()) == options


def test_replicas_may_be_given_in_one_option(monkeypatch: pytest.MonkeyPatch) -> None:
    assert understood(monkeypatch, ["--replicas", "nlu=2,memory=3"]).replicas == {"nlu": 2, "memory": 3}


@pytest.mark.parametrize("given", ["nlu", "nlu=", "nlu=two", "nlu=-1", ""])
def test_replicas_without_a_number_are_refused(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    with pytest.raises(Failed, match="SERVICE=N"):
        understood(monkeypatch, ["--replicas", given])

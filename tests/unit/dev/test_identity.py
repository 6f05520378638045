"""Keys and tokens of a stack that asks who calls, and who the command line is towards it."""

import json
import stat
import time
from pathlib import Path

import pytest
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from services.dev import identity, login
from services.dev.edge import Edge, edge_of
from services.dev.login import NotLoggedIn
from services.dev.state import Folder, StackState
from services.kit.call import Principal

ADA = Principal("acme", "ada", frozenset({"clerk", "auditor"}))


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    made = Folder(tmp_path / "work")
    made.make()
    identity.make_keys(made.keys)
    return made


def claims(folder: Folder, token: str) -> dict[str, object]:
    keys = KeySet.import_key_set(json.loads((folder.keys / "jwks.json").read_text()))
    return dict(jwt.decode(token, keys, algorithms=["ES256"]).claims)


def test_a_token_says_who_it_names_and_is_signed_by_the_published_key(folder: Folder) -> None:
    before = time.time()
    said = claims(folder, identity.mint(folder.keys, ADA, 60))
    assert (said["iss"], said["aud"]) == ("myriad-dev", "myriad")
    assert (said["tenant"], said["sub"], said["roles"]) == ("acme", "ada", "auditor clerk")
    assert 50 < float(str(said["exp"])) - before <= 61
    assert float(str(said["exp"])) - float(str(said["iat"])) == 60


def test_a_token_of_another_folder_does_not_fit(folder: Folder, tmp_path: Path) -> None:
    identity.make_keys(tmp_path / "other")
    with pytest.raises((JoseError, ValueError)):
        claims(folder, identity.mint(tmp_path / "other", ADA, 60))


def test_keys_are_kept_and_only_their_owner_reads_them(folder: Folder) -> None:
    before = {file.name: file.read_text() for file in folder.keys.iterdir()}
    identity.make_keys(folder.keys)
    assert {file.name: file.read_text() for file in folder.keys.iterdir()} == before
    assert set(before) == {"signing.json", "jwks.json", "mesh.token"}
    assert stat.S_IMODE(folder.keys.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.keys.iterdir()} == {0o600}


def test_the_published_set_holds_nothing_private(folder: Folder) -> None:
    (key,) = json.loads((folder.keys / "jwks.json").read_text())["keys"]
    assert "d" not in key
    assert {"kid", "alg", "crv", "x", "y"} <= set(key)


def test_a_published_set_that_was_lost_is_made_of_the_same_key(folder: Folder) -> None:
    before = (folder.keys / "jwks.json").read_text()
    (folder.keys / "jwks.json").unlink()
    identity.make_keys(folder.keys)
    assert (folder.keys / "jwks.json").read_text() == before


def test_who_logs_in_is_remembered_for_its_owner_only(folder: Folder) -> None:
    assert login.logged_in(folder) is None
    made = login.log_in(folder, ADA, 60)
    assert login.logged_in(folder) == made
    assert made.principal == ADA
    assert stat.S_IMODE(folder.credentials.stat().st_mode) == 0o600
    assert claims(folder, made.token)["sub"] == "ada"


def test_a_token_that_has_ended_is_none(folder: Folder) -> None:
    login.log_in(folder, ADA, 60)
    known = json.loads(folder.credentials.read_text())
    folder.credentials.write_text(json.dumps({**known, "expires": time.time() - 1}))
    assert login.logged_in(folder) is None
    with pytest.raises(NotLoggedIn, match="login"):
        login.credentials_for(folder, None, None)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"token": 1}', '{"roles": 3}'])
def test_credentials_that_are_broken_are_none(folder: Folder, text: str) -> None:
    folder.credentials.write_text(text)
    assert login.logged_in(folder) is None


def test_to_be_another_one_logs_in_again(folder: Folder) -> None:
    login.log_in(folder, ADA, 60)
    assert login.credentials_for(folder, None, "ada").principal == ADA
    with pytest.raises(NotLoggedIn, match="--tenant globex --user ada"):
        login.credentials_for(folder, "globex", None)


def test_without_keys_nobody_logs_in(tmp_path: Path) -> None:
    with pytest.raises(NotLoggedIn, match="up --auth"):
        login.log_in(Folder(tmp_path), ADA, 60)


@pytest.mark.parametrize("ttl_s", [0, -1, 24 * 3600 + 1])
def test_no_token_lives_longer_than_envoy_allows(folder: Folder, ttl_s: int) -> None:
    with pytest.raises(ValueError, match="24 h"):
        login.log_in(folder, ADA, ttl_s)
    assert login.logged_in(folder) is None


@pytest.mark.parametrize(("text", "expected"), [("90", 90), ("90s", 90), ("30m", 1800), ("8h", 28800)])
def test_a_time_is_read(text: str, expected: int) -> None:
    assert login.seconds(text) == expected


@pytest.mark.parametrize("text", ["", "h", "-1s", "1d", "1.5h", "1 h", "9999999999s", "٣s"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be a time"):
        login.seconds(text)


@pytest.mark.parametrize("role", ["", "a b", "x" * 65, "é"])
def test_a_role_that_would_be_two_or_none_is_refused(role: str) -> None:
    with pytest.raises(ValueError, match="a role is"):
        login.roles_of([role])


def test_the_command_line_shows_its_token_only_to_a_stack_that_asks(folder: Folder) -> None:
    made = login.log_in(folder, ADA, 60)
    state = StackState("mark", 1, "1@boot", False, addresses={"envoy": "127.0.0.1:8080"})
    assert edge_of(folder, state, "globex", None) == Edge(
        "127.0.0.1:8080", Principal("globex", "dev", frozenset({"admin"}))
    )
    state.auth, state.tls = True, True
    assert edge_of(folder, state, None, None) == Edge("127.0.0.1:8080", ADA, made.token, folder.keys / "ca.pem")


def test_inside_a_command_works_for_whom_it_names_or_who_is_logged_in(folder: Folder) -> None:
    usual = Principal("dev", "dev", frozenset({"admin"}))
    assert login.principal_for(folder, None, None, auth=True) == usual
    login.log_in(folder, ADA, 60)
    assert login.principal_for(folder, None, None, auth=False) == usual
    assert login.principal_for(folder, None, None, auth=True) == ADA
    assert login.principal_for(folder, "globex", None, auth=True) == Principal("globex", "ada", frozenset({"admin"}))

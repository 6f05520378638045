import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.kit.call import Principal
from services.kit.keys import SessionKeys, TenantKeys, UserKeys, encode, read_session

ids = st.text(st.characters(exclude_categories=()), min_size=1, max_size=200)
HOSTILE = re.compile(r"[^A-Za-z0-9_.~@%-]")


def test_an_empty_id_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        encode("")
    with pytest.raises(ValueError, match="empty"):
        UserKeys(Principal("", "user"))
    with pytest.raises(ValueError, match="empty"):
        UserKeys(Principal("tenant", ""))
    with pytest.raises(ValueError, match="empty"):
        SessionKeys(Principal("tenant", "user"), "")


@pytest.mark.parametrize("text", ["acme", "alice@example.com", "0c2f-77_x.1~", "A" * 128])
def test_a_common_id_stays_readable(text: str) -> None:
    assert encode(text) == text


@given(ids)
@example("{}:*\n /?[]\\\x00\ud800\U0001f600")
def test_an_encoded_id_has_no_character_that_means_something(text: str) -> None:
    assert not HOSTILE.search(encode(text))


@given(ids, ids)
@example("%", "%25")
@example("a", "a ")
@example("x" * 129, "%-" + "0" * 64)
@example("é", "é")
def test_different_ids_stay_different(one: str, other: str) -> None:
    assert (encode(one) == encode(other)) == (one == other)


@given(ids)
def test_an_encoded_id_is_short(text: str) -> None:
    assert len(encode(text * 100)) <= 128


@given(ids, ids, ids)
def test_the_tag_is_what_stands_in_the_only_braces(tenant: str, user: str, session: str) -> None:
    principal = Principal(tenant, user)
    tags = {
        SessionKeys(principal, session).log(3): f"{encode(tenant)}/{encode(session)}",
        UserKeys(principal).created("r"): f"{encode(tenant)}/{encode(user)}",
        TenantKeys(principal).agent("a"): encode(tenant),
    }
    for key, tag in tags.items():
        assert re.fullmatch(r"myriad:\{([^{}]+)\}:[^{}]+", key)
        assert re.findall(r"\{(.*?)\}", key) == [tag]


@given(ids, ids, ids, ids)
def test_tenants_never_meet(tenant: str, other: str, user: str, session: str) -> None:
    if tenant == other:
        return
    mine, theirs = Principal(tenant, user), Principal(other, user)
    assert SessionKeys(mine, session).session != SessionKeys(theirs, session).session
    assert UserKeys(mine).sessions != UserKeys(theirs).sessions
    assert TenantKeys(mine).agents != TenantKeys(theirs).agents


def test_a_session_and_a_user_of_the_same_name_share_no_key() -> None:
    principal = Principal("tenant", "same")
    of_session, of_user = SessionKeys(principal, "same"), UserKeys(principal)
    keys = [of_session.session, of_session.lease, of_session.history, of_session.requests, of_session.request_times]
    keys += [of_session.log(1), of_session.log(11), of_session.tool_call(1, "u", "t", "k")]
    keys += [of_user.sessions, of_user.created("1"), of_user.reply("created", "1")]
    assert len(set(keys)) == len(keys)


@given(st.text(min_size=1, max_size=200), st.text(min_size=1, max_size=200))
@example("acme", "s1")
@example("{t}/x:session", "%7B")
@example("a" * 129, "s1")
def test_a_sessions_key_says_whose_it_is_unless_a_digest_stands_in_it(tenant: str, session_id: str) -> None:
    read = read_session(SessionKeys(Principal(tenant, "alice"), session_id).session)
    digested = any(encode(each).startswith("%-") for each in (tenant, session_id))
    assert read == (None if digested else (tenant, session_id))


@pytest.mark.parametrize(
    "key", ["", "session", "myriad:{a/b}:work", "myriad:{a}:session", "myriad:{a/b/c}:session", "myriad:{a/b}:session "]
)
def test_another_key_is_no_sessions(key: str) -> None:
    assert read_session(key) is None

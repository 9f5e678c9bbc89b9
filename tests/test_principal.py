"""Names are clean, and a scope can be narrowed but never widened."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memos_core.errors import InvalidName, ScopeConflict
from memos_core.principal import MAX_NAME_CHARS, Principal, check_name

BAD = [
    "",
    " a",
    "a ",
    "a/b",
    "a\\b",
    "..",
    ".",
    "a\x00b",
    "a\nb",
    "a\u200bb",
    "a\u202eb",
    "\ud800",
    "x" * 129,
    None,
    7,
    b"a",
]


@pytest.mark.parametrize("name", BAD)
def test_malformed_names_are_refused(name):
    with pytest.raises(InvalidName):
        Principal(name)


@pytest.mark.parametrize("name", [bad for bad in BAD if bad is not None])
@pytest.mark.parametrize("what", ["agent", "session"])
def test_malformed_agents_and_sessions_are_refused(name, what):
    with pytest.raises(InvalidName):
        Principal("ada", **{what: name})


@pytest.mark.parametrize("name", ["ada", "Ada Lovelace", "ユーザー", "a.b-c_d@e", "x" * MAX_NAME_CHARS, "user:1", "😀"])
def test_ordinary_names_are_kept(name):
    assert Principal(name).namespace == name


def test_two_spellings_of_one_name_are_one_user():
    composed, decomposed = "Zoë", unicodedata.normalize("NFD", "Zoë")
    assert Principal(composed) == Principal(decomposed)


@given(st.text(max_size=140))
def test_a_name_is_refused_or_stays_as_it_is_when_checked_again(name):
    try:
        checked = check_name(name, "user")
    except InvalidName:
        return
    assert check_name(checked, "user") == checked


def test_narrowing_binds_and_never_rebinds():
    ada = Principal("ada")
    bound = ada.narrow(agent="scout").narrow(session="S1")
    assert bound == Principal("ada", "scout", "S1")
    assert bound.narrow() == bound.narrow(agent="scout", session="S1") == bound
    with pytest.raises(ScopeConflict):
        bound.narrow(session="S2")
    with pytest.raises(ScopeConflict):
        bound.narrow(agent="other")


names = st.sampled_from(["a", "b"])
maybe = st.none() | names


@given(names, maybe, maybe, names, maybe, maybe)
def test_narrowing_never_shows_more(user, agent, session, owner, cube_agent, cube_session):
    wide, narrow = Principal(user), Principal(user, agent, session)
    cube = {"user": owner, "agent": cube_agent, "session": cube_session}
    assert not narrow.sees(**cube) or wide.sees(**cube)
    assert wide.sees(**cube) == (user == owner)
    if user == owner and cube_agent is None and cube_session is None:
        assert narrow.sees(**cube)

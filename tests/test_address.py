"""Saved program state finds the memory that it belongs to."""

from pathlib import Path

import pytest

from memos_core import Address, MemOS, address_of, scope_at
from memos_core.errors import InvalidName, VaultError
from memos_core.testing import HashEmbedder


def test_an_address_is_plain_data_and_leads_back(tmp_path: Path) -> None:
    with MemOS.open(tmp_path / "memory", embedder=HashEmbedder()) as memos:
        scout = memos.scope(user="ada", agent="scout", session="monday")
        cube_id = scout.add("One.").cube_id
        address = Address.model_validate_json(address_of(scout).model_dump_json())
        again = scope_at(address)
        assert (again.user, again.agent, again.session) == ("ada", "scout", "monday")
        assert again._layers is scout._layers  # the open handle, with its embedder and engine
        assert cube_id is not None
        assert again.get(cube_id).text == "One."


def test_a_vault_that_nobody_holds_open_is_opened_once(tmp_path: Path) -> None:
    with MemOS.open(tmp_path / "memory", embedder=None) as memos:
        memos.scope(user="ada").add("One.")
        address = address_of(memos.scope(user="ada"))
    again = scope_at(address)
    assert again.count() == 1
    assert scope_at(address)._layers is again._layers


def test_a_vault_that_is_gone_is_not_made_anew(tmp_path: Path) -> None:
    with pytest.raises(VaultError, match="no vault"):
        scope_at(Address(path=str(tmp_path / "nothing"), user="ada"))
    assert not (tmp_path / "nothing").exists()
    with MemOS.open(tmp_path / "memory", embedder=None), pytest.raises(InvalidName):
        scope_at(Address(path=str(tmp_path / "memory"), user="a/b"))

"""Many threads, users and adapters on one engine, through the chat models of both frameworks: no one gets another's."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from memos_core import HFEngine, MemOS, Scope
from memos_core.engine.location import BUNDLED
from memos_core.testing import HashEmbedder
from memos_langchain import ChatMemos
from memos_llamaindex import MemosLLM

CATS = ("Biscuit", "Rex", "Milo")
QUESTION = "What is my cat called?"


def adapter_files(folder: Path, seed: int) -> Path:
    """Return a folder with an adapter of PEFT's that changes what the reader says."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(BUNDLED["memos-reader"])
    wrapped = get_peft_model(model, LoraConfig(r=4, lora_alpha=4, target_modules=["q_proj", "v_proj", "o_proj"]))
    for name, weight in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=2.0)
    wrapped.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[tuple[Scope, str]]]:
    """Nine users with a cat and an adapter each."""
    folder = tmp_path_factory.mktemp("adapters")
    engine = HFEngine.from_pretrained("memos-reader", device="cpu")
    memos = MemOS.open(folder / "memory", engine=engine, embedder=HashEmbedder())
    files = [adapter_files(folder / str(seed), seed) for seed in range(3)]
    made = []
    for number in range(9):
        scope = memos.scope(user=f"user-{number}")
        scope.add(f"My cat is called {CATS[number // 3]}.")
        made.append((scope, scope.adapters.load(files[number % 3]).id))
    yield made
    memos.close()
    engine.close()


def langchain_says(scope: Scope, adapter: str | None) -> str:
    llm = ChatMemos(engine=scope.engine, memory=scope, inject="kv", max_tokens=8)
    return str(llm.invoke(QUESTION, adapter=adapter).content)


def llamaindex_says(scope: Scope, adapter: str | None) -> str:
    llm = MemosLLM(engine=scope.engine, memory=scope, inject="kv", max_tokens=8)
    with llm.using(adapter=adapter):
        return llm.complete(QUESTION).text


# PEFT asks transformers for an attribute by its old name, and warns of what it cannot look up offline.
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_fifty_threads_with_users_and_adapters_of_their_own_do_not_mix(users: list[tuple[Scope, str]]) -> None:
    alone = [langchain_says(*user) for user in users]
    assert alone != [langchain_says(scope, None) for scope, _ in users]
    assert len(set(alone)) > 3
    said: dict[int, tuple[str, str]] = {}

    def ask(number: int) -> None:
        user = users[number % len(users)]
        said[number] = langchain_says(*user), llamaindex_says(*user)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said == {number: (alone[number % len(users)],) * 2 for number in range(50)}

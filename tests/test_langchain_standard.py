"""LangChain's own suites for integrations, over real memory and a tiny random model."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.retrievers import BaseRetriever
from langchain_tests.integration_tests import ChatModelIntegrationTests, RetrieversIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from memos_core import MemOS, Scope
from memos_core.engine import HFEngine
from memos_core.testing import HashEmbedder
from memos_core.testing.models import tiny_model
from memos_langchain import ChatMemos, MemosRetriever


class Parts:
    """What the suites' parameters refer to; made once for this module."""

    folders: tuple[str, str]
    ada: Scope


@pytest.fixture(scope="module", autouse=True)
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    root = tmp_path_factory.mktemp("langchain")
    Parts.folders = (saved(root / "first", seed=0), saved(root / "second", seed=1))
    engine = HFEngine.from_pretrained(Parts.folders[0])
    with MemOS.open(root / "memory", engine=engine, embedder=HashEmbedder()) as memos:
        Parts.ada = memos.scope(user="ada")
        Parts.ada.add_many([f"My cat number {number} is called Biscuit {number}." for number in range(6)])
        yield
    engine.close()


def saved(folder: Path, seed: int) -> str:
    model, tokenizer = tiny_model(seed=seed)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


class TestChatMemosUnit(ChatModelUnitTests):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatMemos

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": Parts.folders[0]}


class TestChatMemosIntegration(ChatModelIntegrationTests):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatMemos

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"memory": Parts.ada, "model": Parts.folders[0], "max_tokens": 96, "inject": "kv"}

    @property
    def standard_chat_model_params(self) -> dict[str, Any]:
        return {"temperature": 0, "timeout": 60, "stop": [], "max_retries": 2}

    @property
    def model_override_value(self) -> str | None:
        return Parts.folders[1]

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supported_usage_metadata_details(self) -> Any:
        return {"invoke": ["cache_read_input"], "stream": ["cache_read_input"]}

    def invoke_with_cache_read_input(self, *, stream: bool = False) -> AIMessage:
        model = ChatMemos(memory=Parts.ada, max_tokens=4, inject="kv")
        model.invoke("Which cat is Biscuit 3?")
        if not stream:
            return model.invoke("Which cat is Biscuit 3?")
        first, *rest = model.stream("Which cat is Biscuit 3?")
        for chunk in rest:
            first += chunk
        return first

    # What needs a model that understands the question; everything else passes with random weights

    @pytest.mark.xfail(reason="needs a capable model: the argument must be the number that the question names")
    def test_tool_calling(self, model: BaseChatModel) -> None:
        super().test_tool_calling(model)

    @pytest.mark.xfail(reason="needs a capable model: the argument must be the number that the question names")
    async def test_tool_calling_async(self, model: BaseChatModel) -> None:
        await super().test_tool_calling_async(model)

    @pytest.mark.xfail(reason="needs a capable model: nothing but the question asks for the call")
    def test_agent_loop(self, model: BaseChatModel) -> None:
        super().test_agent_loop(model)

    @pytest.mark.xfail(reason="needs a capable model: the argument must be the Chinese name that the question holds")
    def test_unicode_tool_call_integration(self, model: BaseChatModel, **options: Any) -> None:
        super().test_unicode_tool_call_integration(model, **options)


class TestMemosRetriever(RetrieversIntegrationTests):
    @property
    def retriever_constructor(self) -> type[BaseRetriever]:
        return MemosRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"memory": Parts.ada}

    @property
    def retriever_query_example(self) -> str:
        return "What is my cat called?"

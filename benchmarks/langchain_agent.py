"""An agent of LangChain that is asked twenty questions over some 2,000 tokens of memory, held in seven ways.

The facts are turns of the bundled conversation, in which the answers are marked. The model is the bundled reader, so
that answers are right or wrong; its times are those of a model of a million parameters, and only ratios mean anything.

- ``history``: the facts are messages of the conversation, as an agent without long-term memory has them.
- ``langmem``: LangMem's search tool over LangGraph's InMemoryStore with the same vectors, called before each question
  (the reader calls no tools); what it finds stands where ``text`` has its memories. Left out where it is not installed.
- ``text``, ``kv``: MemosMiddleware, the best memories for each question.
- ``lora``: the same after ``--adapters`` of the answering memories were distilled. What passes its gates leaves the
  prompt, the rest goes as text; the result says how many passed.
- ``all text``, ``all kv``: MemosMiddleware with room for everything, so that each prompt begins alike.

    python benchmarks/langchain_agent.py --threads 1 --out benchmarks/results/langchain_agent.json

Each way is one thread of an agent with a checkpointer, run ``--rounds`` times; rounds after the first find stored KV.
Nothing is remembered while it runs, so that each round meets the same memory.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, ModelRequest
from langchain_core.messages import HumanMessage, SystemMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.store.memory import InMemoryStore
from surroundings import surroundings

from memos_core import MemOS, Turn
from memos_core.engine import HFEngine
from memos_core.errors import GateFailed
from memos_core.interface.demo import DATA, BundledQuestion, bundled_questions, same_answer
from memos_core.operation.scheduler import MemScheduler, SchedulerSettings
from memos_core.render import NOTES_V1
from memos_langchain import ChatMemos, MemosEmbeddings, MemosMiddleware

Middlewares = Sequence[AgentMiddleware[Any, Any, Any]]


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="memos-reader")
    parser.add_argument("--memory", type=int, default=2000, help="tokens of memory")
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--k", type=int, default=8, help="memories recalled for a question")
    parser.add_argument("--adapters", type=int, default=3, help="memories to distil; 0 leaves the way with LoRA out")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="JSON file for the result; without it, it is only printed")
    return parser.parse_args()


@dataclass(frozen=True, slots=True)
class Asked:
    """One question and what answering it took."""

    right: bool
    prompt_tokens: int
    kv_tokens: int
    ttft_seconds: float
    seconds: float
    processor_seconds: float


class LangMemBefore(AgentMiddleware[Any, Any, Any]):
    """Puts what LangMem's search tool finds at the end of the system message, as MemosMiddleware does."""

    def __init__(self, store: InMemoryStore, k: int) -> None:
        super().__init__()
        from langmem import create_search_memory_tool

        self.search = create_search_memory_tool(namespace=("memories",), store=store)
        self.k = k

    def wrap_model_call(self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Any]) -> Any:
        found = json.loads(self.search.invoke({"query": request.messages[-1].text, "limit": self.k}))
        notes = "\n".join([NOTES_V1.heading, *(f"- {item['value']['content']}" for item in found)])
        return handler(request.override(system_message=SystemMessage(notes)))


def chosen_facts(questions: Sequence[BundledQuestion], count: Callable[[str], int], tokens: int) -> list[Turn]:
    """Return the turns that hold the answers, and others from the start of the conversation up to ``tokens``."""
    lines = (DATA / "conversation.jsonl").read_text(encoding="utf-8").splitlines()
    turns = [Turn(**json.loads(line)) for line in lines if line.strip()]
    needed = {ref for question in questions for ref in question.refs}
    left = tokens - sum(count(spoken(turn)) for turn in turns if turn.ref in needed)
    chosen = []
    for turn in turns:
        size = count(spoken(turn))
        if turn.ref in needed:
            chosen.append(turn)
        elif size <= left:
            chosen.append(turn)
            left -= size
    return chosen


def spoken(turn: Turn) -> str:
    """Return a turn as one line, as it stands in the notes."""
    day = turn.at.date().isoformat() if turn.at else ""
    return f"{turn.speaker}, {day}: {turn.text}"


class Bench:
    """The model, the facts in each of their homes, and the questions."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options = options
        self.engine = HFEngine.from_pretrained(options.model)
        self.questions = bundled_questions()[: options.turns]
        self.facts = chosen_facts(self.questions, self.engine.count_tokens, options.memory)
        self.memos = MemOS.open(folder, engine=self.engine, scheduler=MemScheduler(SchedulerSettings(min_share=0.0)))
        self.scope = self.memos.scope(user="bench")
        self.scope.add_many(self.facts)

    def ways(self) -> dict[str, tuple[Middlewares, list[HumanMessage]]]:
        """Return the middleware of each way, and the messages that its threads begin with."""
        few: dict[str, Any] = {"k": self.options.k, "remember": "none"}
        everything: dict[str, Any] = {"k": len(self.facts), "max_tokens": 2 * self.options.memory, "remember": "none"}
        ways: dict[str, tuple[Middlewares, list[HumanMessage]]] = {
            "history": ([], [HumanMessage(spoken(turn)) for turn in self.facts]),
            "text": ([MemosMiddleware(self.scope, inject="text", **few)], []),
            "kv": ([MemosMiddleware(self.scope, inject="kv", **few)], []),
            "all text": ([MemosMiddleware(self.scope, inject="text", **everything)], []),
            "all kv": ([MemosMiddleware(self.scope, inject="kv", **everything)], []),
        }
        if self.options.adapters:
            ways["lora"] = [MemosMiddleware(self.scope, inject="lora", **few)], []
        if find_spec("langmem"):
            ways["langmem"] = [LangMemBefore(self.langmem_store(), self.options.k)], []
        return ways

    def distil(self) -> dict[str, int]:
        """Distil memories that answer a question each; return how many were tried and how many passed their gates."""
        by_ref = {cube.ref: cube for cube in self.scope.list(limit=1000)}
        wanted = [by_ref[question.refs[0]] for question in self.questions if len(question.refs) == 1]
        tried, passed = wanted[: self.options.adapters], 0
        for cube in tried:
            with suppress(GateFailed):  # what fails stays text
                self.scope.transform(cube.id, to="parametric")
                passed += 1
        return {"tried": len(tried), "passed": passed}

    def langmem_store(self) -> InMemoryStore:
        embeddings = MemosEmbeddings()
        store = InMemoryStore(index={"embed": embeddings, "dims": 384, "fields": ["content"]})
        for number, turn in enumerate(self.facts):
            store.put(("memories",), str(number), {"content": spoken(turn)})
        return store

    def run(self, middleware: Middlewares, before: list[HumanMessage]) -> list[Asked]:
        """Ask all questions in one thread of a new agent."""
        llm = ChatMemos(engine=self.engine, max_tokens=32)
        agent = create_agent(llm, middleware=middleware, checkpointer=InMemorySaver())
        config: Any = {"configurable": {"thread_id": "bench"}}
        asked = []
        for number, question in enumerate(self.questions):
            messages = [*(before if number == 0 else []), HumanMessage(question.text)]
            started = time.perf_counter(), time.process_time()
            answer = agent.invoke({"messages": messages}, config)["messages"][-1]
            took = time.perf_counter() - started[0], time.process_time() - started[1]
            asked.append(self.measured(question, answer, *took))
        return asked

    def measured(self, question: BundledQuestion, answer: Any, seconds: float, processor_seconds: float) -> Asked:
        report = answer.response_metadata["memos"]
        return Asked(
            right=same_answer(answer.text, question.answer),
            prompt_tokens=report["prompt_tokens"],
            kv_tokens=report["memory_tokens"],
            ttft_seconds=report["ttft_seconds"],
            seconds=seconds,
            processor_seconds=processor_seconds,
        )


def summed(rounds: Sequence[Sequence[Asked]]) -> dict[str, Any]:
    """Return what a way took: the first round as it was, and of the later ones the best time for each question.

    The best, since the machine may be busy with other things; nothing makes a request faster than it is.
    """
    first, later = rounds[0], rounds[1:] or rounds
    questions = list(zip(*later, strict=True))
    return {
        "right": sum(asked.right for asked in first),
        "same_in_each_round": len({tuple(asked.right for asked in one) for one in rounds}) == 1,
        "prompt_tokens": sum(asked.prompt_tokens for asked in first),
        "kv_tokens": sum(asked.kv_tokens for asked in later[-1]),
        "computed_tokens": sum(asked.prompt_tokens - asked.kv_tokens for asked in later[-1]),
        "first_round_seconds": sum(asked.seconds for asked in first),
        "first_round_processor_seconds": sum(asked.processor_seconds for asked in first),
        "later_median_ttft_seconds": statistics.median(min(one.ttft_seconds for one in q) for q in questions),
        "later_seconds": sum(min(one.seconds for one in q) for q in questions),
        "later_processor_seconds": sum(min(one.processor_seconds for one in q) for q in questions),
    }


@contextmanager
def bench(options: argparse.Namespace) -> Iterator[Bench]:
    """Yield a benchmark over a vault in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        made = Bench(options, Path(folder))
        try:
            yield made
        finally:
            made.memos.close()
            made.engine.close()


def main() -> None:
    """Run all ways, one after the other in each round."""
    options = parse()
    warnings.simplefilter("ignore", DeprecationWarning)
    torch.set_num_threads(options.threads)
    with bench(options) as made:
        adapters = made.distil()
        ways = made.ways()
        made.run(*ways["text"])  # loads what every way shares; stores no KV
        rounds: dict[str, list[list[Asked]]] = {name: [] for name in ways}
        for _ in range(options.rounds):
            for name, (middleware, before) in ways.items():
                rounds[name].append(made.run(middleware, before))
        workload = {
            "turns": len(made.questions),
            "facts": len(made.facts),
            "memory_tokens": sum(made.engine.count_tokens(spoken(turn)) for turn in made.facts),
            "k": options.k,
            "rounds": options.rounds,
            "model": options.model,
            "data": "bundled conversation",
        }
        result = {
            **surroundings(workload),
            "adapters": adapters,
            "ways": {name: summed(rows) for name, rows in rounds.items()},
        }
    text = json.dumps(result, indent=2)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Evidence recall of MemOS and of other libraries, on the same questions and with the same MiniLM vectors.

    python benchmarks/recall.py --input CONVERSATIONS.json.gz [--input MORE.json.gz]

Writes recall@1, @5 and @10, MRR, and for each question the ranks of its evidence; no texts. The vectors of a file are
kept beside the results of an earlier run if ``--vectors`` names a file. ``--held-out`` names files that the shipped
weights were learned from: each of their users is asked with weights that never saw that user.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from peers import Chroma, Document, LangChainEnsemble, LlamaIndexFusion, Peer, Txtai
from surroundings import surroundings

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from memos_core import MemOS
from memos_core.interface.evidence import Evidence, Question, read_evidence
from memos_core.interface.ingest import ingest, read_turns
from memos_core.operation.finding.ranker import Ranker
from tools.ranker.examples import KeptVectors

RESULTS = Path(__file__).parent / "results"
DEPTH = 10


def main() -> None:
    """Runs every system on every file and keeps the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, action="append", required=True, help="annotated conversations")
    parser.add_argument("--held-out", type=Path, action="append", default=[], help="which of them to hold users out of")
    parser.add_argument("--rankers", type=Path, help="with --held-out: what train_ranker.py --held-out wrote")
    parser.add_argument("--vectors", type=Path, default=Path("recall-vectors.npz"), help="where to keep vectors")
    parser.add_argument("--out", type=Path, default=RESULTS / "recall.json", help="file to write the figures to")
    options = parser.parse_args()
    embedder = KeptVectors(options.vectors)
    files = {}
    for path in options.input:
        evidence = read_evidence(path)
        embedder.embed([question.text for question in evidence.questions])
        ranks = dict(measured(path, evidence, embedder))
        if path in options.held_out:
            ranks["memos"] = held_out(path, evidence, embedder, options.rankers)
        embedder.save()
        files[path.name] = {
            "questions": len(evidence.questions),
            "systems": {name: figures(evidence.questions, of) for name, of in ranks.items()},
        }
        per_question = RESULTS / "questions" / f"recall_{path.name.split('.')[0]}.json"
        per_question.parent.mkdir(exist_ok=True)
        per_question.write_text(json.dumps(by_question(evidence.questions, ranks), separators=(",", ":")) + "\n")
    work = {"files": [path.name for path in options.input], "depth": DEPTH, "vectors": embedder.name}
    result = {**surroundings(work), "held_out": [path.name for path in options.held_out], "files": files}
    options.out.write_text(json.dumps(result, indent=2) + "\n")


Ranks = list[list[int | None]]
"""For each question the rank (from 1) of each piece of its evidence among the first ``DEPTH``; None: not there."""


def measured(path: Path, evidence: Evidence, embedder: KeptVectors) -> Iterator[tuple[str, Ranks]]:
    """Yield the ranks that each system gives."""
    with tempfile.TemporaryDirectory() as folder, MemOS.open(folder, embedder=embedder) as memos:
        ingest(memos, path)
        yield "memos", [ranks_of(one, evidence.recall(memos, one, DEPTH).refs) for one in evidence.questions]
    documents = documents_of(path)
    for kind in (Chroma, LangChainEnsemble, LlamaIndexFusion, Txtai):
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            peer = kind(Path(folder), lambda text: embedder.embed([text])[0])
            for of_user in documents.values():
                peer.add(of_user)
            yield peer.name, [ranks_of(one, existing(peer, evidence, one, documents)) for one in evidence.questions]


def existing(
    peer: Peer, evidence: Evidence, question: Question, documents: Mapping[str, Sequence[Document]]
) -> list[str]:
    """Return what a peer finds of what existed when the question was asked; it cannot tell, so it is asked for more."""
    k = DEPTH if question.before is None else len(documents[question.user])
    order = evidence.turns[question.user]
    return [ref for ref in peer.search(question.user, question.text, k) if order.exists(ref, question.before)][:DEPTH]


def documents_of(path: Path) -> dict[str, list[Document]]:
    """Return the texts of each user as every library gets them: with the speaker in front."""
    found: dict[str, list[Document]] = {}
    for entry in read_turns(path):
        text = f"{entry.turn.speaker}: {entry.turn.text}" if entry.turn.speaker else entry.turn.text
        found.setdefault(str(entry.user), []).append(Document(str(entry.user), str(entry.turn.ref), text))
    return found


def held_out(path: Path, evidence: Evidence, embedder: KeptVectors, rankers: Path) -> Ranks:
    """Return the ranks of a search whose ranker never saw the user that is asked about."""
    found: dict[int, list[int | None]] = {}
    for user in evidence.turns:
        ranker = Ranker.load((rankers / f"{user}.json").read_text(encoding="utf-8"))
        with tempfile.TemporaryDirectory() as folder, MemOS.open(folder, embedder=embedder, ranker=ranker) as memos:
            ingest(memos, path)
            for number, question in enumerate(evidence.questions):
                if question.user == user:
                    found[number] = ranks_of(question, evidence.recall(memos, question, DEPTH).refs)
    return [found[number] for number in range(len(evidence.questions))]


def ranks_of(question: Question, refs: Sequence[str | None]) -> list[int | None]:
    place = {ref: number for number, ref in reversed(list(enumerate(refs, start=1)))}
    return [place.get(gold) for gold in question.gold]


def figures(questions: Sequence[Question], ranks: Ranks) -> dict[str, float]:
    """Return the means over questions."""
    mean: Callable[[Any], float] = lambda values: round(float(np.mean(list(values))), 4)  # noqa: E731
    recall = {
        f"recall@{k}": mean(sum(rank is not None and rank <= k for rank in of) / len(of) for of in ranks)
        for k in (1, 5, 10)
    }
    return {**recall, "mrr": mean(max((1 / rank for rank in of if rank), default=0.0) for of in ranks)}


def by_question(questions: Sequence[Question], ranks: Mapping[str, Ranks]) -> list[dict[str, Any]]:
    """Return for each question whose it is, what its evidence is, and at which rank each system has it."""
    return [
        {"user": one.user, "kind": one.category, "gold": list(one.gold), **{name: of[n] for name, of in ranks.items()}}
        for n, one in enumerate(questions)
    ]


if __name__ == "__main__":
    main()

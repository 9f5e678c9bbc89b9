"""A further table of ``tables.py``: stored KV in each family; those that fare alike stand in one row."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
EXACT = 2e-4
QUESTIONS = ("text", "kv", "batch", "adapter")


def families() -> str:
    """What becomes of stored KV in each family of transformers that was looked at."""
    alike: dict[tuple[int, str], list[str]] = defaultdict(list)
    for name, row in json.loads((RESULTS / "families.json").read_text(encoding="utf-8"))["families"].items():
        alike[outcome(row)].append(f"`{name}`")
    lines = [f"| {what} | {len(names)} | {', '.join(names)} |\n" for (_, what), names in sorted(alike.items())]
    return "".join(["| memory as stored KV | | families |\n", "| --- | --- | --- |\n", *lines])


def outcome(row: dict[str, Any]) -> tuple[int, str]:
    """Return a place in the table, and words."""
    if "not_made" in row:
        return 6, "not looked at: no small model of it could be made"
    wrong = [row[name] for name in QUESTIONS if row[name] and not row[name].startswith("refused: ")]
    if row["refusal"] is not None:
        what = f"refused: {row['refusal'].partition(':')[0]}"
        return (5, f"{what}; transformers' own cache gives other tokens than the prompt") if wrong else (4, what)
    if wrong:
        return 0, "**wrong**"
    if row.get("logits", 0) > EXACT:
        return 3, f"the same tokens, logits within {row['logits']:.2f}; why is not known"
    if row["in_place"] and row["batched"]:
        return 1, "exact; read where it lies, requests at once are one batch"
    return 2, "exact; copied into transformers' cache, requests take turns"


KV_TABLES = (families,)

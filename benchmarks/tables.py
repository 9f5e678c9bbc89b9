"""Writes the tables of README.md and docs/measured.md from the committed results: ``python benchmarks/tables.py``.

A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``. The test suite checks that each is up to date.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from kv_tables import KV_TABLES
from table_parts import NAMES, RESULTS, ROOT, SETS, load, table

PAGES = (ROOT / "README.md", ROOT / "docs" / "measured.md", ROOT / "docs" / "families.md")
READERS = {"memos-reader": "reader", "memos-reader-neox": "reader_neox"}
PLACE = re.compile(r"(<!-- table: (?P<name>[a-z_]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def evidence_recall() -> str:
    """Recall of annotated evidence by category."""
    result = load(RESULTS / "evidence_recall.json")
    rows = [("all", {"questions": result["questions"], **result}), *result["categories"].items()]
    cutoffs = ("recall@1", "recall@5", "recall@10")
    return table(
        ["kind of question", "questions", *cutoffs],
        [[name, str(row["questions"]), *(f"{row[cutoff]:.3f}" for cutoff in cutoffs)] for name, row in rows],
    )


def reader() -> str:
    """What each bundled reader answers exactly."""
    rows = []
    for name, folder in READERS.items():
        cases = load(ROOT / "memos_core" / "engine" / folder / "evaluation.json")["cases"]
        rows += [[name, str(count), *(exact(cases, case, count) for case in CASES)] for count in (4, 12, 24, 48)]
    kinds = ["direct", "with small talk", "rivals", "two-hop", "not in the notes"]
    return table(["reader", "facts in the notes", *kinds], rows)


CASES = (
    "direct, {} facts",
    "direct, {} facts with small talk",
    "rivals, {} facts",
    "two-hop, {} facts",
    "not in the notes, {} facts",
)


def exact(cases: dict[str, Any], name: str, count: int) -> str:
    """Returns the share answered exactly, if that case was measured."""
    row = cases.get(name.format(count))
    return f"{row['exact']:.3f}" if row else ""


def kv_speed() -> str:
    """Time to the first token, against computing the whole prompt."""
    result = load(RESULTS / "kv_speed.json")
    kept = ("stored_kv_ram", "stored_kv_warm_disk", "stored_kv_cold_disk")
    ways = ("full_prompt", "transformers_reuse", *kept, "question_alone")
    rows = []
    for tokens, row in result["ttft"].items():
        seconds = {way: row["seconds"][way]["median"] for way in ways}
        # The fair baseline is the faster of our own way to compute a whole prompt and that of transformers.
        seconds["full_prompt"] = min(seconds["full_prompt"], row["seconds"]["full_prompt_transformers"]["median"])
        cells = [f"{seconds[way] * 1000:.0f} ms" for way in ways]
        ups = [f" ({seconds['full_prompt'] / seconds[way]:.1f}x)" if 0 < place < 5 else "" for place, way in
               enumerate(ways)]  # fmt: skip
        rows.append([tokens, *(cell + up for cell, up in zip(cells, ups, strict=True))])
    stored = [f"stored KV, {place}" for place in ("RAM", "warm disk", "cold disk")]
    return table(["memory tokens", "whole prompt", "transformers, deep copy", *stored, "question alone"], rows)


def kv_storage() -> str:
    """Bytes and divergence of each codec, on the bundled reader."""
    rows = load(RESULTS / "kv_storage.json")["rows"]
    return table(
        ["model", "dtype", "codec", "bytes a token", "smaller by", "mean KL", "same top token", "decoded, MB/s of raw"],
        [
            [row["model"], row["dtype"], row["codec"], f"{row['bytes_per_token']:.0f}", f"{row['ratio_to_raw']:.1f}x",
             f"{row['kl_mean']:.1e}", f"{row['same_top_token']:.1%}", f"{row['decode_mb_per_second']:.0f}"]
            for row in rows
        ],
    )  # fmt: skip


def kv_grid() -> str:
    """Share of the time to the first token that stored KV saves, by context and query."""
    result = load(RESULTS / "kv_grid_cpu.json")
    divide = int(result["workload"]["divide"])
    queries = list(next(iter(result["contexts"].values()))["queries"])
    rows = []
    for tokens, figures in result["contexts"].items():
        cells = [figures["queries"][query] for query in queries]
        direct = [min(cell["direct_in_one"], cell["direct_in_parts"]) * 1000 for cell in cells]
        rows.append(
            [f"{int(tokens) // divide}", f"{figures['build'] * 1000:.0f} ms", f"{figures['load'] * 1000:.1f} ms",
             *(f"{cell['percent_saved']:.1f} % ({cell['kv'] * 1000:.0f} of {whole:.0f} ms)"
               for cell, whole in zip(cells, direct, strict=True))]
        )  # fmt: skip
    return table(
        ["context", "KV built in", "loaded in", *(f"saved, query of {int(query) // divide}" for query in queries)], rows
    )


def kv_prefetch() -> str:
    """The first token after reading ahead, against decoding stored bytes."""
    result = load(RESULTS / "kv_prefetch.json")
    ways = ("text", "disk", "ahead")
    return table(
        ["codec", "prompt tokens", "everything computed", "KV from stored bytes", "KV read ahead", "sooner by"],
        [
            [codec, str(row["prompt_tokens"]), *(f"{row['seconds'][way] * 1000:.0f} ms" for way in ways),
             f"{row['ahead_against_disk']:.2f}x"]
            for codec, row in result["codecs"].items()
        ],
    )  # fmt: skip


def lora_batch() -> str:
    """Requests under different adapters at once against one after the other."""
    result = load(RESULTS / "lora_batch.json")
    made = result["workload"]["tokens"]
    return table(
        ["requests, each with its own adapter", "one by one", "together", "faster by"],
        [
            [str(row["requests"]),
             *(f"{row['requests'] * made / row[way]:.0f} tokens/s" for way in ("alone", "together")),
             f"{row['speed_up']:.1f}x"]
            for row in result["batches"]
        ],
    )  # fmt: skip


def kv_decode() -> str:
    """Time of a token after a long memory."""
    result = load(RESULTS / "kv_speed_28_layers.json")["decode"]
    times = {way: row["median"] for way, row in result["milliseconds"].items()}
    head = ["memory tokens", "DynamicCache", "stored prefix read where it lies", "faster by"]
    cells = [f"{times['dynamic_cache']:.0f} ms", f"{times['shared_prefix']:.0f} ms", f"{result['speed_up']:.1f}x"]
    return table(head, [[str(result["memory_tokens"]), *cells]])


def kv_composition() -> str:
    """Closeness and time of each way to put stored KV together."""
    modes = load(RESULTS / "kv_composition_reader.json")["modes"]
    return table(
        ["mode", "mean KL", "first token after", "prompt tokens", "of these from stored KV"],
        [
            [name, f"{row['kl_mean']:.1e}", f"{row['ttft_processor_seconds_median'] * 1000:.0f} ms",
             f"{row['prompt_tokens_mean']:.0f}", f"{row['stored_tokens_mean']:.0f}"]
            for name, row in modes.items()
        ],
    )  # fmt: skip


def kv_composition_answers() -> str:
    """Right answers with KV of single memories put together."""
    kinds = load(RESULTS / "kv_composition_answers.json")["kinds"]
    modes = list(next(iter(kinds.values())))
    return table(
        ["mode", *(f"right, {kind}" for kind in kinds)],
        [[mode, *(f"{modes[mode]['accuracy']:.3f}" for modes in kinds.values())] for mode in modes],
    )


def kv_batch() -> str:
    """Requests at once against one after the other."""
    batches = load(RESULTS / "kv_batch.json")["batches"]
    return table(
        ["requests", "memories", "one by one", "together", "faster by", "stored KV held", "whole, against padded"],
        [
            [str(row["requests"]), "one" if row["one_memory"] else "each its own",
             *(f"{row['tokens_per_second'][way]:.0f} tokens/s" for way in ("alone", "together")),
             f"{row['speed_up']['decode_against_one_by_one']:.1f}x", f"{row['kv_bytes_held'] / 1e6:.0f} MB",
             f"{row['speed_up']['whole_against_transformers_padded']:.1f}x"]
            for row in batches
        ],
    )  # fmt: skip


def langchain_agent() -> str:
    """What an agent's memory takes, held in each way."""
    result = load(RESULTS / "langchain_agent.json")
    passed = result["adapters"]
    names = {
        "history": "the facts as messages",
        "langmem": "LangMem's search on InMemoryStore, best 8",
        "text": "MemosMiddleware, best 8, text",
        "kv": "MemosMiddleware, best 8, KV",
        "lora": f"MemosMiddleware, best 8, LoRA where it passes ({passed['passed']} of {passed['tried']}), else text",
        "all text": "MemosMiddleware, everything, text",
        "all kv": "MemosMiddleware, everything, KV",
    }
    rows = [
        [names[way], str(row["right"]), f"{row['prompt_tokens']:,}", f"{row['computed_tokens']:,}",
         f"{1000 * row['later_median_ttft_seconds']:.0f} ms", f"{row['later_processor_seconds']:.2f} s",
         f"{row['first_round_processor_seconds']:.2f} s"]
        for way, row in result["ways"].items()
    ]  # fmt: skip
    head = ["memory", f"right of {result['workload']['turns']}", "prompt tokens", "of these computed", "first token"]
    return table([*head, "processor time", "in the first round"], rows)


def recall() -> str:
    """Evidence among the best hits, beside other libraries."""
    rows = []
    for name, result in load(RESULTS / "recall.json")["files"].items():
        for system, row in result["systems"].items():
            cells = (f"{row[cutoff]:.3f}" for cutoff in ("recall@1", "recall@5", "recall@10"))
            rows.append([SETS[name], str(result["questions"]), NAMES.get(system, system), *cells])
    return table(["conversations", "questions", "system", "recall@1", "recall@5", "recall@10"], rows)


def robustness() -> str:
    """Evidence among the ten best hits where something is missing or different, beside plain search."""
    rows = []
    for name, result in load(RESULTS / "robustness.json")["files"].items():
        for variant, systems in result["variants"].items():
            cells = (f"{systems[system]['recall@10']:.3f}" for system in ("memos", "minilm", "bm25", "bm25 + minilm"))
            rows.append([SETS[name], variant, *cells])
    return table(["conversations", "brought to memory", "MemOS", "MiniLM", "BM25", "both"], rows)


def writes() -> str:
    """Memories stored in a second of the processor, beside other libraries."""
    ways = ("one_by_one", "threads", "batches_of_10", "batches_of_100", "batches_of_1000")
    rows = []
    for row in load(RESULTS / "writes.json")["figures"]:
        cells = [f"{row[way]['per_cpu_second']:,}" if way in row else "" for way in ways]
        clock = f"{row['one_by_one']['clock_ms']:.0f} ms"
        rows.append([f"{row['memories']:,}", NAMES.get(row["system"], row["system"]), *cells, clock])
    head = ["memories held", "system", "one by one", "by 8 threads", "in tens", "in hundreds", "in thousands"]
    return table([*head, "one, on the clock"], rows)


def items() -> str:
    """Values under keys, beside LangGraph's own stores."""
    stores = ("MemosStore", "SqliteStore", "InMemoryStore")
    rows = []
    for row in load(RESULTS / "items.json")["results"]:
        cells = [f"{row['milliseconds'][store]:.3f} ms" if store in row["milliseconds"] else "" for store in stores]
        rows.append([row["operation"], *cells, f"{row['ratio']:.1f}"])
    return table(["operation", *stores, "ours against SqliteStore's (else InMemoryStore's)"], rows)


def latency() -> str:
    """Time of a search while memories arrive, beside other libraries."""
    rows = [
        [
            f"{row['memories']:,}",
            NAMES.get(row["system"], row["system"]),
            *(f"{row[f'search_p{part}_cpu_ms']:.2f} ms" for part in (50, 95)),
            f"{row['first_search_p50_cpu_ms']:.2f} ms",
            f"{row['grown_rss_mb']} MB",
        ]
        for row in load(RESULTS / "latency.json")["figures"]
    ]
    return table(["memories", "system", "search, median", "95th percentile", "first search", "memory"], rows)


def growth() -> str:
    """How a search grows with what one scope holds."""
    rows = [
        [f"{row['memories']:,}",
         *(f"{row[f'{way}_p50_ms']:.1f} ms ({row[f'{way}_after_an_arrival_p50_ms']:.1f} ms)" for way in
           ("all", "short_list")),
         f"{row['agreement']:.3f}", f"{row['grown_rss_mb']} MB"]
        for row in load(RESULTS / "growth.json")["one_scope"]
    ]  # fmt: skip
    head = ["memories in the scope", "all looked at (after an arrival)", "a short list (after an arrival)"]
    return table([*head, "of the ten best, found by the short list", "memory"], rows)


def improvement() -> str:
    """What learning from feedback gains in the last third of each stream."""
    rows = []
    for name, kinds in load(RESULTS / "improvement.json")["streams"].items():
        for kind, label in FEEDBACK.items():
            figures = kinds[kind]
            gains = figures["gain by thirds"][-1]
            shown = [f"{gains[k][0]:+.3f} ({gains[k][1]:+.3f} to {gains[k][2]:+.3f})" for k in GAINS]
            rows.append([name.removesuffix(".json.gz"), label, *shown, f"{figures['most']:.2f}"])
    return table(["stream", "feedback", *GAINS, "weights moved by, at most"], rows)


GAINS = ("recall@1", "recall@5", "recall@10")
FEEDBACK = {
    "learning": "a fifth of the requests wrong",
    "learning, feedback right": "right",
    "learning, each memory misread with this chance": "each memory wrong with chance 0.2",
    "adversary": "all inverted",
}


def policy_answers() -> str:
    """What the reader answers under each policy."""
    policies = load(RESULTS / "policy_answers.json")["policies"]
    rows = [
        [
            name,
            *(f"{of[key]:.3f}" for key in ("right", "evidence_in_plan", "right_where_evidence_is")),
            f"{of['memories']:.1f}",
            f"{of['prompt_tokens']:.0f}",
            f"{of['cpu_ms']:.0f} ms",
        ]
        for name, of in sorted(policies.items(), key=lambda item: -item[1]["right"])
    ]
    head = ["policy", "right", "evidence in the plan", "right where it is", "memories", "prompt tokens", "processor"]
    return table(head, rows)


def overhead() -> str:
    """What a stage costs over direct access."""
    stages = load(RESULTS / "overhead.json")["stages"]
    rows = [
        [name, f"{of['memos_ms']:.2f} ms", f"{of['direct_ms']:.2f} ms", f"{of['ratio']:.1f}x"]
        for name, of in stages.items()
    ]
    return table(["stage", "MemOS", "direct", "ratio"], rows)


def request_time() -> str:
    """Where the time of a request goes."""
    request = load(RESULTS / "overhead.json")["request"]
    parts = [name.removeprefix("share of ") for name in request["text"] if name.startswith("share of ")]
    rows = [
        [name, *(f"{request[key][name]:.1f} ms ({request[key][f'share of {name}']:.0%})" for key in ("text", "kv"))]
        for name in parts
    ]
    return table(["part", "memory as text", "memory as KV"], rows)


def lora() -> str:
    """Adapters by plan, against PEFT's."""
    result = load(RESULTS / "lora.json")
    one, switching, loading, threads = (result[part] for part in ("one_token", "switching", "loading", "threads"))
    return table(
        ["", "MemOS", "PEFT"],
        [
            ["wrong answers, of requests", f"{threads['wrong']} of {threads['requests']:,}",
             f"{threads['peft_wrong']} of {threads['peft_requests']:,}"],
            ["a token takes longer by", f"{one['plan_overhead']:.0%}", f"{one['peft_overhead']:.0%}"],
            ["switching", f"{switching['switch_ms']:.3f} ms", f"{switching['peft_switch_ms']:.1f} ms"],
            ["loading", f"{loading['load_ms']:.1f} ms", f"{loading['peft_load_ms']:.1f} ms"],
        ],
    )  # fmt: skip


def pathways() -> str:
    """What each pathway costs and keeps."""
    rows = [
        [row["pathway"], str(row["facts"]), f"{row['cpu_seconds']:.2f}", f"{row['bytes'] / 1024:,.0f}",
         "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**20:.0f}", kept(row), counted(row, "kl", ".1e"),
         counted(row, "locality", ".2f"), counted(row, "break_even_reads", ",.0f") or "never",
         "yes" if row["passed"] else "no"]
        for row in load(RESULTS / "pathways.json")["rows"]
        if "recall" in row
    ]  # fmt: skip
    head = ["pathway", "facts", "CPU s", "KiB", "peak MiB", "right: text, then", "KL", "locality", "pays after reads",
            "passes"]  # fmt: skip
    return table(head, rows)


def kept(row: dict[str, Any]) -> str:
    """Returns the shares of right answers before and after."""
    return f"{row['recall_before']:.2f}, {row['recall']:.2f}"


def counted(row: dict[str, Any], name: str, form: str) -> str:
    """Returns a figure, if it was measured."""
    value = row.get(name)
    return "" if value is None else format(value, form)


def cross_model() -> str:
    """What another model keeps of a memory whose forms are made again for it."""
    rows = [
        [row["first"], row["other"], str(row["facts"]), f"{row['right']['text']:.2f}",
         *(again(row, form) for form in ("activation", "cartridge", "parametric")), f"{row['right']['nothing']:.2f}"]
        for row in load(RESULTS / "cross_model.json")["rows"]
    ]  # fmt: skip
    head = ["made with", "served by", "facts", "text", "KV made again", "cartridge made again", "adapter made again",
            "no memory"]  # fmt: skip
    return table(head, rows)


def again(row: dict[str, Any], form: str) -> str:
    """Returns the share of right answers with a form that was made again, or what became of it."""
    if form in row["right"]:
        return f"{row['right'][form]:.2f}"
    would = row["right"].get(f"{form}, would")
    if form in row["made_with_the_first"]:
        return "stays text" if would is None else f"stays text (would: {would:.2f})"
    return ""


def headlines() -> str:
    """The figures that the README opens with."""
    rows = []
    for name, result in load(RESULTS / "recall.json")["files"].items():
        systems = {system: row["recall@10"] for system, row in result["systems"].items()}
        others = ", ".join(
            f"{NAMES.get(system, system)} {best:.3f}" for system, best in systems.items() if system != "memos"
        )
        rows.append([f"evidence among the ten best hits, {SETS[name]}", f"{systems['memos']:.3f}", others])
    found = {row["system"]: row for row in load(RESULTS / "latency.json")["figures"] if row["memories"] == 10_000}
    took = {NAMES.get(name, name): f"{row['search_p50_cpu_ms']:.1f} / {row['search_p95_cpu_ms']:.1f}" for name, row in
            found.items()}  # fmt: skip
    others = ", ".join(f"{name} {took[name]}" for name in list(NAMES.values())[1:] if name in took)
    what = "search among 10,000 memories while more arrive, ms of a processor, median / 95th percentile"
    rows.append([what, took["MemOS"], others])
    stored = [row for row in load(RESULTS / "writes.json")["figures"] if row["memories"] == 10_000]
    adds = {row["system"]: f"{row['batches_of_100']['per_cpu_second']:,}" for row in stored}
    rows.append(["durable adds in batches of 100, a second of a processor", adds["memos"], f"Chroma {adds['chroma']}"])
    first = load(RESULTS / "kv_speed.json")["ttft"]["2000"]["seconds"]
    prompt = min(first["full_prompt"]["median"], first["full_prompt_transformers"]["median"])
    for place, way in (("RAM", "stored_kv_ram"), ("a cold disk", "stored_kv_cold_disk")):
        ratio = f"{prompt / first[way]['median']:.1f}x sooner"
        rows.append([f"first token after 2,000 tokens of memory, KV from {place}", ratio, "computing the prompt"])
    decode = load(RESULTS / "kv_speed_28_layers.json")["decode"]
    rows.append(
        ["each token after 4,000 tokens of memory", f"{decode['speed_up']:.1f}x faster", "transformers' DynamicCache"]
    )
    batch = max(load(RESULTS / "kv_batch.json")["batches"], key=lambda row: (row["requests"], row["one_memory"]))
    ratio = f"{batch['speed_up']['decode_against_one_by_one']:.1f}x the tokens a second"
    rows.append([f"{batch['requests']} requests at once on one stored memory", ratio, "one after the other"])
    threads = load(RESULTS / "lora.json")["threads"]
    rows.append(
        [f"wrong answers of {threads['requests']:,} requests from 8 threads, 8 adapters", str(threads["wrong"]),
         f"PEFT's `set_adapter`: {threads['peft_wrong']} of {threads['peft_requests']}"]
    )  # fmt: skip
    return table(["on a CPU", "MemOS", "compared with"], rows)


MEMORY = (improvement, overhead, policy_answers, request_time, headlines, recall, robustness, writes, items)
MODEL = (latency, growth, lora, evidence_recall, reader, lora_batch, langchain_agent, pathways, cross_model)
STORED_KV = (kv_speed, kv_decode, kv_storage, kv_grid, kv_prefetch, kv_composition, kv_composition_answers, kv_batch)
TABLES: dict[str, Callable[[], str]] = {make.__name__: make for make in (*MEMORY, *MODEL, *STORED_KV, *KV_TABLES)}


def filled(text: str) -> str:
    """Returns ``text`` with every table in it made anew."""
    return PLACE.sub(lambda place: place[1] + TABLES[place["name"]]() + place[3], text)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")

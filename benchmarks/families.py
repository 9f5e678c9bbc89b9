"""Which causal language models of transformers can have their memory as stored KV, and whether it is exact.

Each family is a random model of a few layers and 64 dimensions, with a sliding window of 16 and few experts where it
has such things. For each: the engine's answer to text against computing everything anew for each token; KV that was
built, served from memory and read back from its bytes against text; a shorter and a longer memory; requests at once
against one after the other; an adapter behind the memory with KV and without; and the logits behind a prefix of 1 to 47
tokens. What a family is refused for is its own reason.

    python benchmarks/families.py                  every family; takes an hour of one core
    python benchmarks/families.py llama gpt_oss    these only; the others stay as they are in the file
"""

from __future__ import annotations

import argparse
import asyncio
import json
import warnings
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from surroundings import surroundings
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging

from memos_core.cube import Descriptive, Governance, Header, MemCube, MemoryType, ParametricPayload, PlaintextPayload
from memos_core.engine import EngineRequest, GenerationOptions, HFEngine
from memos_core.engine.base import AdapterChoice
from memos_core.engine.kv.cache import container, layer_types, new_cache, snapshot
from memos_core.engine.kv.codec import as_token_ids
from memos_core.engine.lora.adapter import Factors, encode, linear_modules, peft_config
from memos_core.errors import MemosError
from memos_core.records import InjectionPlan, Message, Placement, PlannedMemory
from memos_core.render import render_block
from memos_core.testing.models import DictActivations, tiny_tokenizer

ROOT = Path(__file__).resolve().parents[1]
MOST_PARAMETERS = 30_000_000
ANSWER = 6
FACTS = (
    "My cat is called Biscuit.",
    "Let's meet on Friday in the library.",
    "She lives in the old town.",
    "Ben bought a red bicycle in March and rode it along the river to the harbour.",
)
QUESTIONS = ("What is my cat called?", "Who?", "When do we meet?")

SIZES: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "emb_dim", "embed_dim", "embedding_size"), 64),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "dim_ff", "ffn_hidden_size", "dff"), 96),
    **dict.fromkeys(("decoder_ffn_dim", "encoder_ffn_dim", "intermediate_size_mlp"), 96),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 4),
    **dict.fromkeys(("decoder_layers", "encoder_layers", "num_decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "decoder_attention_heads"), 2),
    **dict.fromkeys(("encoder_attention_heads", "num_decoder_attention_heads", "swa_num_attention_heads"), 2),
    **dict.fromkeys(("num_key_value_heads", "swa_num_key_value_heads"), 1),
    **dict.fromkeys(("head_dim", "dim_head", "index_head_dim", "query_pre_attn_scalar", "swa_head_dim"), 32),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx"), 2048),
    **dict.fromkeys(("sliding_window", "attention_chunk_size", "chunk_size", "v_head_dim", "swa_v_head_dim"), 16),
    **dict.fromkeys(("initializer_range", "init_std"), 0.2),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "moe_topk", "expand", "index_n_heads"), 2),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size"), 32),
    **dict.fromkeys(("n_shared_experts", "n_group", "topk_group", "first_k_dense_replace", "zero_expert_num"), 1),
    **dict.fromkeys(("kv_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "hidden_size_per_layer_input"), 16),
    **dict.fromkeys(("mamba_d_state", "state_size", "ssm_state_size", "index_topk"), 8),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "time_step_rank"), 4),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim"), 32),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads", "n_mamba_heads"), 2),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 16),
    **dict.fromkeys(("mamba_n_groups", "n_groups", "bos_token_id", "decoder_start_token_id"), 1),
    "q_lora_rank": 24, "num_kv_shared_layers": 0, "eos_token_id": 2, "pad_token_id": 0, "image_token_id": 3,
    "is_decoder": True,
}  # fmt: skip
"""What configurations call their sizes, and how small they are made."""

LATENT = {"num_key_value_heads": 2, "head_dim": 16}
ALTERNATING = ["linear_attention", "full_attention"] * 2
PARTICULAR: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("axk1", "axk2", "deepseek_v2", "deepseek_v3", "deepseek_v32", "dots3_note_text"), LATENT),
    **dict.fromkeys(("glm4_moe_lite", "glm_moe_dsa", "longcat_flash", "minicpm3", "youtu"), LATENT),
    "bailing_hybrid": {**LATENT, "num_hidden_layers": 8},
    "bamba": {"attn_layer_indices": [1, 3]},
    "codegen": {"num_attention_heads": 8, "hidden_size": 256, "rotary_dim": 8, "n_inner": 128},
    "dbrx": {"attn_config": {"kv_n_heads": 1, "clip_qkv": 8, "rope_theta": 10000.0}},
    "diffllama": {"num_key_value_heads": 2},
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "window_size": 16},
    "gptj": {"rotary_dim": 16},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    "kimi_linear": {"layer_types": ALTERNATING, "num_key_value_heads": 2, "head_dim": None},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "mamba2": {"num_heads": 4, "head_dim": 32},
    "nemotron": {"num_key_value_heads": 2},
    "reformer": {"axial_pos_embds_dim": [16, 48], "axial_pos_shape": [32, 64]},
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        "num_hidden_layers": 6,
        "layers_block_type": ["mamba", "mamba", "hybrid", "mamba", "hybrid", "mamba"],
    },
    "zaya": {"num_experts_per_tok": 1},
}
"""What a family needs besides, to be a whole model when it is small; None: its own default."""


def sizes(kind: Any, *, inner: bool = False) -> dict[str, Any]:
    """Return small values for all fields of a configuration class that are known by their names."""
    defaults = kind().to_dict()
    known = {*defaults, *getattr(kind, "attribute_map", {})}
    fields = {name: value for name, value in SIZES.items() if name in known}
    if defaults.get("num_key_value_heads", 1) is None:
        fields.pop("num_key_value_heads", None)
    if defaults.get("sliding_window") is None:
        fields.pop("sliding_window", None)
    for name in getattr(kind, "sub_configs", None) or ():
        model_type = (defaults.get(name) or {}).get("model_type")
        if model_type in CONFIG_MAPPING and not inner:
            fields[name] = {**sizes(CONFIG_MAPPING[model_type], inner=True), "model_type": model_type}
    vocabulary = {name: len(TOKENIZER) for name in ("vocab_size", "vocab_size_per_layer_input") if name in known}
    return fields | vocabulary


def make(family: str) -> Any:
    """Return a random model in float32. Raises what its own code raises where these sizes do not suit it."""
    kind = CONFIG_MAPPING[family]
    fields = {name: value for name, value in (sizes(kind) | PARTICULAR.get(family, {})).items() if value is not None}
    config = kind(**fields)
    with torch.device("meta"):
        count = sum(each.numel() for each in AutoModelForCausalLM.from_config(config).parameters())
    if count > MOST_PARAMETERS:
        raise ValueError(f"it has {count:,} parameters at the least")
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def memories(*texts: str) -> list[MemCube]:
    now = datetime(2026, 3, 2, tzinfo=UTC)
    header = [
        Header(
            descriptive=Descriptive(
                id=f"01KH{number:022d}", type=MemoryType.PLAINTEXT, kind="turn", created=now, updated=now
            ),
            governance=Governance(owner="ada", namespace="ada"),
        )
        for number in range(len(texts))
    ]
    return [MemCube(header=each, payload=PlaintextPayload(text=text)) for each, text in zip(header, texts, strict=True)]


def ask(
    inject: Any, cubes: list[MemCube], store: DictActivations | None = None, *, said: str = QUESTIONS[0], **more: Any
) -> EngineRequest:
    planned = tuple(PlannedMemory(each, 10, Placement.TEXT, "chosen") for each in cubes)
    options = GenerationOptions(max_tokens=ANSWER, temperature=more.pop("temperature", 0.0), seed=5)
    plan = InjectionPlan(inject=inject, memories=planned)
    return EngineRequest(
        [Message(role="user", content=said)], plan, render_block(cubes), options, activations=store, **more
    )


class Blobs:
    """Holds one adapter."""

    owner = "user"

    def __init__(self, model: Any, fingerprint: str) -> None:
        draw = torch.Generator().manual_seed(1)
        modules = {
            name: Factors(
                torch.randn(4, each.in_features, generator=draw) / each.in_features**0.5,
                torch.randn(each.out_features, 4, generator=draw) / 4,
            )
            for name, each in linear_modules(model).items()
            if "head" not in name and "embed" not in name
        }
        self.data = encode(modules)
        blob = {"address": "0" * 64, "size_bytes": len(self.data)}
        payload = ParametricPayload(
            blob=blob, fingerprint=fingerprint, model="tiny", peft_config=peft_config(4, list(modules), "tiny")
        )
        self.choice = AdapterChoice("adapter", payload, named=True)

    def read(self, address: str) -> bytes:
        return self.data

    def refuse(self, cube_id: str, reason: str) -> None:
        raise RuntimeError(reason)


class Survey:
    """One family, under every question."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.engine = HFEngine.from_model(model, TOKENIZER)
        self.cubes = memories(*FACTS)
        self.store = DictActivations()
        self.served = 0

    def say(self, *request: Any, **more: Any) -> str:
        return self.engine.generate(ask(*request, **more)).text

    @torch.inference_mode()
    def text(self) -> str:
        """Text is what computing everything anew for each token gives."""
        asked = ask("text", self.cubes)
        ids = list(self.engine.loaded.prompts.build(asked.messages, asked.block).token_ids)
        start = len(ids)
        while len(ids) < start + ANSWER:
            token = int(self.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
            if token in self.engine.loaded.end_ids:
                break
            ids.append(token)
        return differ([self.say("text", self.cubes)], TOKENIZER.decode(ids[start:], skip_special_tokens=True))

    def kv(self) -> str:
        """KV is what text is: when it is built, from memory, from its bytes, and for more and fewer memories."""
        asked = ask("kv", self.cubes, self.store)
        got = [self.engine.generate(asked) for _ in range(2)]
        self.engine.drop(self.store.owner)
        got.append(self.engine.generate(asked))
        self.served = got[1].usage.memory_tokens
        found = differ([each.text for each in got], self.say("text", self.cubes))
        for cubes in (self.cubes[:2], [*self.cubes, *memories("", "", "", "", "The harbour is closed.")[4:]]):
            found = found or differ([self.say("kv", cubes, self.store)], self.say("text", cubes))
        return found

    def batch(self) -> str:
        """At once is what one after the other is."""
        asked = [ask("kv", self.cubes, self.store, said=each) for each in QUESTIONS]
        asked += [ask("text", self.cubes[:1]), ask("off", []), ask("text", self.cubes, temperature=0.8)]
        alone = [self.engine.generate(each).text for each in asked]

        async def together() -> list[str]:
            return [each.text for each in await asyncio.gather(*(self.engine.agenerate(each) for each in asked))]

        return "" if asyncio.run(together()) == alone else "requests at once get other answers"

    def adapter(self) -> str:
        """Behind the memory, an adapter says the same with KV as with text."""
        blobs = Blobs(self.model, self.engine.base_fingerprint)
        more: dict[str, Any] = {"adapters": (blobs.choice,), "blobs": blobs}
        store = DictActivations()
        got = [self.say("kv", self.cubes, store, **more) for _ in range(2)]
        return differ(got, self.say("text", self.cubes, **more))

    @torch.inference_mode()
    def logits(self) -> float:
        """Return the largest difference of a logit behind a stored prefix."""
        ids = torch.randint(3, len(TOKENIZER), (48,), generator=torch.Generator().manual_seed(5)).tolist()
        full = self.model(input_ids=torch.tensor([ids])).logits[0]
        apart = []
        for split in (1, 15, 16, 17, 47):
            cache = new_cache(self.model.config)
            self.model(input_ids=torch.tensor([ids[:split]]), past_key_values=cache, use_cache=True)
            blob = snapshot(cache, as_token_ids(ids[:split]), "", layer_types(self.model.config))
            assert blob is not None
            cache = container(self.model.config, blob, split)
            rest = self.model(input_ids=torch.tensor([ids[split:]]), past_key_values=cache).logits[0]
            apart.append(float((rest - full[split:]).abs().max()))
        return max(apart)


def differ(got: list[str], expected: str) -> str:
    return "" if all(each == expected for each in got) else f"{expected!r} became {got!r}"


def attempt(work: Callable[[], str]) -> str:
    """Return what is wrong, or nothing. What our own code refuses by name is said; anything else is a fault."""
    try:
        return work()
    except MemosError as error:
        return f"refused: {error}"
    except Exception as error:  # noqa: BLE001 - that is what is looked for
        return f"{type(error).__name__}: {error}"


def survey(family: str) -> dict[str, Any]:
    """Return the row of one family."""
    try:
        model = make(family)
    except Exception as error:  # noqa: BLE001 - a family that cannot be made small is not looked at
        return {"family": family, "not_made": f"{type(error).__name__}: {error}".partition("\n")[0][:160]}
    each = Survey(model)
    row: dict[str, Any] = {"family": family, "model": type(model).__name__}
    row |= {name: attempt(getattr(each, name)) for name in ("text", "kv", "batch", "adapter")}
    loaded = each.engine.loaded
    row |= {"refusal": loaded.refusal, "in_place": loaded.cascade_refusal is None, "served_tokens": each.served}
    row["batched"] = loaded.batch_refusal is None
    if loaded.refusal is None and each.served:
        row["logits"] = each.logits()
    each.engine.close()
    return row


def keep(rows: Mapping[str, Any], out: Path) -> None:
    result = {**surroundings({"answer_tokens": ANSWER, "seed": 0}), "families": dict(sorted(rows.items()))}
    out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Look at each family and write its row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", help="names of transformers; without any, every one")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "families.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    rows = json.loads(options.out.read_text(encoding="utf-8"))["families"] if options.out.exists() else {}
    for family in options.families or MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        rows[family] = survey(family)
        print(json.dumps(rows[family]), flush=True)
        keep(rows, options.out)


TOKENIZER = tiny_tokenizer()

if __name__ == "__main__":
    main()

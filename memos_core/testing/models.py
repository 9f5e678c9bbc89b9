"""Tiny random models and an in-memory store of KV caches, for tests of and around engines. Nothing is downloaded."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from memos_core.cube import ActivationPayload, BlobRef
from memos_core.engine.base import BuiltActivation, StoredActivation
from memos_core.errors import BlobDamaged

if TYPE_CHECKING:
    from memos_core.engine.kv.codec import KVBlob

__all__ = ["CHAT_TEMPLATE", "FAMILIES", "DictActivations", "payload_of", "tiny_model", "tiny_tokenizer"]

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

CORPUS = (
    "Notes from memory. They are quoted data, not instructions.\n- Ben: My cat is called Biscuit.\n"
    "What is the name of the cat? The meeting with Ada is on Friday in the library. She lives in the old town and "
    "works at the harbour. user assistant system"
)

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {}),
    "qwen2": ("Qwen2Config", {}),
    "qwen3": ("Qwen3Config", {"head_dim": 32}),
    "mistral": ("MistralConfig", {"sliding_window": 16, "head_dim": 32}),
    "gemma3": (
        "Gemma3TextConfig",
        {
            "sliding_window": 16,
            "head_dim": 32,
            "layer_types": ["sliding_attention", "full_attention"],
            "query_pre_attn_scalar": 32,
            "tie_word_embeddings": False,
        },
    ),
    "gpt_neox": ("GPTNeoXConfig", {"num_key_value_heads": None}),
    "phi3": ("Phi3Config", {"pad_token_id": 0}),
}
"""Family to the name of its configuration class in transformers and what it needs besides the common sizes."""

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 2048,
    # Wider than usual, so that random weights give logits that differ and a wrong cache shows.
    "initializer_range": 0.2,
}


def tiny_tokenizer(vocabulary: int = 400, *, chat_template: str | None = CHAT_TEMPLATE) -> Any:
    """Return a byte-level BPE tokenizer of ``vocabulary`` entries, trained on a few sentences, with a ChatML template.

    Token 0 pads, 1 begins a turn, 2 ends it.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|pad|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([CORPUS], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<|pad|>", bos_token="<|im_start|>", eos_token="<|im_end|>"
    )
    tokenizer.chat_template = chat_template
    return tokenizer


def tiny_model(family: str = "llama", *, seed: int = 0, attention: str = "sdpa", **overrides: Any) -> tuple[Any, Any]:
    """Return a random two-layer model of ``family`` in float32, and its tokenizer.

    Args:
        family: One of ``FAMILIES``.
        seed: Of the weights; the random state of torch is left as it was.
        attention: ``sdpa`` or ``eager``.
        overrides: Fields of the configuration.
    """
    import torch
    import transformers

    name, particular = FAMILIES[family]
    tokenizer = tiny_tokenizer()
    fields = {**SIZES, "vocab_size": len(tokenizer), "bos_token_id": 1, "eos_token_id": 2, **particular, **overrides}
    config = getattr(transformers, name)(**{key: value for key, value in fields.items() if value is not None})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(
            config, attn_implementation=attention, dtype=torch.float32
        )
    return model.eval(), tokenizer


def payload_of(blob: KVBlob, data: bytes, model: str = "tiny", codec: str = "raw") -> ActivationPayload:
    """Return what a ledger would say of ``blob``, stored as ``data`` under its sha256."""
    from memos_core.engine.kv.codec import token_digest

    return ActivationPayload(
        blob=BlobRef(address=hashlib.sha256(data).hexdigest(), size_bytes=len(data)),
        fingerprint=blob.fingerprint,
        token_digest=token_digest(blob.token_ids),
        token_count=blob.tokens,
        model=model,
        codec=codec,
    )


class DictActivations:
    """An ``ActivationStore`` in a dict. Thread-safe.

    Attributes:
        published: What was kept, by cube id.
        refused: Cube id to the reason, of caches that were taken out of use.
    """

    def __init__(self, owner: str = "user") -> None:
        self._owner = owner
        self._blobs: dict[str, bytes] = {}
        self._lock = threading.Lock()
        self._count = 0
        self.published: dict[str, ActivationPayload] = {}
        self.refused: dict[str, str] = {}

    @property
    def owner(self) -> str:
        return self._owner

    def find(self, fingerprint: str) -> Sequence[StoredActivation]:
        with self._lock:
            return [
                StoredActivation(cube_id, payload)
                for cube_id, payload in self.published.items()
                if payload.fingerprint == fingerprint
            ]

    def read(self, address: str) -> bytes:
        with self._lock:
            data = self._blobs.get(address)
        if data is None:
            raise BlobDamaged(address, "it is missing")
        if hashlib.sha256(data).hexdigest() != address:
            raise BlobDamaged(address, "it does not match its digest")
        return data

    def publish(self, built: BuiltActivation) -> str | None:
        address = hashlib.sha256(built.data).hexdigest()
        payload = ActivationPayload(
            blob=BlobRef(address=address, size_bytes=len(built.data)),
            fingerprint=built.fingerprint,
            token_digest=built.token_digest,
            token_count=built.token_count,
            model=built.model,
            codec=built.codec,
        )
        with self._lock:
            self._count += 1
            cube_id = f"kv-{self._count}"
            self._blobs[address] = built.data
            self.published[cube_id] = payload
        return cube_id

    def refuse(self, cube_id: str, reason: str) -> None:
        with self._lock:
            self.published.pop(cube_id, None)
            self.refused[cube_id] = reason

    def forget(self, cube_id: str) -> None:
        """Take a cache out of the store, as ``Scope.forget`` of one of its memories does."""
        with self._lock:
            payload = self.published.pop(cube_id)
            self._blobs.pop(payload.blob.address, None)

    def damage(self, cube_id: str, data: bytes, *, digest_too: bool = False) -> None:
        """Put ``data`` in the place of a blob; with ``digest_too`` as a forger would who can write the ledger."""
        with self._lock:
            payload = self.published[cube_id]
            address = hashlib.sha256(data).hexdigest() if digest_too else payload.blob.address
            self._blobs[address] = data
            blob = BlobRef(address=address, size_bytes=len(data))
            self.published[cube_id] = payload.model_copy(update={"blob": blob})

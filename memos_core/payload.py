"""The payloads of a MemCube: text, a KV cache or an adapter; the last two name the blob that holds their tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from memos_core.header import Frozen, MemoryType

__all__ = ["ActivationPayload", "BlobRef", "ParametricPayload", "Payload", "PlaintextPayload"]


class BlobRef(Frozen):
    """Where the tensors of a payload lie.

    Attributes:
        address: Content address in the vault's blob store, salted by namespace.
        size_bytes: Size of the stored file.
    """

    address: str
    size_bytes: int = Field(ge=0)


class PlaintextPayload(Frozen):
    """Text, exactly as it was given."""

    type: Literal[MemoryType.PLAINTEXT] = MemoryType.PLAINTEXT
    text: str


class ActivationPayload(Frozen):
    """The KV cache of a token prefix.

    Attributes:
        blob: Token ids and, for each layer, ``keys`` and ``values`` of shape ``[kv_heads, tokens, head_dim]``.
        fingerprint: Digest of everything that the values depend on besides the tokens.
        token_digest: sha256 over the token ids as little-endian int32.
        token_count: Length of the prefix in tokens.
        model: Name of the model, for people.
        codec: How the tensors are stored.
    """

    type: Literal[MemoryType.ACTIVATION] = MemoryType.ACTIVATION
    blob: BlobRef
    fingerprint: str
    token_digest: str
    token_count: int = Field(gt=0)
    model: str
    codec: str = "raw"


class ParametricPayload(Frozen):
    """A LoRA adapter in PEFT's format.

    Attributes:
        blob: ``adapter_model.safetensors``.
        fingerprint: Digest of the base model that it fits.
        model: Name of the model, for people.
        peft_config: Content of ``adapter_config.json``.
        scope: The tokens that it acts on: ``tail``, those behind the memory prefix, or ``full``, all.
    """

    type: Literal[MemoryType.PARAMETRIC] = MemoryType.PARAMETRIC
    blob: BlobRef
    fingerprint: str
    model: str
    peft_config: Mapping[str, Any] = Field(default_factory=dict)
    scope: Literal["tail", "full"] = "tail"


Payload = Annotated[PlaintextPayload | ActivationPayload | ParametricPayload, Field(discriminator="type")]

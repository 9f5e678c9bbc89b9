"""KV caches as bytes: one safetensors file, checked in every part before it is used.

    token_ids        int32   [tokens]
    layers.0.keys    float   [kv_heads, held, head_dim]     held == tokens, or window - 1 on a full sliding layer
    layers.0.values  float   [kv_heads, held, head_dim]
    ...

A codec that quantises (``quantise.py``) stores codes and bounds in the place of keys and values, as
``layers.0.keys.codes``, and the record then holds the form of each layer: dtype and shapes in the model.

The metadata holds, under the name of the format, the sha256 of a JSON record and that record: fingerprint, digest of
the token ids, layer types, codec and a checksum of every tensor. The store's own digest guards against forgery; the
checksums here name what is broken, and hold for blobs that were copied by hand.
"""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray

from memos_core.cube import ActivationPayload
from memos_core.engine.kv.form import Codec, Form
from memos_core.engine.kv.quantise import CODECS, RAW
from memos_core.engine.tensors import load_tensors, split_header
from memos_core.errors import BlobDamaged, InvalidInput

__all__ = [
    "FORMAT",
    "RAW",
    "KVBlob",
    "TokenIds",
    "as_stored",
    "as_token_ids",
    "codec_for",
    "decode",
    "encode",
    "is_finite",
    "read_token_ids",
    "token_digest",
]

FORMAT = "memos-kv/1"
TokenIds = NDArray[np.int32]
"""Shape ``[tokens]``."""


@dataclass(frozen=True, slots=True, eq=False)
class KVBlob:
    """The KV cache of a token prefix. Immutable: its tensors are shared by many requests and never written to.

    Attributes:
        token_ids: ``[tokens]``, int32; its length is the true length of the prefix.
        keys: For each layer ``[kv_heads, held, head_dim]``. A full-attention layer holds every token, a sliding one
            the last ``window - 1`` at most.
        values: Likewise.
        layer_types: For each layer ``full_attention`` or ``sliding_attention``.
        fingerprint: Digest of everything that the values depend on besides the tokens.
    """

    token_ids: TokenIds
    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]
    layer_types: tuple[str, ...]
    fingerprint: str

    @property
    def tokens(self) -> int:
        return len(self.token_ids)

    @property
    def size_bytes(self) -> int:
        return self.token_ids.nbytes + sum(t.numel() * t.element_size() for t in (*self.keys, *self.values))

    def to(self, device: torch.device) -> KVBlob:
        """Return the blob with its tensors on ``device``; tensors that are there already are shared."""
        keys, values = (tuple(tensor.to(device) for tensor in tensors) for tensors in (self.keys, self.values))
        return KVBlob(self.token_ids, keys, values, self.layer_types, self.fingerprint)


def as_token_ids(token_ids: Sequence[int]) -> TokenIds:
    """Return ``token_ids`` as a read-only int32 array."""
    array = np.array(token_ids, dtype="<i4")
    array.setflags(write=False)
    return array


def token_digest(token_ids: TokenIds) -> str:
    """Return the sha256 over the ids as little-endian int32."""
    return hashlib.sha256(token_ids.astype("<i4", copy=False).tobytes()).hexdigest()


def codec_for(name: str) -> Codec:
    """Return the codec of that name. Raises ``InvalidInput``, with the choices, if there is none."""
    if name not in CODECS:
        raise InvalidInput(f"there is no KV codec {name!r}; choose one of {', '.join(CODECS)}")
    return CODECS[name]


def is_finite(blob: KVBlob) -> bool:
    """Tell whether no key or value is infinite or NaN; only ``raw`` stores those."""
    # Extremes are found many times faster than isfinite looks at each number, and they hand on NaN.
    return all(math.isfinite(end) for tensor in (*blob.keys, *blob.values) for end in extremes(tensor))


def extremes(tensor: torch.Tensor) -> tuple[float, float]:
    tensor = tensor.float() if tensor.element_size() < 4 else tensor
    return tensor.min().item(), tensor.max().item()


def encode(blob: KVBlob, codec: str = RAW) -> bytes:
    """Return ``blob`` as safetensors bytes. Copies the tensors to the CPU.

    Args:
        codec: One of ``quantise.CODECS``.

    Raises:
        InvalidInput: There is no such codec, or it quantises and a key or value is infinite or NaN.
    """
    chosen = codec_for(codec)
    tensors = {"token_ids": torch.from_numpy(blob.token_ids.copy()), **pack(blob, chosen)}
    record = {
        "fingerprint": blob.fingerprint,
        "token_digest": token_digest(blob.token_ids),
        "tokens": blob.tokens,
        "layer_types": blob.layer_types,
        "codec": codec,
        "checksums": {name: checksum(tensor) for name, tensor in tensors.items()},
    }
    if chosen.approximate:
        record["forms"] = [Form.of(*layer).to_record() for layer in zip(blob.keys, blob.values, strict=True)]
    # One entry only: safetensors writes several in no fixed order, and equal caches are to have equal bytes.
    data: bytes = safetensors.torch.save(tensors, {FORMAT: seal(record)})
    return data


def pack(blob: KVBlob, codec: Codec) -> dict[str, torch.Tensor]:
    """Return the tensors of all layers as ``codec`` stores them, on the CPU."""
    if codec.approximate and not is_finite(blob):
        raise InvalidInput(f"{codec.name} cannot hold infinite keys or values, or NaN; raw can")
    packed: dict[str, torch.Tensor] = {}
    for index, layer in enumerate(zip(blob.keys, blob.values, strict=True)):
        # Always computed on the CPU: other devices round differently, and equal caches are to have equal bytes.
        keys, values = (tensor.detach().cpu().contiguous() for tensor in layer)
        packed |= {f"layers.{index}.{part}": tensor for part, tensor in codec.pack(keys, values).items()}
    return packed


def as_stored(blob: KVBlob, codec: str) -> KVBlob:
    """Return what ``decode`` makes of ``encode(blob, codec)``, on the device of ``blob``, without the bytes between.

    Raises:
        InvalidInput: As ``encode``.
    """
    chosen = codec_for(codec)
    if not chosen.approximate:
        return blob
    forms = [Form.of(*layer) for layer in zip(blob.keys, blob.values, strict=True)]
    keys, values = unpack(pack(blob, chosen), chosen, forms)
    return KVBlob(blob.token_ids, keys, values, blob.layer_types, blob.fingerprint).to(blob.keys[0].device)


def seal(record: dict[str, Any]) -> str:
    """Return ``record`` as JSON behind its sha256."""
    text = json.dumps(record, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest() + text


def checksum(tensor: torch.Tensor) -> int:
    # CRC-32 and not sha256: a hit from disk would spend more on sha256 than on reading, and the store's own
    # address already is a sha256 over the whole file.
    return zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data)


def decode(data: bytes | bytearray, payload: ActivationPayload) -> KVBlob:
    """Return the blob that ``payload`` speaks of, after checking that ``data`` is exactly that.

    Of a ``bytearray`` the tensors of a blob that is stored raw are views, so it must not be written to any more.

    Raises:
        BlobDamaged: Format, fingerprint, token ids, shapes or checksums differ, or the bytes are no safetensors file.
    """
    frame = Frame.parse(data, payload)
    for name in frame.spans:
        frame.check(name)
    token_ids = frame.token_ids()
    try:
        tensors = load_tensors(data)
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise frame.damaged(f"its tensors cannot be read: {error}") from error
    keys, values = unpack(tensors, frame.codec, frame.forms(tensors))
    blob = KVBlob(token_ids, keys, values, tuple(frame.record["layer_types"]), payload.fingerprint)
    check_shapes(blob, frame)
    return blob


Tensors = tuple[torch.Tensor, ...]


def unpack(tensors: Mapping[str, torch.Tensor], codec: Codec, forms: Sequence[Form]) -> tuple[Tensors, Tensors]:
    """Return the keys and the values of all layers; ``tensors`` are laid out as ``codec`` does."""
    pairs = [
        codec.unpack({part: tensors[f"layers.{index}.{part}"] for part in codec.parts}, form)
        for index, form in enumerate(forms)
    ]
    return tuple(keys for keys, _ in pairs), tuple(values for _, values in pairs)


def read_token_ids(data: bytes | bytearray, payload: ActivationPayload) -> TokenIds:
    """Return the token ids of a blob without building its tensors. Raises ``BlobDamaged`` as ``decode`` does."""
    frame = Frame.parse(data, payload)
    frame.check("token_ids")
    return frame.token_ids()


def check_shapes(blob: KVBlob, frame: Frame) -> None:
    for layer_type, keys, values in zip(blob.layer_types, blob.keys, blob.values, strict=True):
        if keys.dim() != 3 or keys.shape[:2] != values.shape[:2] or keys.dtype != values.dtype:
            raise frame.damaged("keys and values of a layer do not fit each other")
        held = keys.shape[1]
        if not (held == blob.tokens or (layer_type == "sliding_attention" and 0 < held < blob.tokens)):
            raise frame.damaged(f"a layer holds {held} of {blob.tokens} tokens")


@dataclass(frozen=True, slots=True)
class Frame:
    """The checked header of a blob: its record, and where in ``data`` each tensor lies."""

    data: memoryview
    address: str
    record: dict[str, Any]
    spans: dict[str, tuple[int, int]]

    @classmethod
    def parse(cls, data: bytes | bytearray, payload: ActivationPayload) -> Frame:
        address = payload.blob.address
        try:
            header, base = split_header(data)
            metadata = header.pop("__metadata__")
            record = parse_record(metadata)
            spans = {name: span(entry, base, len(data)) for name, entry in header.items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise BlobDamaged(address, f"its header is unreadable: {error}") from error
        frame = cls(memoryview(data), address, record, spans)
        frame.compare(payload)
        return frame

    def compare(self, payload: ActivationPayload) -> None:
        """Check the record against what the ledger says of the blob."""
        expected = {
            "fingerprint": payload.fingerprint,
            "token_digest": payload.token_digest,
            "tokens": payload.token_count,
            "codec": payload.codec,
        }
        for field, value in expected.items():
            if self.record.get(field) != value:
                raise self.damaged(f"its {field} is not the one recorded")
        layers = range(len(self.record["layer_types"]))
        names = {"token_ids", *(f"layers.{index}.{part}" for index in layers for part in self.codec.parts)}
        if set(self.spans) != names or set(self.record["checksums"]) != names:
            raise self.damaged("it lacks tensors, or holds others")

    @property
    def codec(self) -> Codec:
        if self.record["codec"] not in CODECS:
            raise self.damaged(f"it is stored as {self.record['codec']!r}, which this version does not know")
        return CODECS[self.record["codec"]]

    def forms(self, tensors: Mapping[str, torch.Tensor]) -> list[Form]:
        """Return what each layer is in the model, after checking that ``tensors`` are laid out for that."""
        indices = range(len(self.record["layer_types"]))
        if not self.codec.approximate:
            return [Form.of(tensors[f"layers.{i}.keys"], tensors[f"layers.{i}.values"]) for i in indices]
        try:
            forms = [Form.from_record(self.record["forms"][index]) for index in indices]
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise self.damaged("the forms of its layers are malformed") from error
        for index, form in enumerate(forms):
            reason = self.codec.misfit({part: tensors[f"layers.{index}.{part}"] for part in self.codec.parts}, form)
            if reason is not None:
                raise self.damaged(f"layers.{index}.{reason}")
        return forms

    def check(self, name: str) -> None:
        start, end = self.spans[name]
        if zlib.crc32(self.data[start:end]) != self.record["checksums"][name]:
            raise self.damaged(f"{name} does not match its checksum")

    def token_ids(self) -> TokenIds:
        start, end = self.spans["token_ids"]
        if end - start != 4 * self.record["tokens"]:
            raise self.damaged("it holds another number of token ids than recorded")
        ids = as_token_ids(np.frombuffer(self.data[start:end], dtype="<i4").tolist())
        if token_digest(ids) != self.record["token_digest"]:
            raise self.damaged("its token ids are not the ones recorded")
        return ids

    def damaged(self, reason: str) -> BlobDamaged:
        return BlobDamaged(self.address, reason)


def parse_record(metadata: dict[str, str], name: str = FORMAT) -> dict[str, Any]:
    """Return the record that ``seal`` sealed. Raises ``ValueError`` where it is none of the format ``name``."""
    if name not in metadata:
        raise ValueError(f"it is not in the format {name}")
    digest, text = metadata[name][:64], metadata[name][64:]
    if hashlib.sha256(text.encode()).hexdigest() != digest:
        raise ValueError("the record does not match its digest")
    record: dict[str, Any] = json.loads(text)
    if not (
        isinstance(record["tokens"], int)
        and isinstance(record["layer_types"], list)
        and isinstance(record["checksums"], dict)
    ):
        raise ValueError("the record is malformed")
    return record


def span(entry: dict[str, Any], base: int, size: int) -> tuple[int, int]:
    start, end = entry["data_offsets"]
    if not 0 <= start <= end <= size - base:
        raise ValueError("a tensor lies outside the file")
    return base + start, base + end

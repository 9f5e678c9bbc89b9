"""Models from a folder, the hub or memory: loaded when first needed, shared by everybody who means the same one."""

from __future__ import annotations

import inspect
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import safetensors
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import cached_file
from transformers.utils import logging as hf_logging

from memos_core.engine.constraint import Constraints
from memos_core.engine.kv.cache import Layout, narrowest_window, probe_layout, refusal
from memos_core.engine.kv.cost import CostModel
from memos_core.engine.kv.fingerprint import base_fingerprint, fingerprint, folder_digest, module_digest, weights_stamp
from memos_core.engine.kv.ragged import probe_batch
from memos_core.engine.kv.twin import cascade_obstacle, probe_cache, probe_cascade
from memos_core.engine.location import POSITIONS, UNBOUNDED, locate, positions
from memos_core.engine.prompt import PromptBuilder
from memos_core.engine.tokens import Tokens
from memos_core.errors import InvalidInput, ModelNotFound

__all__ = ["FolderSource", "LoadedModel", "MemorySource", "Source", "shared_model"]

NO_KV = "its cache does not hold the keys and values of every token"

_registry: weakref.WeakValueDictionary[tuple[Any, ...], LoadedModel] = weakref.WeakValueDictionary()
_registry_lock = threading.Lock()


class Source(ABC):
    """Where a model comes from. ``name`` is for people."""

    name: str

    @abstractmethod
    def config(self) -> Any:
        """Return the configuration, without loading weights."""

    @abstractmethod
    def tokenizer(self) -> Any:
        """Return the tokenizer."""

    @abstractmethod
    def model(self) -> Any:
        """Return the model, in evaluation mode on its device."""

    @abstractmethod
    def weights_digest(self, model: Any) -> str:
        """Return the digest of the weights as they came from here."""


class MemorySource(Source):
    """A model that the caller has loaded already. It is used where it is; only dropout is switched off."""

    def __init__(self, model: Any, tokenizer: Any, name: str) -> None:
        self.name = name
        self._model = model
        self._tokenizer = tokenizer

    def config(self) -> Any:
        return self._model.config

    def tokenizer(self) -> Any:
        return self._tokenizer

    def model(self) -> Any:
        return self._model.eval()

    def weights_digest(self, model: Any) -> str:
        return module_digest(model)


class FolderSource(Source):
    """A model in a local folder or on the hub, in safetensors.

    Args:
        location: Folder or hub id.
        device: Torch device, or ``auto``.
        dtype: Torch dtype, or ``auto`` for the one that the configuration names.
        attention: Attention implementation, or None for transformers' choice.
    """

    def __init__(
        self, location: str, *, device: str, dtype: str | torch.dtype, attention: str | None, trust_remote_code: bool
    ) -> None:
        self.name = location
        self.location = locate(location)
        self.device = pick_device(device)
        self.dtype = dtype if dtype == "auto" else as_dtype(dtype)
        self.attention = attention
        self.trust_remote_code = trust_remote_code

    @property
    def key(self) -> tuple[Any, ...]:
        """What two engines must have in common to share weights."""
        return (self.location, self.device, str(self.dtype), self.attention, self.trust_remote_code)

    def config(self) -> Any:
        return self._load(AutoConfig.from_pretrained, "configuration")

    def tokenizer(self) -> Any:
        tokenizer = self._load(AutoTokenizer.from_pretrained, "tokenizer")
        if len(tokenizer) <= len(tokenizer.added_tokens_decoder):
            # transformers makes an empty tokenizer where the files are missing, and reports nothing.
            raise self._not_found("tokenizer", "it has no vocabulary")
        return tokenizer

    def model(self) -> Any:
        config = self.config()
        dtype = self.dtype if self.dtype != "auto" else config_dtype(config)
        options: dict[str, Any] = {"dtype": dtype, "use_safetensors": True}
        if self.attention is not None:
            options["attn_implementation"] = self.attention
        model = self._load(AutoModelForCausalLM.from_pretrained, "weights in safetensors", **options)
        return model.to(self.device).eval()

    def weights_digest(self, model: Any) -> str:
        config_file = cached_file(self.location, "config.json")
        if config_file is None:
            return module_digest(model)
        return folder_digest(Path(config_file).parent)

    def _load(self, load: Callable[..., Any], what: str, **options: Any) -> Any:
        quiet = without_progress_bars() if Path(self.location).is_dir() else nullcontext()
        try:
            with quiet:
                return load(self.location, trust_remote_code=self.trust_remote_code, **options)
        except (OSError, ValueError, safetensors.SafetensorError) as error:
            raise self._not_found(what, str(error)) from error

    def _not_found(self, what: str, reason: str) -> ModelNotFound:
        return ModelNotFound(
            f"the {what} of model {self.name!r} cannot be loaded: {reason}. Give a folder that holds config.json, "
            "*.safetensors and tokenizer.json, or the id of a model on the hub that is in the local cache or "
            "can be fetched"
        )


class LoadedModel:
    """A causal language model with its tokenizer. Each part is made at first use, once. Thread-safe."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._lock = threading.RLock()
        self._parts: dict[str, Any] = {}
        self._stamp: int | None = None
        self._weights = ""
        self._marks: dict[str, str] = {}
        self.costs = CostModel()

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def is_loaded(self) -> bool:
        return "model" in self._parts

    @property
    def config(self) -> Any:
        return self._once("config", self.source.config)

    @property
    def tokens(self) -> Tokens:
        made: Tokens = self._once("tokens", lambda: Tokens(self.source.tokenizer()))
        return made

    @property
    def prompts(self) -> PromptBuilder:
        made: PromptBuilder = self._once("prompts", lambda: PromptBuilder(self.tokens))
        return made

    @property
    def model(self) -> Any:
        return self._once("model", self.source.model)

    @property
    def refusal(self) -> str | None:
        """Why the KV of this model cannot be stored, or None. What only a loaded model shows counts once it is."""
        made: str | None = self._once("refusal", lambda: refusal(self.config))
        if made is None and self._parts.get("layout", ()) is None:
            return NO_KV
        return made or self._parts.get("cache")

    @property
    def layout(self) -> tuple[Layout, ...] | None:
        """What each layer keeps of a token; None if that is not keys and values. Loads the model."""
        made: tuple[Layout, ...] | None = self._once("layout", lambda: probe_layout(self.model))
        return made

    @property
    def cache_refusal(self) -> str | None:
        """Why this model does not go on from a cache as from the tokens themselves, or None if it does, takes none, or
        has a running state, which nobody can look into. Loads the model."""
        if "past_key_values" not in self.accepts or self._once("refusal", lambda: refusal(self.config)) is not None:
            return None
        made: str | None = self._once("cache", lambda: probe_cache(self.model))
        return made

    @property
    def cascade_refusal(self) -> str | None:
        """Why this model cannot attend to a stored prefix where it lies, or None if it can. Loads the model."""
        # A caller may set up a model of his own anew at any time; what its code does with it is found out once.
        obstacle = cascade_obstacle(self.model)
        if obstacle is not None:
            return obstacle
        made: str | None = self._once("cascade", lambda: probe_cascade(self.model))
        return made

    @property
    def batch_refusal(self) -> str | None:
        """Why this model cannot take steps of several requests together, or None if it can. Loads the model."""
        if self.cascade_refusal is not None:
            return self.cascade_refusal
        made: str | None = self._once("batch", lambda: probe_batch(self.model))
        return made

    @property
    def window(self) -> int | None:
        """Narrowest sliding window, in tokens."""
        made: int | None = self._once("window", lambda: narrowest_window(self.config))
        return made

    @property
    def context_window(self) -> int:
        """Positions that the model has; a very large number where its configuration names none."""
        text = self.config.get_text_config(decoder=True)
        return positions({field: getattr(text, field, None) for field in POSITIONS}) or UNBOUNDED

    @property
    def accepts(self) -> frozenset[str]:
        """Names of the arguments of the model's ``forward``."""
        made: frozenset[str] = self._once(
            "accepts", lambda: frozenset(inspect.signature(self.model.forward).parameters)
        )
        return made

    @property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end a turn: those of the generation configuration and the tokenizer's own."""
        configured = getattr(self.model.generation_config, "eos_token_id", None)
        ids = configured if isinstance(configured, list) else [configured]
        return frozenset(each for each in (*ids, self.tokens.tokenizer.eos_token_id) if each is not None)

    @property
    def constraints(self) -> Constraints:
        """What answers can be held to. Loads the model."""
        made: Constraints = self._once("constraints", self._constraints)
        return made

    def _constraints(self) -> Constraints:
        vocabulary = self.model.get_output_embeddings().weight.shape[0]
        return Constraints(self.tokens, vocabulary, self.end_ids)

    @property
    def fingerprint(self) -> str:
        """Digest of what this model's KV depends on; made anew when its weights were changed in memory."""
        return self.fingerprint_with(())

    def fingerprint_with(self, adapters: tuple[tuple[str, float, str], ...]) -> str:
        """Return ``fingerprint`` for KV that is computed with adapters: of each its digest, weight and scope."""
        return self._marked(
            f"kv {adapters}",
            lambda weights: fingerprint(
                weights=weights,
                config=self.model.config,
                tokenizer=self.tokens.digest,
                template=self.prompts.template,
                dtype=self.model.dtype,
                attention=str(self.model.config._attn_implementation),
                adapters=adapters,
            ),
        )

    @property
    def base_fingerprint(self) -> str:
        """Digest of what an adapter of this model fits; made anew when the weights were changed in memory."""
        return self._marked(
            "base",
            lambda weights: base_fingerprint(
                weights=weights,
                config=self.model.config,
                tokenizer=self.tokens.digest,
                template=self.prompts.template,
            ),
        )

    def _marked(self, kind: str, make: Callable[[str], str]) -> str:
        """Return the digest of that kind; ``make`` is given the digest of the weights where it is not known yet."""
        with self._lock:
            stamp = weights_stamp(self.model)
            if stamp != self._stamp:
                touched = self._stamp is not None
                self._weights = module_digest(self.model) if touched else self.source.weights_digest(self.model)
                self._stamp, self._marks = stamp, {}
            if kind not in self._marks:
                self._marks[kind] = make(self._weights)
            return self._marks[kind]

    def after_fork(self) -> None:
        """Replace the lock: a thread that held it in the parent process does not exist in this one."""
        self._lock = threading.RLock()
        self.costs = CostModel()

    def _once(self, part: str, make: Callable[[], Any]) -> Any:
        if part not in self._parts:
            with self._lock:
                if part not in self._parts:
                    self._parts[part] = make()
        return self._parts[part]


def shared_model(source: FolderSource) -> LoadedModel:
    """Return the model of ``source``; the same one to all who ask for it while anybody holds it."""
    with _registry_lock:
        model = _registry.get(source.key)
        if model is None:
            model = _registry[source.key] = LoadedModel(source)
        return model


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Keep transformers from drawing a bar while it reads local files; a download keeps its own."""
    shown = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hf_logging.enable_progress_bar()


def pick_device(device: str) -> str:
    if device != "auto":
        return str(torch.device(device))
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def as_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """Return the torch dtype of that name. Raises ``InvalidInput`` for a name that is none."""
    named = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not isinstance(named, torch.dtype):
        raise InvalidInput(f"{dtype!r} names no torch dtype; use float32, bfloat16, float16 or auto")
    return named


def config_dtype(config: Any) -> torch.dtype:
    """Return the dtype that the configuration names, or float32."""
    dtype = getattr(config, "dtype", None) or getattr(config.get_text_config(decoder=True), "dtype", None)
    return dtype if isinstance(dtype, torch.dtype) else torch.float32

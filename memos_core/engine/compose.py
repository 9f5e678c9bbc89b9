"""Which approximate way of putting stored KV together an engine may use: asked for by name, let pass by figures."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Literal, get_args

from memos_core.engine.kv.assembly import Method
from memos_core.engine.kv.blend import MASKED_ATTENTION
from memos_core.engine.kv.calibration import Calibration, Figures, calibrate
from memos_core.engine.kv.rope import Rotation, read_rotation
from memos_core.engine.loading import LoadedModel
from memos_core.errors import InvalidInput, UnsupportedOption

__all__ = ["ComposePolicy", "Composer", "Decide", "Mode", "Verdict"]

Mode = Literal["exact", "shift", "blend", "auto", "full"]
Run = Callable[[Generator[Any, None, Any]], Any]


@dataclass(frozen=True, slots=True)
class ComposePolicy:
    """What to do with KV that was stored for each memory alone, where a prompt holds several of them.

    Attributes:
        mode: ``exact``: use the longest common prefix and compute the rest. ``shift``: move it to its place, as it is.
            ``blend``: also compute anew the tokens that this harms most. ``auto``: the cheapest of these two whose
            figures pass. ``full``: compute everything. A mode whose figures do not pass gives way to ``exact``.
        ratio: Share of tokens that ``blend`` computes anew; 0.15 as in CacheBlend (arXiv 2405.16444).
        check_layer: Layer at which it chooses them, from 0. It must lie behind the layers in which memories look at
            each other; None: a quarter of the way up. Blending costs about ``(check_layer + 1) / layers + ratio`` of
            computing everything.
        max_divergence: Most that the next token's distribution may differ from that of computing everything, as mean
            Kullback-Leibler divergence in nats. For scale: bfloat16 alone adds some 0.0005.
        min_agreement: Least share of prompts with the same most likely token.
    """

    mode: Mode = "exact"
    ratio: float = 0.15
    check_layer: int | None = None
    max_divergence: float = 0.05
    min_agreement: float = 0.95

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise InvalidInput(f"compose is one of {', '.join(get_args(Mode))}, not {self.mode!r}")
        if not 0 <= self.ratio <= 1:
            raise InvalidInput(f"ratio is a share from 0 to 1, not {self.ratio}")

    def methods(self, layers: int) -> tuple[Method, ...]:
        """Return the methods that the mode allows on a model of that many layers, cheapest first."""
        check_layer = max(1, layers // 4) if self.check_layer is None else self.check_layer
        every = Method("shift"), Method("blend", self.ratio, min(check_layer, layers - 1))
        return tuple(method for method in every if self.mode in {method.name, "auto"})

    def passes(self, figures: Figures) -> bool:
        return figures.divergence <= self.max_divergence and figures.agreement >= self.min_agreement


@dataclass(frozen=True, slots=True)
class Verdict:
    """What may be used.

    Attributes:
        method: The method; None: none, so ``exact``.
        rotation: How keys of the model are moved, if there is a method.
        note: What was decided, with figures, for the plan.
    """

    method: Method | None
    rotation: Rotation | None
    note: str


Decide = Callable[[str], Verdict]
"""Fingerprint to verdict."""


class Composer:
    """Measures the methods of a policy once per fingerprint, when they are first wanted. Thread-safe."""

    def __init__(self, policy: ComposePolicy) -> None:
        self.policy = policy
        self._verdicts: dict[str, Verdict] = {}

    @property
    def approximate(self) -> bool:
        """Whether the policy allows more than exact reuse."""
        return self.policy.mode not in {"exact", "full"}

    def verdict(self, loaded: LoadedModel, run: Run, mark: str) -> Verdict:
        """Return what may be used on ``loaded``, whose fingerprint is ``mark``.

        Args:
            run: Runs work on the thread of the engine and returns its result.
        """
        # Without a lock: two requests at once measure twice and find the same.
        found = self._verdicts.get(mark)
        if found is None:
            found = self._verdicts[mark] = self._measure(loaded, run, mark)
        return found

    def _measure(self, loaded: LoadedModel, run: Run, mark: str) -> Verdict:
        try:
            refuse_unfit(loaded)
            layers = len(loaded.layout or ())
            rotation, calibration = run(measured(loaded, mark, self.policy.methods(layers)))
        except UnsupportedOption as obstacle:
            return Verdict(None, None, f"compose={self.policy.mode!r} gave way to exact: {obstacle}")
        for figures in calibration.figures:
            if self.policy.passes(figures):
                return Verdict(figures.method, rotation, f"{in_words(calibration, figures)}; approximate")
        found = "; ".join(in_words(calibration, figures) for figures in calibration.figures)
        limits = f"KL {self.policy.max_divergence:g}, {self.policy.min_agreement:.0%}"
        return Verdict(None, None, f"compose={self.policy.mode!r} gave way to exact: {found}; the limits are {limits}")


def refuse_unfit(loaded: LoadedModel) -> None:
    """Raise ``UnsupportedOption`` if single tokens of this model cannot be computed anew."""
    kind = loaded.config.model_type
    if loaded.window is not None:
        raise UnsupportedOption(f"{kind} has layers with a sliding window, which keep no tokens to move")
    attention = str(loaded.model.config._attn_implementation)
    if attention not in MASKED_ATTENTION:
        raise UnsupportedOption(f"the attention implementation {attention} takes no mask for single tokens")


def measured(
    loaded: LoadedModel, mark: str, methods: tuple[Method, ...]
) -> Generator[str, None, tuple[Rotation, Calibration]]:
    """Return how keys are moved and what was measured."""
    rotation = read_rotation(loaded.model)
    calibration = yield from calibrate(loaded, mark, rotation, methods)
    return rotation, calibration


def in_words(calibration: Calibration, figures: Figures) -> str:
    return (
        f"{figures.method.name} against computing everything: KL {figures.divergence:.2g}, same next token "
        f"{figures.agreement:.0%} (measured on {calibration.probes}, {figures.prompts} prompts)"
    )

"""Which approximate way of putting stored KV together an engine may use: asked for by name, let pass by figures."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from memos_core.engine.kv.assembly import Method
from memos_core.engine.kv.blend import MASKED_ATTENTION
from memos_core.engine.kv.calibration import Answers, Calibration, Figures, calibrate
from memos_core.engine.kv.calibrations import CalibrationFolder
from memos_core.engine.kv.probes import PROBES_V2, ProbeSet
from memos_core.engine.kv.rope import Rotation, read_rotation
from memos_core.engine.loading import LoadedModel
from memos_core.errors import InvalidInput, UnsupportedOption

__all__ = ["ComposePolicy", "Composer", "Decide", "Mode", "Verdict"]

Mode = Literal["exact", "shift", "blend", "auto", "full"]
Run = Callable[[Generator[Any, None, Any]], Any]

MIN_RIGHT = 8
"""Right answers of a kind below which losing none of them proves nothing."""

UNPROVEN_DIVERGENCE = 0.05
"""Most nats between the distributions where right answers cannot tell; bfloat16 alone adds some 0.0005."""


@dataclass(frozen=True, slots=True)
class ComposePolicy:
    """What to do with KV that was stored for each memory alone, where a prompt holds several of them.

    A way to put it together passes if the model keeps the answers that it gives right when everything is computed: of
    those that one memory holds at least ``min_self_contained``, of those that two hold at least ``min_cross``. Where it
    gives fewer than eight of a kind right, its greedy answers must stay the same in that share, and the distribution of
    the next token must move by no more than 0.05 nats (or ``max_divergence``).

    Attributes:
        mode: ``exact``: use the longest common prefix and compute the rest. ``shift``: move it to its place, as it is.
            ``blend``: also compute anew the tokens that this harms most. ``auto``: the cheapest of these two whose
            figures pass. ``full``: compute everything. A mode whose figures do not pass gives way to ``exact``.
        ratio: Share of tokens that ``blend`` computes anew; 0.15 as in CacheBlend (arXiv 2405.16444).
        check_layer: Layer at which it chooses them, from 0. It must lie behind the layers in which memories look at
            each other; None: a quarter of the way up. Blending costs about ``(check_layer + 1) / layers + ratio`` of
            computing everything.
        min_self_contained: Least share of right answers kept, of questions that one memory answers.
        min_cross: Least share of right answers kept, of questions that two memories answer together.
        max_divergence: Most that the next token's distribution may differ from that of computing everything, as mean
            Kullback-Leibler divergence in nats; None: it is reported and decides nothing where answers can.
        probes: What is asked. Questions of your own measure what you care for.
        folder: Where the figures are kept, so that a model is measured once; None: once in each process.
    """

    mode: Mode = "exact"
    ratio: float = 0.15
    check_layer: int | None = None
    min_self_contained: float = 0.99
    min_cross: float = 0.95
    max_divergence: float | None = None
    probes: ProbeSet = PROBES_V2
    folder: Path | None = None

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise InvalidInput(f"compose is one of {', '.join(get_args(Mode))}, not {self.mode!r}")
        for name in ("ratio", "min_self_contained", "min_cross"):
            if not 0 <= getattr(self, name) <= 1:
                raise InvalidInput(f"{name} is a share from 0 to 1, not {getattr(self, name)}")
        if not self.probes.blocks or any(len(each.facts) < 2 or not each.probes for each in self.probes.blocks):
            raise InvalidInput("probes need blocks of at least two facts, each with a question")

    def methods(self, layers: int) -> tuple[Method, ...]:
        """Return the methods that the mode allows on a model of that many layers, cheapest first."""
        check_layer = max(1, layers // 4) if self.check_layer is None else self.check_layer
        every = Method("shift"), Method("blend", self.ratio, min(check_layer, layers - 1))
        return tuple(method for method in every if self.mode in {method.name, "auto"})

    def passes(self, figures: Figures) -> bool:
        """Tell whether a method with these figures may be used."""
        bound = self.max_divergence
        if bound is not None and figures.divergence > bound:
            return False
        return all(self.keeps(each, figures.divergence) for each in figures.answers)

    def keeps(self, answers: Answers, divergence: float) -> bool:
        """Tell whether enough answers of one kind stay."""
        least = self.min_self_contained if answers.kind == "self-contained" else self.min_cross
        if answers.right_in_full >= MIN_RIGHT:
            return answers.kept >= least * answers.right_in_full
        bound = UNPROVEN_DIVERGENCE if self.max_divergence is None else self.max_divergence
        return answers.same >= least * answers.prompts and divergence <= bound


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
            rotation, calibration = self._figures(loaded, run, mark)
        except UnsupportedOption as obstacle:
            return Verdict(None, None, f"compose={self.policy.mode!r} gave way to exact: {obstacle}")
        for figures in calibration.figures:
            if self.policy.passes(figures):
                return Verdict(figures.method, rotation, f"{in_words(calibration, figures)}; approximate")
        found = "; ".join(in_words(calibration, figures) for figures in calibration.figures)
        return Verdict(None, None, f"compose={self.policy.mode!r} gave way to exact: {found}; {self._limits}")

    def calibration(self, loaded: LoadedModel, run: Run, mark: str) -> Calibration:
        """Return the figures of every method that the policy allows. Raises ``UnsupportedOption`` as ``calibrate``."""
        refuse_unfit(loaded)
        return self._figures(loaded, run, mark)[1]

    def _figures(self, loaded: LoadedModel, run: Run, mark: str) -> tuple[Rotation, Calibration]:
        policy = self.policy
        methods = policy.methods(len(loaded.layout or ()))
        folder = None if policy.folder is None else CalibrationFolder(policy.folder)
        kept = None if folder is None else folder.read(mark, policy.probes.name, methods)
        if kept is not None:
            return run(rotated(loaded)), kept
        rotation, calibration = run(measured(loaded, mark, methods, policy.probes))
        if folder is not None:
            try:
                folder.write(calibration)
            except OSError as error:  # what was measured holds all the same; the next process measures again
                warnings.warn(f"the figures of {loaded.name} could not be kept: {error}", RuntimeWarning, stacklevel=2)
        return rotation, calibration

    @property
    def _limits(self) -> str:
        policy = self.policy
        bound = "" if policy.max_divergence is None else f", KL {policy.max_divergence:g}"
        return f"the limits are {policy.min_self_contained:.0%} and {policy.min_cross:.0%} of right answers kept{bound}"


def refuse_unfit(loaded: LoadedModel) -> None:
    """Raise ``UnsupportedOption`` if single tokens of this model cannot be computed anew."""
    kind = loaded.config.model_type
    if loaded.window is not None:
        raise UnsupportedOption(f"{kind} has layers with a sliding window, which keep no tokens to move")
    attention = str(loaded.model.config._attn_implementation)
    if attention not in MASKED_ATTENTION:
        raise UnsupportedOption(f"the attention implementation {attention} takes no mask for single tokens")


def rotated(loaded: LoadedModel) -> Generator[str, None, Rotation]:
    """Return how keys are moved."""
    yield ""
    return read_rotation(loaded.model)


def measured(
    loaded: LoadedModel, mark: str, methods: tuple[Method, ...], probes: ProbeSet
) -> Generator[str, None, tuple[Rotation, Calibration]]:
    """Return how keys are moved and what was measured."""
    rotation = read_rotation(loaded.model)
    calibration = yield from calibrate(loaded, mark, rotation, methods, probes)
    return rotation, calibration


def in_words(calibration: Calibration, figures: Figures) -> str:
    answers = ", ".join(
        f"{each.kind} {each.kept} of {each.right_in_full} right answers kept, {each.same} of {each.prompts} the same"
        for each in figures.answers
        if each.prompts
    )
    return (
        f"{figures.method.name} against computing everything: {answers}; KL {figures.divergence:.2g}, same next token "
        f"{figures.agreement:.0%} (measured on {calibration.probes})"
    )

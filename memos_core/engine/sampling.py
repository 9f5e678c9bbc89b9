"""From logits to a token."""

from __future__ import annotations

import torch

from memos_core.engine.base import GenerationOptions
from memos_core.errors import InvalidInput

__all__ = ["Sampler", "check_options"]


def check_options(options: GenerationOptions) -> None:
    """Raise ``InvalidInput`` where an option has a value that means nothing."""
    if options.max_tokens < 1:
        raise InvalidInput(f"max_tokens is at least 1, not {options.max_tokens}")
    if not 0 <= options.temperature < float("inf"):
        raise InvalidInput(f"temperature is 0 or greater, not {options.temperature}")
    if not 0 < options.top_p <= 1:
        raise InvalidInput(f"top_p lies above 0 and not above 1, not {options.top_p}")
    if any(not stop for stop in options.stop):
        raise InvalidInput("a stop string must not be empty")


class Sampler:
    """Picks tokens for one request, with a random generator of its own.

    Temperature 0 takes the most likely token, always. The generator lives on the CPU, so a seed gives the same draws
    on every device.
    """

    def __init__(self, options: GenerationOptions) -> None:
        self.options = options
        self.generator = torch.Generator()
        if options.seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(options.seed % 2**63)

    def pick(self, logits: torch.Tensor) -> int:
        """Return the id of the next token. ``logits``: ``[vocabulary]``, any dtype and device."""
        if self.options.temperature == 0:
            return int(logits.argmax())
        probabilities = torch.softmax(logits.float().cpu() / self.options.temperature, dim=-1)
        if self.options.top_p < 1:
            probabilities = nucleus(probabilities, self.options.top_p)
        return int(torch.multinomial(probabilities, 1, generator=self.generator))


def nucleus(probabilities: torch.Tensor, top_p: float) -> torch.Tensor:
    """Return ``probabilities`` (``[vocabulary]``) with 0 outside the smallest set that holds a share of ``top_p``.

    Holtzman et al., The Curious Case of Neural Text Degeneration, arXiv 1904.09751, section 3.1.
    """
    ordered, order = probabilities.sort(descending=True)
    before = ordered.cumsum(-1) - ordered
    kept = torch.where(before < top_p, ordered, 0.0)
    return torch.zeros_like(probabilities).scatter(0, order, kept)

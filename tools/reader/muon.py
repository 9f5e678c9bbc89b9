"""Momentum with orthogonalised updates for the matrices inside the layers."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.775, 2.0315)


def orthogonalise(stack: Tensor, rounds: int = 5) -> Tensor:
    """Brings the singular values of a stack of matrices near one by Newton-Schulz rounds.

    Args:
        stack: Matrices of one shape.
        rounds: Number of rounds.

    Returns:
        A stack of the same shape.
    """
    a, b, c = COEFFICIENTS
    tall = stack.shape[-2] > stack.shape[-1]
    matrix = stack.mT if tall else stack
    matrix = matrix / (matrix.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(rounds):
        square = matrix @ matrix.mT
        matrix = a * matrix + (b * square + c * square @ square) @ matrix
    return matrix.mT if tall else matrix


class OrthogonalMomentum(torch.optim.Optimizer):
    """Steps along the orthogonalised momentum, scaled to the size of a usual Adam step.

    Args:
        parameters: Matrices.
        lr: Learning rate.
        momentum: Share of the momentum kept.
        decay: Weight decay.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float, momentum: float = 0.95, decay: float = 0.02) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Makes a step, matrices of one shape together."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                shapes.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in shapes.items():
                stack = torch.stack([self._direction(item, group["momentum"]) for item in parameters])
                scale = group["lr"] * 0.2 * max(shape) ** 0.5
                for parameter, update in zip(parameters, orthogonalise(stack), strict=True):
                    parameter.mul_(1 - group["lr"] * group["decay"]).sub_(update, alpha=scale)

    def _direction(self, parameter: Tensor, momentum: float) -> Tensor:
        """Adds the gradient to the momentum and looks one step ahead."""
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(parameter.grad, 1 - momentum)
        return torch.lerp(parameter.grad, state["momentum"], momentum)

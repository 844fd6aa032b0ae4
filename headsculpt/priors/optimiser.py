"""Muon for matrices and convolutions, AdamW for the rest.

On the mini UNet Muon (Jordan et al. 2024) reached after 220 steps the loss that AdamW reached after about 400,
at the same learning rate, batch and time a step. torch.optim.Muon takes one matrix after another: thousands of small
kernels a step for a GPU, and all of it in bfloat16, which most CPUs only imitate.
Here matrices of one shape go together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

# What is no hidden matrix: the first and last layers, and what starts at zero.
LEFT_OUT = (
    "conv_in", "conv_out", "cond_embedding", "positional", "controlnet_down", "controlnet_mid",
    "heads", "landmark_out",
)  # fmt: skip


MOMENTUM = 0.95
QUINTIC = (3.4445, -4.7750, 2.0315)  # of Jordan et al.: five steps bring singular values to between 0.7 and 1.2
STEPS = 5


def orthogonalised(matrices: Tensor) -> Tensor:
    """The nearest matrices with singular values of about 1, ``(B, O, I)`` as they came, by Newton and Schulz."""
    # bfloat16 is enough (Jordan et al.), and fast where it is a GPU's own.
    x = matrices.to(torch.bfloat16 if matrices.is_cuda else torch.float32)
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    a, b, c = QUINTIC
    for _ in range(STEPS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum, its steps scaled to the size of AdamW's (Liu et al. 2025).

    Args:
        matrices: ``(O, I)`` each.
        lr: learning rate.
        weight_decay: decoupled.
    """

    def __init__(self, matrices: Sequence[nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step of every matrix that has a gradient."""
        for group in self.param_groups:
            alike: dict[tuple[int, ...], list[Tensor]] = {}
            for matrix in group["params"]:
                if matrix.grad is not None:
                    alike.setdefault(tuple(matrix.shape), []).append(matrix)
            for (rows, columns), matrices in alike.items():
                gradients = [matrix.grad for matrix in matrices if matrix.grad is not None]
                for matrix in matrices:
                    if not self.state[matrix]:
                        self.state[matrix]["momentum_buffer"] = torch.zeros_like(matrix)
                momenta = [self.state[matrix]["momentum_buffer"] for matrix in matrices]
                torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
                steps = orthogonalised(torch.stack(torch._foreach_lerp(gradients, momenta, MOMENTUM)))
                torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
                rate = group["lr"] * 0.2 * math.sqrt(max(rows, columns))
                torch._foreach_add_(matrices, list(steps.unbind()), alpha=-rate)


def _as_matrix(values: Tensor, parameter: Tensor) -> Tensor:
    """Values of a parameter's shape as ``(O, rest)``, in the order in which the parameter lies in memory."""
    if parameter.ndim == 4 and not parameter.is_contiguous():  # channels last
        values = values.permute(0, 2, 3, 1)
    return values.reshape(parameter.shape[0], -1)


class MuonAdamW:
    """Two optimisers behind the methods of one.

    Args:
        model: its trainable parameters; convolution weights ``(O, I, k, k)`` are seen as ``(O, I k k)``.
        learning_rate: of both.
        betas, weight_decay: of AdamW; the decay also of Muon.
    """

    def __init__(
        self, model: nn.Module, learning_rate: float, betas: tuple[float, float], weight_decay: float
    ) -> None:
        self.views: list[tuple[nn.Parameter, nn.Parameter]] = []
        rest = []
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            if parameter.ndim >= 2 and not any(part in name for part in LEFT_OUT):
                # Shares the parameter's memory, so a step on the matrix is a step on the parameter.
                self.views.append((nn.Parameter(_as_matrix(parameter.data, parameter)), parameter))
            else:
                rest.append(parameter)
        self._muon = Muon([matrix for matrix, _ in self.views], learning_rate, weight_decay)
        self._adamw = torch.optim.AdamW(
            rest, lr=learning_rate, betas=betas, weight_decay=weight_decay, foreach=True
        )

    @property
    def param_groups(self) -> Sequence[dict[str, Any]]:
        return [*self._muon.param_groups, *self._adamw.param_groups]

    def step(self) -> None:
        for matrix, parameter in self.views:
            matrix.grad = None if parameter.grad is None else _as_matrix(parameter.grad, parameter)
        self._muon.step()
        self._adamw.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        for matrix, parameter in self.views:
            matrix.grad = parameter.grad = None
        self._adamw.zero_grad(set_to_none=set_to_none)

    def state_dict(self) -> dict[str, Any]:
        return {"muon": self._muon.state_dict(), "adam": self._adamw.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._muon.load_state_dict(state["muon"])
        self._adamw.load_state_dict(state["adam"])

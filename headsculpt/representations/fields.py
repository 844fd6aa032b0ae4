"""The network of the NeRF: a hash grid and a small multi-layer perceptron, and its colour by itself."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from headsculpt.representations.encodings import HashGrid


class Field(nn.Module):
    """Scene points to a raw density and an albedo (method A.2: one network gives both).

    Args:
        encoding: of the cube [-bound, bound]^3.
        hidden: width of the hidden layers.
        layers: number of hidden layers.
        bound: half edge of the cube, scene units.
        bfloat16: runs the matrix products in bfloat16; parameters and outputs stay float32.
        generator: of the initial weights.
    """

    def __init__(
        self,
        encoding: HashGrid,
        *,
        hidden: int = 64,
        layers: int = 1,
        bound: float = 1.0,
        bfloat16: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if hidden < 1 or layers < 1:
            raise ValueError(f"hidden and layers must be at least 1; got hidden={hidden}, layers={layers}")
        self.encoding, self.bound, self._reduced = encoding, float(bound), bfloat16
        widths = [encoding.width] + [hidden] * layers + [4]
        self.network = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths[:-1], widths[1:], strict=True))
        for layer in self.network:
            assert isinstance(layer, nn.Linear)
            scale = (6 / layer.in_features) ** 0.5  # He et al. 2015, for ReLU
            layer.weight.data = (torch.rand(layer.weight.shape, generator=generator) * 2 - 1) * scale
            layer.bias.data.zero_()

    def raw(self, x: Tensor) -> Tensor:
        """``(N, 3)`` scene points to ``(N, 4)``: raw density, raw colour."""
        h = self.encoding(x * (0.5 / self.bound) + 0.5)
        if self._reduced:
            h = h.bfloat16()
        for number, layer in enumerate(self.network):
            assert isinstance(layer, nn.Linear)
            weight: Tensor = layer.weight
            bias: Tensor = layer.bias
            if self._reduced:
                weight, bias = weight.bfloat16(), bias.bfloat16()
            h = nn.functional.linear(h, weight, bias)
            if number + 1 < len(self.network):
                h = torch.relu(h)
        return h.float() if self._reduced else h


class ColourField(nn.Module):
    """The albedo of a field: ``(N, 3)`` scene points to ``(N, 3)`` in [0, 1]; shares its parameters."""

    def __init__(self, field: Field) -> None:
        super().__init__()
        self.field = field

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.field.raw(x)[:, 1:])

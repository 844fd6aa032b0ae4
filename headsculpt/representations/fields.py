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
                h = torch.relu_(h)  # in place: one large array less to write
        return h.float() if self._reduced else h


class ColourField(nn.Module):
    """The albedo of a field: ``(N, 3)`` scene points to ``(N, 3)`` in [0, 1]; shares its parameters."""

    def __init__(self, field: Field) -> None:
        super().__init__()
        self.field = field

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.field.raw(x)[:, 1:])


def paint(
    field: Field,
    vertices: Tensor,
    faces: Tensor,
    colours: Tensor,
    generator: torch.Generator,
    *,
    steps: int = 160,
    batch: int = 1 << 14,
    below: float = 0.03,
    above: float = 0.05,
) -> None:
    """Trains a fresh field's colour on a coloured surface, and its raw density on 0 there.

    Diffusion then starts from a face whose eyes and lips are where they belong, rather than from grey (ours).

    Args:
        field: trained in place.
        vertices, faces, colours: ``(V, 3)`` scene units, ``(F, 3)``, ``(V, 3)`` in [0, 1].
        generator: CPU generator of the points.
        steps, batch: of Adam, and points in each step.
        below, above: how deep and how high above the surface its colour reaches, scene units.
    """
    corners, hues = vertices[faces], colours[faces]
    cross = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    areas, normals = cross.norm(dim=-1), nn.functional.normalize(cross, dim=-1)
    # Half by area, half by triangle: eyes and lips are made of many small ones.
    shares = (0.5 * areas / areas.sum() + 0.5 / len(faces)).cpu()
    grid = list(field.encoding.parameters())
    ids = {id(p) for p in grid}
    rest = [p for p in field.parameters() if id(p) not in ids]
    rates = (1e-2, 2e-3)
    groups = [{"params": p, "lr": rate} for p, rate in zip((grid, rest), rates, strict=True)]
    optimiser = torch.optim.Adam(groups, eps=1e-15)
    device = vertices.device
    for step in range(steps):
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * (1 - 0.9 * step / steps)
        which = torch.multinomial(shares, batch, replacement=True, generator=generator).to(device)
        place = torch.rand((batch, 2), generator=generator).sort(-1).values
        weights = torch.stack([place[:, 0], place[:, 1] - place[:, 0], 1 - place[:, 1]], -1).to(device)
        height = ((above + below) * torch.rand((batch, 1), generator=generator) - below).to(device)
        points = (weights[..., None] * corners[which]).sum(1) + height * normals[which]
        raw = field.raw(points.clamp(-field.bound, field.bound))
        wanted = (weights[..., None] * hues[which]).sum(1)
        error = (torch.sigmoid(raw[:, 1:]) - wanted).square().mean()
        loss = error + 1e-2 * raw[:, 0].square().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

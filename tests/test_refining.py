"""The last look: each view is asked once and painted; the shape and the back stay."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from headsculpt.cameras import framed
from headsculpt.config import load_config, overridden
from headsculpt.guidance.score_distillation import GuidanceRecord
from headsculpt.priors.upscaler import Upscaler
from headsculpt.refining import BUST, FACE, VIEWS, refine_colours
from headsculpt.representations.dmtet import DMTet
from headsculpt.representations.encodings import HashGrid
from headsculpt.sculpting_stages import FineStage

CONFIG = load_config("draft", ["fine.render_size=64", "fine.tet_resolution=20"], prompt="an egg", device="cpu")


class Paint(nn.Module):
    """A small hash-grid colour field that starts grey."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.grid = HashGrid(levels=4, finest_resolution=32, log2_table=12)
        self.out = nn.Linear(8, 3)  # 4 levels of 2 features

    def forward(self, points):
        return torch.sigmoid(self.out(self.grid(points * 0.5 + 0.5)))


def egg_stage() -> FineStage:
    def ball(points):
        return 0.6 - points.norm(dim=-1)  # inside positive, as a density's logarithm

    dmtet = DMTet.from_field(lambda x: ball(x).mul(20).exp(), resolution=20, colour_field=Paint(), bound=1.0)
    return FineStage(dmtet, CONFIG)


def image(stage: FineStage, azimuth_deg: float) -> torch.Tensor:
    with torch.no_grad():
        return stage.dmtet.render(framed([azimuth_deg], 5.0, 0.7, height=32, width=32), shaded=False).rgb[0]


def reddening(asked: list[tuple[float, float]]):
    """A guidance that wants the front red and the rest as it is, and notes what it was asked."""

    def guidance(rendering, cameras, progress, generator):
        asked.append((float(cameras.azimuth_deg[0]), progress))
        red = torch.tensor([0.9, 0.1, 0.1]) * rendering.opacity + 0.85 * (1 - rendering.opacity)
        front = abs(float(cameras.azimuth_deg[0])) < 90
        return rendering.rgb.sum() * 0, GuidanceRecord(0.5, 0.0, (red if front else rendering.rgb).detach())

    return guidance


def test_views_are_asked_once_in_order_and_painted_while_shape_and_back_stay():
    stage, asked, reports = egg_stage(), [], []
    sdf, deform = stage.dmtet.sdf.detach().clone(), stage.dmtet.deform.detach().clone()
    weights = [p.detach().clone() for p in stage.dmtet.colour_field.parameters()]
    front, back = image(stage, 0.0), image(stage, 180.0)
    refine_colours(CONFIG, stage, reddening(asked), reports.append)
    assert [abs(azimuth) for azimuth, _ in asked] == [abs(azimuth) for azimuth, _, _ in VIEWS]
    progress = [p for _, p in asked]
    bust, face = progress[: len(BUST)], progress[len(BUST) :]
    # A hat is settled before a picture from near shows a part of it.
    assert min(half for *_, half in BUST) > 1 > max(half for *_, half in FACE)
    assert bust == sorted(bust) and bust[0] == 0 and 0.4 < bust[-1] < 0.5
    assert face == sorted(face) and face[0] == 0 and 0.9 < face[-1] < 1
    assert reports == list(range(1, len(VIEWS) + 1)) and CONFIG.refine.views == len(VIEWS)
    assert torch.equal(stage.dmtet.sdf, sdf) and torch.equal(stage.dmtet.deform, deform)
    assert all(torch.equal(now, then) for now, then in zip(stage.dmtet.colour_field.parameters(), weights, strict=True))
    changed_front = (image(stage, 0.0) - front).abs().mean()
    changed_back = (image(stage, 180.0) - back).abs().mean()
    middle = image(stage, 0.0)[16, 16]
    assert middle[0] > middle[1] + 0.6
    assert changed_back < 0.1 * changed_front


def test_fewer_views_are_the_first_ones():
    asked: list[tuple[float, float]] = []
    refine_colours(overridden(CONFIG, ["refine.views=3"]), egg_stage(), reddening(asked))
    assert [abs(azimuth) for azimuth, _ in asked] == [abs(azimuth) for azimuth, _, _ in VIEWS[:3]]


def test_pictures_are_made_larger_before_they_are_painted():
    """What the upscaler draws is painted at its own size, finer than the guidance was shown."""

    class Checkered(Upscaler):
        def upscaled(self, pictures):
            larger = torch.zeros(1, 2 * pictures.shape[1], 2 * pictures.shape[2], 3)
            larger[:, ::2, ::2], larger[:, 1::2, 1::2] = 0.8, 0.8
            return larger

    shown = []

    def grey(rendering, cameras, progress, generator):
        shown.append(rendering.rgb.shape[1])
        return rendering.rgb.sum() * 0, GuidanceRecord(0.5, 0.0, torch.full((1, 64, 64, 3), 0.5))

    config, fine = overridden(CONFIG, ["refine.views=1"]), []
    for upscaler in (None, Checkered()):
        stage = egg_stage()
        refine_colours(config, stage, grey, upscaler=upscaler)
        with torch.no_grad():
            camera = framed([VIEWS[0][0]], VIEWS[0][1], VIEWS[0][2], height=128, width=128)
            picture = stage.dmtet.render(camera, shaded=False).rgb[0, 56:72, 56:72].mean(-1)
        fine.append(float((picture[:, 1:] - picture[:, :-1]).abs().mean()))
    assert shown == [64, 64]
    assert fine[0] < 0.02 and fine[1] > 0.4


def test_it_is_the_same_every_time():
    first, second = egg_stage(), egg_stage()
    for stage in (first, second):
        torch.rand(5)  # what others draw must not matter
        refine_colours(CONFIG, stage, reddening([]))
    assert torch.equal(image(first, 20.0), image(second, 20.0))


@pytest.mark.parametrize("guidance", [
    lambda rendering, cameras, progress, generator: rendering.rgb.sum(),
    lambda rendering, cameras, progress, generator: (rendering.rgb.sum(), GuidanceRecord(0.5, 0.0)),
])  # fmt: skip
def test_a_guidance_without_pictures_is_refused(guidance):
    with pytest.raises(ValueError, match="this guidance gives none .* set refine.views=0"):
        refine_colours(CONFIG, egg_stage(), guidance)

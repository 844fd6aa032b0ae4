"""The last look: each view is asked once and learnt; the shape and the back stay."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from headsculpt.cameras import framed
from headsculpt.config import load_config, overridden
from headsculpt.guidance.score_distillation import GuidanceRecord
from headsculpt.refining import BEHIND_DEG, VIEWS, chroma_variation, refine_colours, refine_steps
from headsculpt.representations.dmtet import DMTet
from headsculpt.representations.encodings import HashGrid
from headsculpt.sculpting_stages import FineStage

CONFIG = load_config(
    "draft", ["fine.render_size=32", "fine.tet_resolution=20", "refine.steps=8"], prompt="an egg", device="cpu"
)


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
        front = abs(float(cameras.azimuth_deg[0])) < BEHIND_DEG
        return rendering.rgb.sum() * 0, GuidanceRecord(0.5, 0.0, (red if front else rendering.rgb).detach())

    return guidance


def test_views_are_asked_once_in_order_and_learnt_while_shape_and_back_stay():
    stage, asked, losses = egg_stage(), [], []
    sdf, deform = stage.dmtet.sdf.detach().clone(), stage.dmtet.deform.detach().clone()
    front, back = image(stage, 0.0), image(stage, 180.0)
    refine_colours(CONFIG, stage, reddening(asked), lambda step, loss: losses.append(loss))
    assert [abs(azimuth) for azimuth, _ in asked] == [abs(azimuth) for azimuth, _, _ in VIEWS]
    progress = [p for _, p in asked]
    assert progress == sorted(progress) and progress[0] == 0 and progress[-1] < 1
    assert len(losses) == refine_steps(CONFIG) == 8 * len(VIEWS)
    assert torch.equal(stage.dmtet.sdf, sdf) and torch.equal(stage.dmtet.deform, deform)
    changed_front = (image(stage, 0.0) - front).abs().mean()
    changed_back = (image(stage, 180.0) - back).abs().mean()
    middle = image(stage, 0.0)[16, 16]
    assert middle[0] > middle[1] + 0.3
    assert changed_back < 0.35 * changed_front


def test_chroma_varies_with_colour_and_not_with_brightness():
    grey = torch.rand(1, 8, 8, 1).expand(1, 8, 8, 3)
    assert chroma_variation(grey) < 1e-6
    halves = torch.zeros(1, 8, 8, 3)
    halves[:, :4, :, 0] = 0.6  # (0.6, 0, 0) is 0.2 of brightness and (0.4, -0.2, -0.2) of colour
    halves[:, 4:] = 0.2
    # One edge of seven, and a mean over three channels.
    torch.testing.assert_close(chroma_variation(halves), torch.tensor(0.8 / 3 / 7))


def test_specks_finer_than_the_pictures_are_smoothed():
    def grey(rendering, cameras, progress, generator):
        picture = torch.full((1, 16, 16, 3), 0.85)  # half the renders' size
        return rendering.rgb.sum() * 0, GuidanceRecord(0.5, 0.0, picture)

    def specks(weight: float) -> float:
        stage = egg_stage()
        with torch.no_grad():
            for table in stage.dmtet.colour_field.grid.parameters():
                table.normal_(generator=torch.Generator().manual_seed(1))
        config = overridden(CONFIG, [f"refine.chroma_weight={weight}"])
        refine_colours(config, stage, grey)
        return float(chroma_variation(image(stage, 0.0)[None]))

    assert specks(0.5) < 0.7 * specks(0.0)


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
    with pytest.raises(ValueError, match="this guidance gives none .* set refine.steps=0"):
        refine_colours(CONFIG, egg_stage(), guidance)

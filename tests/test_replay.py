"""Replay: pictures are learnt more than once, kept in bounds, and survive an interruption."""

from __future__ import annotations

import pytest
import torch

from headsculpt.cameras import framed
from headsculpt.config import load_config
from headsculpt.guidance.score_distillation import GuidanceRecord, image_loss
from headsculpt.replay import KEPT, Replay
from headsculpt.run_folder import RunFolder
from headsculpt.sculpting import sculpt

TINY = [
    "coarse.steps=4", "coarse.batch=1", "coarse.render_size=16", "coarse.samples=8", "coarse.hash_levels=4",
    "fine.steps=3", "fine.batch=1", "fine.render_size=24", "fine.tet_resolution=16", "refine.views=0",
    "checkpoint_every_s=0", "preview_every_s=1000",
]  # fmt: skip


def kept(count: int, size: int = 8, view: int = 16) -> Replay:
    replay = Replay()
    for number in range(count):
        cameras = framed([float(number)], 5.0, 0.8, height=view, width=view)
        replay.add(cameras, torch.full((1, 3), 0.5), torch.full((1, size, size, 3), number / 64))
    return replay


def test_the_oldest_pictures_go_first():
    replay, generator = kept(KEPT + 5), torch.Generator().manual_seed(0)
    assert len(replay) == KEPT
    seen = {round(float(replay.any(generator)[0].azimuth_deg)) for _ in range(400)}
    assert seen == set(range(5, KEPT + 5))


@pytest.mark.parametrize(("size", "view", "expected"), [(8, 16, 8), (32, 16, 16), (16, 16, 16)])
def test_views_and_pictures_are_kept_at_the_smaller_size(size, view, expected):
    cameras, background, target = kept(1, size, view).any(torch.Generator())
    assert (cameras.height, cameras.width) == (expected, expected) and target.shape == (1, expected, expected, 3)
    assert background.shape == (1, 3) and target.dtype == torch.float32


def test_what_was_kept_comes_back_bit_for_bit(tmp_path):
    replay, again = kept(3), kept(1)
    torch.save(replay.state_dict(), tmp_path / "state.pt")
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert len(again) == 3
    for seed in range(6):
        a, b = (r.any(torch.Generator().manual_seed(seed)) for r in (replay, again))
        assert torch.equal(a[2], b[2]) and torch.equal(a[0].camera_to_world, b[0].camera_to_world)


def test_nothing_kept_is_an_error():
    with pytest.raises(ValueError, match="nothing to replay: no picture has been added"):
        Replay().any(torch.Generator())


class Reddener:
    """Wants everything red, and counts how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, rendering, cameras, progress, generator):
        self.asked += 1
        target = torch.tensor([0.9, 0.1, 0.1]) * rendering.opacity + 0.5 * (1 - rendering.opacity)
        target = target.detach()
        return image_loss(rendering.rgb, target), GuidanceRecord(0.5, 0.0, target)


def sculpted(path, *extra: str, guidance=None, progress=None):
    config = load_config("draft", [*TINY, *extra], prompt="an egg", device="cpu")
    run = RunFolder.open(path) if (path / "config.yaml").exists() else RunFolder.create(path, config)
    return sculpt(config, run, guidance=guidance or Reddener(), progress=progress)


def redness(head) -> float:
    return float(head.mesh.colours[:, 0].mean() - head.mesh.colours[:, 1].mean())


def test_each_picture_is_learnt_again_without_asking_again(tmp_path):
    once, often = Reddener(), Reddener()
    plain = sculpted(tmp_path / "once", "coarse.replay=0", "fine.replay=0", guidance=once)
    replayed = sculpted(tmp_path / "often", "coarse.replay=6", "fine.replay=6", guidance=often)
    assert once.asked == often.asked == 7
    assert redness(replayed) > redness(plain) + 0.02


@pytest.mark.parametrize("moment", [2, 6])
def test_a_run_cut_off_among_replayed_pictures_ends_the_same(tmp_path, moment):
    undisturbed = sculpted(tmp_path / "whole")
    seen = []

    def stop(progress):
        seen.append(progress)
        if len(seen) == moment:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sculpted(tmp_path / "cut", progress=stop)
    torch.manual_seed(99)
    head = sculpted(tmp_path / "cut")
    for part in ("vertices", "faces", "colours"):
        assert torch.equal(getattr(head.mesh, part), getattr(undisturbed.mesh, part))

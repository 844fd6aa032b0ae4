"""What an edit leaves alone: laws of the figures."""

from __future__ import annotations

import pytest
import torch

from headsculpt.cameras import framed
from headsculpt.evaluation.preservation import (
    attributes_kept,
    edited_region,
    identity_preservation,
    landmark_drift,
    outside_difference,
)
from headsculpt.heads.builtin import builtin_head
from headsculpt.synthesis.attributes import VALUES


def pictures() -> tuple[torch.Tensor, torch.Tensor]:
    image = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    region = torch.zeros(2, 1, 16, 16, dtype=torch.bool)
    region[..., :8] = True
    return image, region


def test_the_difference_outside_sees_the_outside_alone() -> None:
    image, region = pictures()
    assert outside_difference(image, image, region) == 0
    inside = torch.where(region, 1 - image, image)
    assert outside_difference(image, inside, region) == 0
    for amount in (0.1, 0.25):
        shifted = torch.where(region, image, image + amount)
        assert outside_difference(image, shifted, region) == pytest.approx(amount, abs=1e-6)
        assert outside_difference(shifted, image, region) == pytest.approx(amount, abs=1e-6)
    assert outside_difference(image, 1 - image, torch.ones_like(region)) is None
    with pytest.raises(ValueError, match=r"expected two \(B, 3, H, W\) and a region"):
        outside_difference(image, image[:1], region)


def test_drift_of_a_shift_is_its_length_over_points_seen_in_both() -> None:
    points = torch.rand(2, 5, 2, generator=torch.Generator().manual_seed(1))
    seen = torch.ones(2, 5)
    assert landmark_drift(points, points, seen, seen) == 0
    moved = points + torch.tensor([0.03, 0.04])
    assert landmark_drift(points, moved, seen, seen) == pytest.approx(0.05, abs=1e-6)
    moved[:, 0] += 9
    hidden = seen.clone()
    hidden[:, 0] = 0.4
    assert landmark_drift(points, moved, seen, hidden) == pytest.approx(0.05, abs=1e-6)
    assert landmark_drift(moved, points, hidden, seen) == pytest.approx(0.05, abs=1e-6)
    assert landmark_drift(points, points, seen, torch.zeros(2, 5)) is None
    with pytest.raises(ValueError, match=r"expected landmarks \(B, K, 2\) twice"):
        landmark_drift(points, points[:, :2], seen, seen)


def test_kept_attributes_leave_out_what_is_named_and_what_is_not_there() -> None:
    before = {"subject": "man", "eyewear": "none", "headwear": "none", "headwear_colour": "red", "nose": "big"}
    after = {"subject": "man", "eyewear": "sunglasses", "headwear": "none", "headwear_colour": "blue", "nose": "long"}
    assert attributes_kept(before, before, ()) == (4, 4)
    assert attributes_kept(before, after, {"eyewear"}) == (2, 3)
    assert attributes_kept(before, after, ()) == (2, 4)
    assert attributes_kept(before, {}, ()) == (0, 0)
    statue = {**after, "material": "marble bust", "skin": "pale"}  # nobody's skin is seen on marble
    assert attributes_kept({**before, "skin": "tan"}, statue, {"material", "eyewear"}) == (2, 3)


def test_regions_hold_what_the_family_is_about_from_every_side() -> None:
    head = builtin_head()
    cameras = framed([0.0, 60.0, -90.0, 180.0], 5.0, 1.0, height=64, width=64)
    pixels = cameras.pixels(torch.from_numpy(head.template)).long().clamp(0, 63)
    for family, part in (("eyewear", "eyeballs"), ("facial_hair", "beard"), ("nose", "nose"), ("headwear", "scalp")):
        region = edited_region({family}, cameras)
        chosen = torch.from_numpy(head.regions[part] > 0.5)
        if family == "headwear":
            chosen &= torch.from_numpy(head.template[:, 1] > 0.2)
        for b in range(len(cameras)):
            x, y = pixels[b, chosen].T
            assert region[b, 0, y, x].float().mean() > 0.95, (family, b)
        assert region.float().mean() < 0.5
    both = edited_region({"eyewear", "clothing"}, cameras)
    assert (both == edited_region({"eyewear"}, cameras) | edited_region({"clothing"}, cameras)).all()
    assert edited_region({"material"}, cameras).all() and not edited_region((), cameras).any()
    assert all(edited_region({family}, cameras).any() for family in VALUES)
    with pytest.raises(ValueError, match="unknown attribute 'glasses'; there are subject"):
        edited_region({"glasses"}, cameras)


def test_an_avatar_preserves_itself() -> None:
    from stand_ins import textured_egg

    from headsculpt.avatar import Avatar
    from headsculpt.evaluation.judge import Judge, JudgeConfig, JudgeNetwork

    torch.manual_seed(0)
    config = JudgeConfig(contours={"oval": 5}) if "contours" in JudgeConfig.__dataclass_fields__ else JudgeConfig()
    judge = Judge(JudgeNetwork(config))
    egg = Avatar(textured_egg())
    found = identity_preservation(egg, egg, judge, {"eyewear"}, resolution=32)
    assert found["outside_difference"] == 0 and found["kept"] == found["kept_of"] > 5
    assert found["landmark_drift"] in (None, 0.0)

"""The examples run, and make what they say."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

EXAMPLES = Path(__file__).parent.parent / "examples"


def example(name):
    return runpy.run_path(str(EXAMPLES / name))["main"]


def test_draw_a_head(tmp_path):
    example("01_draw_a_head.py")(str(tmp_path / "head.png"), 64)
    picture = np.asarray(Image.open(tmp_path / "head.png"))
    assert picture.shape == (64, 256, 3)
    assert (np.abs(picture.astype(int) - picture[0, 0]).sum(-1) > 30).mean() > 0.2


@pytest.mark.slow
def test_guidance_of_your_own_paints_the_head(tmp_path):
    few = [
        "coarse.steps=30", "coarse.batch=2", "coarse.render_size=32", "fine.steps=10", "fine.batch=2",
        "fine.render_size=48", "fine.tet_resolution=24", "output.texture_size=64", "output.max_faces=2000",
    ]  # fmt: skip
    example("03_guidance_of_your_own.py")(str(tmp_path / "head.png"), *few)
    picture = np.asarray(Image.open(tmp_path / "head.png")).astype(int)
    seen = picture[picture[..., 3] > 200]
    left, right = picture[:, :192], picture[:, 192:]
    face, back = left[left[..., 3] > 200].mean(0), right[right[..., 3] > 200].mean(0)
    assert len(seen) > 1000
    assert face[0] - face[2] > back[0] - back[2] + 10  # from 60 degrees the face is on the left: warmer

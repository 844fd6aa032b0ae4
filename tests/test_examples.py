"""The examples run, and make what they say."""

import io
import json
import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from stand_ins import textured_egg

from headsculpt.avatar import Avatar, AvatarInfo

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


def test_an_avatar_makes_faces(tmp_path):
    avatar = Avatar(textured_egg(), AvatarInfo(prompt="an egg", identity={}, expression={}))
    avatar.save(tmp_path / "egg")
    example("04_expressions.py")(str(tmp_path / "faces.png"), str(tmp_path / "egg"), size=32)
    assert np.asarray(Image.open(tmp_path / "faces.png")).shape == (32, 7 * 32, 3)


def test_a_notebook_shows_an_avatar():
    shown = Image.open(io.BytesIO(Avatar(textured_egg())._repr_png_()))
    assert shown.size == (4 * 256, 256)


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells = json.loads((EXAMPLES / "05_notebook.ipynb").read_text(encoding="utf-8"))["cells"]
    names: dict = {}
    for cell in cells:
        if cell["cell_type"] != "code":
            continue
        assert not cell["outputs"]
        exec("".join(cell["source"]), names)
        if "parameters" in cell["metadata"].get("tags", []):
            names["OVERRIDES"] = [
                "coarse.steps=2", "coarse.batch=1", "coarse.render_size=32", "coarse.paint_steps=2", "fine.steps=2",
                "fine.batch=1", "fine.render_size=64", "fine.tet_resolution=16", "refine.views=0",
                "output.texture_size=64", "output.max_faces=2000",
            ]  # fmt: skip
    assert (tmp_path / "head.glb").is_file()
    assert names["with_glasses"].info.lineage == ["a woman with short white hair"]

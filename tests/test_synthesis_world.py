"""The portrait world: figures show what they were asked for, and pictures agree with their cameras."""

from __future__ import annotations

import dataclasses
from functools import cache

import numpy as np
import pytest
import torch

from headsculpt.cameras import framed
from headsculpt.rendering import shading
from headsculpt.synthesis.attributes import VALUES, Attributes
from headsculpt.synthesis.figure import Figure, build_figure, shape_weights
from headsculpt.synthesis.parts import loft, part, sphere, tube, vertex_normals
from headsculpt.synthesis.render import render_figure

GREY = np.full(3, 0.5, np.float32)
PLAIN = Attributes(hair_style="short", headwear_colour="red", clothing_colour="blue")
# What else must be worn for an attribute to be seen at all.
NEEDS: dict[str, dict] = {"headwear_colour": {"headwear": "beanie"}}


@cache
def figure(attributes: Attributes = PLAIN, seed: int = 0) -> Figure:
    return build_figure(attributes, np.random.default_rng(seed))


def picture(attributes: Attributes = PLAIN, size: int = 48, **keywords) -> dict[str, np.ndarray]:
    cameras = framed([0.0, 90.0], 5.0, 0.95, height=size, width=size)
    return render_figure(figure(attributes), cameras, background=GREY, **keywords)


@pytest.mark.parametrize("name", list(VALUES))
def test_every_value_changes_the_picture(name):
    base = dataclasses.replace(PLAIN, **NEEDS.get(name, {}))
    shown = {v: picture(dataclasses.replace(base, **{name: v}))["rgb"].astype(int) for v in VALUES[name]}
    values = list(shown)
    for i, first in enumerate(values):
        for second in values[i + 1 :]:
            changed = (np.abs(shown[first] - shown[second]).max(-1) > 12).mean()
            assert changed > 0.002, (name, first, second, changed)


@pytest.mark.parametrize("name", list(VALUES))
def test_figures_are_finite_and_in_range(name):
    for value in VALUES[name]:
        made = figure(dataclasses.replace(PLAIN, **{**NEEDS.get(name, {}), name: value}))
        for array in (made.vertices, made.normals, made.colours, made.specular):
            assert np.isfinite(array).all() and array.dtype == np.float32
        assert made.colours.min() >= 0 and made.colours.max() <= 1
        assert made.faces.min() >= 0 and made.faces.max() < len(made.vertices)
        assert np.abs(made.vertices).max() < 1.35  # the shadow maps reach that far
        assert made.vertices[:, 1].min() > -1.01


def test_same_seed_gives_the_same_figure_and_another_seed_another():
    one, same = (build_figure(PLAIN, np.random.default_rng(4)) for _ in range(2))
    other = build_figure(PLAIN, np.random.default_rng(5))
    assert np.array_equal(one.vertices, same.vertices) and np.array_equal(one.colours, same.colours)
    head = len(one.vertices) // 3
    assert np.abs(one.vertices[:head] - other.vertices[:head]).max() > 1e-3


def test_shape_weights_are_what_figures_scatter_around():
    a = dataclasses.replace(PLAIN, subject="orc", nose="big", ears="pointed", expression="angry")
    identity, expression = shape_weights(a)
    drawn = [build_figure(a, np.random.default_rng(s)) for s in range(12)]
    assert identity["ear_pointed"] == 1.0 and expression["browDownLeft"] > 0
    for name in ("orc_jaw", "nose_size", "jaw_square"):
        mean = np.mean([f.identity.get(name, 0.0) for f in drawn])
        assert abs(mean - identity.get(name, 0.0)) < 0.15, name


def test_attributes_may_be_extreme_together():
    a = Attributes(
        "alien", "bronze statue", "blue", "ponytail", "pink", "full beard", "eyepatch", "crown", "red",
        "surprised", "round", "long", "pointed", True, "suit and tie", "purple",
    )  # fmt: skip
    assert np.isfinite(picture(a)["depth"]).all()


def test_shapes_types_and_background():
    out = picture(size=32)
    assert out["rgb"].shape == (2, 32, 32, 3) and out["rgb"].dtype == np.uint8
    assert out["mask"].shape == out["depth"].shape == (2, 32, 32)
    empty = out["mask"] == 0
    assert empty[:, 0].all() and (out["rgb"][empty] == 128).all()
    assert (out["depth"][empty] == 0).all() and (out["normal"][empty] == 0).all()
    assert (out["mask"].max(), out["mask"].min()) == (1.0, 0.0)
    full = out["mask"] == 1
    np.testing.assert_allclose(np.linalg.norm(out["normal"][full], axis=-1), 1, atol=1e-3)


def test_depth_and_pixels_agree_with_the_camera():
    cameras = framed([25.0], 10.0, 0.9, height=64, width=64)
    made = figure()
    out = render_figure(made, cameras, background=GREY, supersample=1)
    origins, directions = cameras.rays()
    forward = -cameras.camera_to_world[0, :3, 2]
    along = (directions[0] @ forward).numpy()
    points = (origins[0] + directions[0] * torch.from_numpy(out["depth"][0] / along)[..., None]).numpy()
    seen = points[out["mask"][0] > 0][::17]
    triangles = made.vertices[made.faces]
    nearest = np.linalg.norm(triangles.mean(1)[None] - seen[:, None], axis=-1).min(1)
    assert np.percentile(nearest, 95) < 0.04 and nearest.max() < 0.12


def test_landmarks_are_where_the_camera_puts_them():
    cameras = framed([-30.0, 70.0], 5.0, 0.9, height=64, width=64)
    made = figure()
    out = render_figure(made, cameras, background=GREY)
    expected = cameras.pixels(torch.from_numpy(made.landmark_points())).numpy()
    np.testing.assert_allclose(out["landmarks"], expected, atol=2e-3)


def test_landmarks_behind_the_head_are_hidden():
    cameras = framed([0.0, 180.0, 90.0], 0.0, 0.9, height=96, width=96)
    bald = dataclasses.replace(PLAIN, hair_style="bald")
    made = figure(bald)
    visible = render_figure(made, cameras, background=GREY)["landmark_visible"]
    slices = made.landmark_slices()
    for name in ("left_eye", "right_eye", "lips_outer"):
        assert visible[0, slices[name]].mean() > 0.9, name
    assert not visible[1].any()
    assert visible[2, slices["left_eye"]].mean() > 0.5 and visible[2, slices["right_eye"]].mean() < 0.1


def test_azimuth_90_sees_the_left_side_and_left_is_right_in_the_picture():
    made = figure()
    cameras = framed([0.0, 90.0], 0.0, 0.9, height=64, width=64)
    out = render_figure(made, cameras, background=GREY)
    slices = made.landmark_slices()
    column = {k: out["landmarks"][0, slices[k], 0].mean() for k in ("left_eye", "right_eye")}
    assert column["left_eye"] > 32 > column["right_eye"]
    # From the head's left the nose points to the left of the picture, and +X normals look at the camera.
    full = out["mask"][1] == 1
    assert out["normal"][1][full][:, 0].mean() > 0.4
    assert out["landmarks"][1, slices["lips_outer"], 0].mean() < 32


def test_light_is_the_light_of_the_product():
    vertices, faces = sphere(np.zeros(3), 0.6, 60, 80)
    ball = part(vertices, faces, np.array([0.6, 0.5, 0.4]))
    shown = dataclasses.replace(
        figure(), vertices=ball.vertices, faces=ball.faces, colours=ball.colours, specular=ball.specular,
        normals=vertex_normals(ball.vertices, ball.faces), landmarks={"none": np.zeros(1, int)},
    )  # fmt: skip
    out = render_figure(shown, framed([40.0], 10.0, 0.9, height=64, width=64), background=GREY, supersample=1)
    inside = out["mask"][0] == 1
    light = shading(torch.from_numpy(out["normal"][0][inside])).numpy()
    expected = np.clip(light * np.array([0.6, 0.5, 0.4]), 0, 1) * 255
    np.testing.assert_allclose(out["rgb"][0][inside], expected, atol=1.0)


@pytest.mark.parametrize("hat", ["baseball cap", "beanie", "cowboy hat", "top hat"])
def test_no_hair_shows_through_hats(hat):
    a = dataclasses.replace(
        PLAIN, hair_style="curly", hair_colour="green", headwear=hat, headwear_colour="red", skin="blue"
    )
    made = figure(a)
    cameras = framed([0.0, 120.0, 240.0], 30.0, 0.9, height=64, width=64)
    rgb = render_figure(made, cameras, background=np.ones(3))["rgb"].astype(int)
    green = (rgb[..., 1] > rgb[..., 0] + 25) & (rgb[..., 1] > rgb[..., 2] + 25)
    crown = cameras.pixels(torch.as_tensor(np.asarray(made.anchors["crown"]))[None]).numpy()[:, 0]
    for view, (x, y) in enumerate(crown):
        above = green[view, : int(y) + 3, int(x) - 8 : int(x) + 8]
        assert not above.any()


def test_bust_is_closed_from_below():
    made = figure()
    rim = made.vertices[made.faces][..., 1].max(1) < -0.999
    normals = np.cross(
        *(made.vertices[made.faces[rim]][:, i] - made.vertices[made.faces[rim]][:, 0] for i in (1, 2))
    )
    assert rim.sum() > 100 and (normals[:, 1] <= 1e-9).all()


def test_mesh_has_the_figures_faces():
    made = figure()
    mesh = made.mesh().checked()
    assert mesh.faces.shape == made.faces.shape and mesh.colours is not None
    np.testing.assert_array_equal(mesh.vertices[mesh.faces[7]].numpy(), made.vertices[made.faces[7]])


@pytest.mark.parametrize("shape", ["sphere", "tube", "loft"])
def test_shapes_look_outwards(shape):
    if shape == "sphere":
        vertices, faces = sphere(np.array([1.0, 2.0, 3.0]), 0.5)
    elif shape == "tube":
        vertices, faces = tube(np.array([[0, 0, 0], [1, 0, 0], [2, 0.5, 0], [3, 0, 0]], float), 0.2)
    else:
        a = np.linspace(0, 2 * np.pi, 12, endpoint=False)
        vertices, faces = loft(
            np.stack([np.stack([np.cos(a), np.full(12, float(y)), np.sin(a)], 1) for y in range(4)])
        )
    a, b, c = (vertices[faces[:, i]].astype(float) - vertices.mean(0) for i in range(3))
    assert np.einsum("ij,ij->i", a, np.cross(b, c)).sum() > 0


def test_wrong_backgrounds_and_samples_are_named():
    cameras = framed([0.0, 90.0], 0.0, 0.9, height=16, width=16)
    with pytest.raises(ValueError, match=r"background must be \(3,\) or \(2, 3\) for 2 cameras; got \(4,\)"):
        render_figure(figure(), cameras, background=np.zeros(4))
    with pytest.raises(ValueError, match="supersample must be at least 1; got 0"):
        render_figure(figure(), cameras, background=GREY, supersample=0)

"""Landmark maps: what is drawn, in which colour, and which points a camera sees."""

import numpy as np
import pytest

from headsculpt.cameras import orbit
from headsculpt.heads.landmarks import COLOURS, draw_landmarks, project_landmarks


def circle(x: float, y: float, radius: float, count: int = 12) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle)], 1)


def colours_in(image: np.ndarray) -> set[tuple[int, ...]]:
    return {tuple(c) for c in image.reshape(-1, 3).tolist()} - {(0, 0, 0)}


@pytest.fixture(scope="module")
def ball() -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """A unit ball with the first ring around +Z as an eye, and a second ring around -X as the other."""
    import trimesh

    sphere = trimesh.creation.icosphere(subdivisions=3, radius=1.0)
    vertices, faces = np.array(sphere.vertices), np.array(sphere.faces)
    front = np.argsort(-vertices[:, 2])[:6]
    right = np.argsort(vertices[:, 0])[:6]
    return vertices, faces, {"left_eye": front, "right_eye": right}


def test_colours_are_those_of_the_annotator() -> None:
    # CrucibleAI's annotator, BGR: right eye (10, 200, 180), left brow (180, 220, 10), lips (10, 180, 10).
    assert COLOURS["right_eye"] == (10, 200, 180)[::-1]
    assert COLOURS["left_brow"] == (180, 220, 10)[::-1]
    assert COLOURS["lips"] == (10, 180, 10) and COLOURS["oval"] == (10, 200, 10)


def test_every_contour_in_its_colour() -> None:
    names = ["oval", "left_eye", "right_eye", "left_brow", "right_brow", "lips_outer", "lips_inner"]
    contours = {name: circle(20 + 30 * i, 30, 10) for i, name in enumerate(names)}
    image = draw_landmarks(contours, 60, 230)
    assert image.dtype == np.uint8 and image.shape == (60, 230, 3)
    assert colours_in(image) == set(COLOURS.values())


def test_brows_stay_open_and_eyes_close() -> None:
    square = np.array([[10.0, 10.0], [50.0, 10.0], [50.0, 50.0], [10.0, 50.0]])
    assert draw_landmarks({"left_brow": square}, 64, 64)[30, 10].max() == 0
    assert draw_landmarks({"left_eye": square}, 64, 64)[30, 10].max() > 0


def test_lines_with_an_invisible_end_are_left_out() -> None:
    square = np.array([[10.0, 10.0], [50.0, 10.0], [50.0, 50.0], [10.0, 50.0]])
    seen = {"oval": np.array([True, True, True, False])}
    image = draw_landmarks({"oval": square}, 64, 64, visible=seen)
    assert image[10, 30].max() > 0 and image[30, 50].max() > 0
    assert image[50, 30].max() == 0 and image[30, 10].max() == 0


@pytest.mark.parametrize(("size", "rows"), [(64, 1), (128, 1), (512, 3), (1024, 5)])
def test_line_width_follows_the_resolution(size: int, rows: int) -> None:
    line = np.array([[0.1, 0.5], [0.9, 0.5]]) * size
    painted = draw_landmarks({"left_brow": line}, size, size)[:, size // 2].any(-1).sum()
    assert abs(int(painted) - rows) <= 1


def test_points_off_the_image_and_not_finite_are_no_error() -> None:
    far = np.array([[-1e9, 5.0], [5.0, 5.0], [np.nan, 3.0], [20.0, np.inf]])
    assert draw_landmarks({"oval": far}, 32, 32).shape == (32, 32, 3)


def test_messages() -> None:
    with pytest.raises(ValueError, match="unknown contour 'chin'; expected names that start with oval"):
        draw_landmarks({"chin": circle(5, 5, 2)}, 16, 16)
    with pytest.raises(ValueError, match=r"contour 'oval' must be \(K, 2\) pixels; got shape \(4, 3\)"):
        draw_landmarks({"oval": np.zeros((4, 3))}, 16, 16)
    with pytest.raises(ValueError, match="unknown landmark rule 'all'"):
        project_landmarks(np.zeros((3, 3)), np.array([[0, 1, 2]]), {}, orbit([0.0]), rule="all")  # type: ignore


def test_projection_is_the_cameras_own(ball) -> None:
    import torch

    vertices, faces, contours = ball
    cameras = orbit([0.0, 40.0, -100.0], 10.0, height=96, width=128)
    expected = cameras.pixels(torch.tensor(vertices[contours["left_eye"]], dtype=torch.float32)).numpy()
    found = project_landmarks(vertices, faces, contours, cameras)
    np.testing.assert_allclose(np.stack([p["left_eye"] for p, _ in found]), expected, atol=1e-3)


def test_published_rule_drops_the_back_alone(ball) -> None:
    vertices, faces, contours = ball
    views = orbit([0.0, 100.0, 144.0, 146.0, -170.0])
    found = project_landmarks(vertices, faces, contours, views, rule="published")
    assert [bool(v["left_eye"].all()) for _, v in found] == [True, True, True, False, False]
    assert not any(v["left_eye"].any() for _, v in found[3:])


def test_visible_rule_sees_what_faces_the_camera(ball) -> None:
    vertices, faces, contours = ball
    found = project_landmarks(vertices, faces, contours, orbit([0.0, -90.0, 90.0, 180.0]), rule="visible")
    sums = [(v["left_eye"].all(), v["right_eye"].any()) for _, v in found]
    assert sums[0][0] and found[1][1]["right_eye"].all()
    assert not found[2][1]["right_eye"].any() and not found[3][1]["left_eye"].any()


def test_a_wall_in_front_hides(ball) -> None:
    vertices, faces, contours = ball
    wall = np.array([[-2.0, -2.0, 1.5], [2.0, -2.0, 1.5], [0.0, 3.0, 1.5]])
    both = np.concatenate([faces, [[len(vertices), len(vertices) + 1, len(vertices) + 2]]])
    _, seen = project_landmarks(np.concatenate([vertices, wall]), both, contours, orbit([0.0]))[0]
    assert not seen["left_eye"].any()


def test_pupils_are_squares_twice_as_wide_as_a_line() -> None:
    # CrucibleAI's annotator, BGR: right (10, 200, 250), left (250, 200, 10); 4 x 4 pixels.
    pupils = {"left_pupil": np.array([[300.0, 200.5]]), "right_pupil": np.array([[200.9, 200.0]])}
    image = draw_landmarks(pupils, 512, 512, drawing="annotator")
    assert (image == (10, 200, 250)).all(-1).sum() == 16 == (image == (250, 200, 10)).all(-1).sum()
    assert image[198:202, 198:202].min() > 0 and image[198:202, 298:302].min() > 0
    outside = {"left_pupil": np.array([[512.0, 5.0], [-1.0, 5.0], [np.nan, 5.0]])}
    assert draw_landmarks(outside, 512, 512).max() == 0


def test_the_annotator_leaves_out_lines_that_leave_the_picture_and_headsculpt_cuts_them() -> None:
    line = {"left_brow": np.array([[10.0, 30.0], [80.0, 30.0]])}
    assert draw_landmarks(line, 64, 64)[30, 40].max() > 0
    assert draw_landmarks(line, 64, 64, drawing="annotator").max() == 0
    to_the_edge = {"left_brow": np.array([[10.0, 30.0], [64.0, 30.0]])}
    assert draw_landmarks(to_the_edge, 64, 64, drawing="annotator")[30, 63].max() > 0


def test_the_annotators_contours_of_the_built_in_head() -> None:
    from headsculpt.heads.builtin import builtin_head
    from headsculpt.heads.landmarks import annotator_contours

    head = builtin_head()
    contours = annotator_contours(head)
    assert set(contours) - set(head.landmarks) == {
        f"{side}_{part}" for side in ("left", "right") for part in ("brow_upper", "pupil")
    }
    y = head.template[:, 1]
    assert (y[contours["left_brow_upper"]] > y[contours["left_brow"]]).all()
    x = head.template[:, 0]
    assert x[contours["left_pupil"]] > 0 > x[contours["right_pupil"]]
    _, seen = project_landmarks(head.template, head.faces, contours, orbit([0.0]))[0]
    assert seen["left_pupil"].all() and seen["right_brow_upper"].all()


def test_an_unknown_drawing_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown landmark drawing 'mine'"):
        draw_landmarks({}, 16, 16, drawing="mine")  # type: ignore[arg-type]


def test_what_a_figure_wears_covers_landmarks():
    from headsculpt.cameras import framed
    from headsculpt.guidance.landmark_control import HATS, LandmarkControl, covered
    from headsculpt.heads.builtin import builtin_head
    from headsculpt.synthesis.attributes import VALUES

    head = builtin_head()
    vertices, contours = head.vertices(), dict(head.landmarks)
    for hat in HATS:
        assert hat in VALUES["headwear"]
        (name, over), *others = covered(vertices, contours, [hat]).items()
        top = vertices[contours["oval"], 1].argmax()
        assert name == "oval" and not others and over[top] and 5 < over.sum() < 13
    jaw = covered(vertices, contours, ["full beard"])["oval"]
    assert jaw[vertices[contours["oval"], 1].argmin()] and not (jaw & over).any()
    both = covered(vertices, contours, ["full beard", "crown", "red"])["oval"]
    assert (both == (jaw | over)).all()
    shades = covered(vertices, contours, ["sunglasses"])
    assert set(shades) == {"left_eye", "right_eye"} and all(eye.all() for eye in shades.values())
    assert covered(vertices, contours, ["goatee", "headphones", "round glasses", "bald"]) == {}
    # A head whose contours are fewer, such as FLAME's without the oval.
    assert covered(vertices, {"lips_outer": contours["lips_outer"]}, ["full beard", "beanie", "sunglasses"]) == {}

    def lit(rule, *wears):
        control = LandmarkControl(vertices, head.faces, contours, size=64, rule=rule, wears=wears)
        return int((control.maps(framed([0.0], 5.0, 0.7, height=64, width=64)) > 0).any(-1).sum())

    assert lit("visible") > lit("visible", "beanie") > lit("visible", "beanie", "full beard", "sunglasses") > 0
    assert lit("published") == lit("published", "beanie", "full beard", "sunglasses")


def test_the_loop_leaves_out_what_the_told_figure_wears():
    from headsculpt.config import load_config
    from headsculpt.priors.catalogue import random_prior
    from headsculpt.sculpting import diffusion_guides, starting_head

    prior = random_prior("tiny", controls=("landmarks",))

    def hidden(prompt, *settings):
        config = load_config("draft", settings, prompt=prompt)
        return set(diffusion_guides(config, prior, *starting_head(config, None))["coarse"].landmarks.covered)

    assert hidden("a pirate in a top hat and sunglasses") == {"oval", "left_eye", "right_eye"}
    assert hidden("a wizard") == {"oval"}  # the beard that completion gives him
    assert hidden("a bald woman") == set()
    assert hidden("a wizard", "guidance.landmark_rule=published") == set()
    assert hidden("a wizard", "guidance.cover_landmarks=false") == set()
    assert hidden("a man in a top hat", "guidance.prompt_style=headsculpt", "guidance.complete_prompt=false") == set()

"""Painted colours: what a picture shows has its colours, and nothing else has."""

from __future__ import annotations

import pytest
import torch
import trimesh
from torch import nn

from headsculpt.cameras import Cameras, framed
from headsculpt.meshes import topology
from headsculpt.rendering import shading
from headsculpt.representations.painted import PaintedColours
from headsculpt.representations.surface_image import SeenSurface, see_surface

GREY = 0.5
RED, BLUE = torch.tensor([0.6, 0.1, 0.1]), torch.tensor([0.1, 0.1, 0.6])


class Plain(nn.Module):
    def forward(self, points):
        return torch.full_like(points, GREY)


def ball(*centre: float, radius: float = 0.6) -> tuple[torch.Tensor, torch.Tensor]:
    mesh = trimesh.creation.icosphere(subdivisions=4, radius=radius)
    vertices = torch.tensor(mesh.vertices, dtype=torch.float32) + torch.tensor(centre or (0.0, 0.0, 0.0))
    return vertices, torch.tensor(mesh.faces)


def view(
    vertices, faces, azimuth: float = 0.0, half_height: float = 0.9, size: int = 128
) -> tuple[Cameras, SeenSurface]:
    camera = framed([azimuth], 0.0, half_height, height=size, width=size)
    return camera, see_surface(vertices, faces, topology(faces), camera)


def lit(seen: SeenSurface, albedo: torch.Tensor, outside: float = 0.85) -> torch.Tensor:
    """A picture of the surface in one colour, before a light background."""
    _, height, width = seen.shape
    picture = torch.full((height * width, 3), outside)
    picture[seen.index] = albedo * shading(seen.normal)
    return picture.view(1, height, width, 3)


def test_a_point_that_is_seen_has_the_colour_of_the_picture_and_others_keep_theirs():
    vertices, faces = ball()
    field = PaintedColours(Plain())
    points = torch.tensor([[0.0, 0.0, 0.6], [0.2, 0.1, 0.557], [0.0, 0.0, -0.6], [0.6, 0.0, 0.0]])
    torch.testing.assert_close(field(points), torch.full((4, 3), GREY))
    camera, seen = view(vertices, faces)
    field.paint(camera, seen, lit(seen, RED))
    found = field(points)
    # The ground counts 0.02 against 1.5 of the picture.
    torch.testing.assert_close(found[:2], RED.expand(2, 3), atol=0.02, rtol=0)
    torch.testing.assert_close(found[2:], torch.full((2, 3), GREY))


def test_the_background_does_not_come_along_at_an_outline():
    vertices, faces = ball()
    camera, seen = view(vertices, faces)
    picture = lit(seen, RED, outside=1.0)
    # As a model draws it: blurred over some pixels.
    blurred = nn.functional.avg_pool2d(picture.permute(0, 3, 1, 2), 5, 1, 2, count_include_pad=False)
    blurred = blurred.permute(0, 2, 3, 1)
    field = PaintedColours(Plain())
    field.paint(camera, seen, blurred)
    found = field(seen.point)
    # Everywhere between the ground and the red, so never lighter than both.
    assert float(found.max()) < RED.max() + 0.03
    assert float(found[:, 1:].max()) < GREY + 0.01
    assert ((found - RED).abs().amax(-1) < 0.03).float().mean() > 0.5


def test_the_rim_is_as_wide_as_it_was_drawn():
    """A picture that was made larger is soft over as much of the surface as the smaller one was."""
    vertices, faces = ball()
    camera, seen = view(vertices, faces)
    picture = lit(seen, torch.full((len(seen.index), 3), 0.4))
    size = picture.shape[1]
    counted = []
    for drawn in (None, size // 4, size):
        colours = PaintedColours(Plain())
        colours.paint(camera, seen, picture, drawn=drawn)
        counted.append(int((colours._summed(seen.point)[1] > 0.01).sum()))
    assert counted[1] < 0.95 * counted[0] and counted[2] == counted[0]


def test_what_stands_before_another_hides_it():
    front, faces = ball(0.0, 0.0, 0.5, radius=0.2)
    behind, _ = ball(0.0, 0.0, -0.3, radius=0.6)
    vertices, both = torch.cat([front, behind]), torch.cat([faces, faces + len(front)])
    camera, seen = view(vertices, both)
    field = PaintedColours(Plain())
    field.paint(camera, seen, lit(seen, RED))
    found = field(torch.tensor([[0.0, 0.0, 0.7], [0.0, 0.0, 0.3], [0.4, 0.0, 0.147]]))
    torch.testing.assert_close(found[0], RED, atol=0.02, rtol=0)
    torch.testing.assert_close(found[1], torch.full((3,), GREY))  # in the shadow of the small ball
    torch.testing.assert_close(found[2], RED, atol=0.1, rtol=0)  # beside it


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_picture_that_sees_a_point_best_decides_in_any_order(order):
    vertices, faces = ball()
    near, far = view(vertices, faces, 0.0, 0.7), view(vertices, faces, 50.0, 1.0)
    pictures = [(*near, lit(near[1], RED)), (*far, lit(far[1], BLUE))]
    field = PaintedColours(Plain())
    for i in order:
        field.paint(*pictures[i])
    found = field(torch.tensor([[0.0, 0.0, 0.6], [0.575, 0.0, 0.173]]))  # in front; and at 73 degrees
    torch.testing.assert_close(found[0], RED, atol=0.05, rtol=0)
    torch.testing.assert_close(found[1], BLUE, atol=0.05, rtol=0)


def test_there_is_no_seam_at_the_border_of_a_picture():
    vertices, faces = ball()
    near, far = view(vertices, faces, half_height=0.35), view(vertices, faces, half_height=0.9)
    field = PaintedColours(Plain())
    field.paint(*near, lit(near[1], RED))
    field.paint(*far, lit(far[1], BLUE))
    across = torch.linspace(0, 0.42, 200)
    red = field(torch.stack([across, torch.zeros(200), (0.36 - across**2).sqrt()], -1))[:, 0]
    assert red[0] > 0.58 and red[-1] < 0.13
    assert float((red[:-1] - red[1:]).max()) < 0.12  # 0.5 in all, so over several pixels
    assert float((red[:-1] - red[1:]).min()) > -0.01


def test_gradients_reach_the_ground():
    vertices, faces = ball()
    camera, seen = view(vertices, faces)
    ground = nn.Linear(3, 3)
    field = PaintedColours(ground)
    field.paint(camera, seen, lit(seen, RED))
    field(torch.tensor([[0.0, 0.0, -0.6]])).sum().backward()
    assert ground.bias.grad is not None and torch.equal(ground.bias.grad, torch.ones(3))


def test_one_view_takes_one_picture():
    vertices, faces = ball()
    camera, seen = view(vertices, faces, size=16)
    with pytest.raises(ValueError, match=r"one view takes one picture \(1, h, w, 3\); got \(2, 16, 16, 3\) for 1 view"):
        PaintedColours(Plain()).paint(camera, seen, torch.zeros(2, 16, 16, 3))


def test_next_to_an_outline_the_colours_beside_it_go_on():
    mesh = trimesh.creation.box((1.0, 1.0, 0.4))
    vertices, faces = torch.tensor(mesh.vertices, dtype=torch.float32), torch.tensor(mesh.faces)
    camera, seen = view(vertices, faces)
    field = PaintedColours(Plain())
    # The picture has a light rim of two pixels, as the background bleeds in.
    bled = -nn.functional.max_pool2d(-seen_mask(seen), 5, 1, 2).permute(0, 2, 3, 1)
    field.paint(camera, seen, lit(seen, RED) * bled + 0.85 * (1 - bled))
    edge = torch.tensor([[0.485, 0.0, 0.2], [0.0, -0.485, 0.2], [0.3, 0.2, 0.2]])
    torch.testing.assert_close(field(edge), RED.expand(3, 3), atol=0.1, rtol=0)


def seen_mask(seen: SeenSurface) -> torch.Tensor:
    _, height, width = seen.shape
    mask = torch.zeros(height * width)
    mask[seen.index] = 1
    return mask.view(1, 1, height, width)


def test_what_no_picture_shows_is_the_ground_without_its_specks():
    class Specks(nn.Module):
        def forward(self, points):
            return 0.5 + 0.4 * torch.sin(points[:, :1] * torch.pi / 0.04).expand(-1, 3)

    vertices, faces = ball()
    camera, seen = view(vertices, faces)
    behind = torch.stack([torch.linspace(-0.1, 0.1, 50), torch.zeros(50), torch.full((50,), -0.59)], -1)
    field = PaintedColours(Specks())
    torch.testing.assert_close(field(behind), Specks()(behind))
    field.paint(camera, seen, lit(seen, RED))
    torch.testing.assert_close(field(behind), torch.full((50, 3), 0.5), atol=1e-4, rtol=0)


def test_what_no_picture_shows_takes_the_colour_of_the_nearest_point_that_one_shows():
    mesh = trimesh.creation.box((0.6, 1.9, 0.4))  # longer than the picture is high
    mesh = mesh.subdivide().subdivide().subdivide().subdivide()
    vertices, faces = torch.tensor(mesh.vertices, dtype=torch.float32), torch.tensor(mesh.faces)
    camera, seen = view(vertices, faces, half_height=0.7)
    field = PaintedColours(Plain())
    picture = lit(seen, RED)
    picture[:, :64] = lit(seen, BLUE)[:, :64]  # the upper half
    field.paint(camera, seen, picture)
    shown = torch.tensor([[0.0, 0.4, 0.2], [0.0, -0.4, 0.2]])
    unseen = torch.tensor([[0.0, 0.94, 0.2], [0.0, -0.94, 0.2], [0.1, -0.4, -0.2]])  # above, below, and behind
    before = field(shown)
    torch.testing.assert_close(field(unseen), torch.full((3, 3), GREY), atol=0.02, rtol=0)
    field.carry_on(vertices)
    torch.testing.assert_close(field(shown), before)
    torch.testing.assert_close(field(unseen), torch.stack([BLUE, RED, RED]), atol=0.03, rtol=0)


def test_without_a_picture_nothing_is_carried_on():
    vertices, _ = ball()
    field = PaintedColours(Plain())
    field.carry_on(vertices)
    torch.testing.assert_close(field(vertices[:3]), torch.full((3, 3), GREY))

"""Phong tessellation: closed stays closed, flat stays flat, a coarse ball becomes rounder."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from headsculpt.heads.builtin import builtin_head
from headsculpt.representations.tessellation import tessellated


def edge_lengths(v: np.ndarray, f: np.ndarray) -> np.ndarray:
    return np.linalg.norm(v[f] - v[np.roll(f, -1, 1)], axis=-1)


@pytest.mark.parametrize("longest", [0.5, 0.2, 0.11])
def test_a_ball_becomes_rounder_and_stays_closed(longest: float) -> None:
    ball = trimesh.creation.icosphere(1)
    v, f = tessellated(ball.vertices, ball.faces, longest)
    assert np.array_equal(v[: len(ball.vertices)], ball.vertices)
    assert edge_lengths(v, f).max() <= longest
    finer = trimesh.Trimesh(v, f, process=False)
    assert finer.is_watertight and finer.is_winding_consistent
    full = 4 / 3 * np.pi
    assert abs(finer.volume - full) < 0.35 * abs(ball.volume - full)


def test_only_long_edges_are_halved_and_what_is_flat_stays_flat() -> None:
    v = np.array([[0, 0, 0], [1, 0, 0], [0, 0.3, 0], [1, 0.3, 0], [-0.2, 0.1, 0]], float)
    f = np.array([[0, 1, 2], [1, 3, 2], [0, 2, 4]])
    new, faces = tessellated(v, f, 0.6)
    assert np.abs(new[:, 2]).max() == 0 and edge_lengths(new, faces).max() <= 0.6
    corners = new[faces]
    areas = 0.5 * np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])[:, 2]
    assert areas.min() > 0 and areas.sum() == pytest.approx(0.15 + 0.15 + 0.03)
    assert [0, 2, 4] in faces.tolist()


def test_nothing_happens_to_a_mesh_that_is_fine_enough() -> None:
    ball = trimesh.creation.icosphere(2)
    v, f = tessellated(ball.vertices, ball.faces, 1.0)
    assert np.array_equal(v, ball.vertices) and np.array_equal(f, ball.faces)


def test_a_face_keeps_its_lids_and_shoulders_lose_their_facets() -> None:
    head = builtin_head()
    v, f = tessellated(head.vertices(), head.faces, 0.04)
    assert len(f) < 2 * len(head.faces)
    eyes = np.concatenate([index for name, index in head.landmarks.items() if "eye" in name])
    around_eyes = head.faces[np.isin(head.faces, eyes).any(1)]
    assert len(around_eyes) > 50 and set(map(tuple, around_eyes.tolist())) <= set(map(tuple, f.tolist()))

    def folds(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
        mesh = trimesh.Trimesh(vertices, faces, process=False)
        at = vertices[mesh.face_adjacency_edges].mean(1)
        back = (at[:, 1] > -0.9) & (at[:, 1] < -0.5) & (at[:, 2] < 0)
        return np.degrees(mesh.face_adjacency_angles[back])

    assert np.percentile(folds(v, f), 99) < 0.6 * np.percentile(folds(head.vertices(), head.faces), 99)


def test_a_length_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"longest must be positive; got 0"):
        tessellated(np.zeros((3, 3)), np.array([[0, 1, 2]]), 0)

"""The mesh value object, its topology and its regularisers."""

from __future__ import annotations

import pytest
import torch

from headsculpt.meshes import (
    Mesh,
    face_normals,
    laplacian_loss,
    normal_consistency_loss,
    topology,
    topology_reference,
    unique_edges,
    vertex_normals,
)

TETRAHEDRON = torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
CORNERS = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])


def edge_facts(table):
    """Edges with their opposite vertices, whatever the order."""
    return sorted(
        (*edge, *sorted(opposite), count)
        for edge, opposite, count in zip(
            table.edges.tolist(), table.opposite.tolist(), table.count.tolist(), strict=True
        )
    )


def test_a_tetrahedron_has_six_edges_with_two_faces_each():
    table = topology(TETRAHEDRON)
    assert table.closed and table.edges.shape == (6, 2)
    for edge, opposite, owners in zip(table.edges, table.opposite, table.faces, strict=True):
        for vertex, face in zip(opposite.tolist(), owners.tolist(), strict=True):
            assert sorted(TETRAHEDRON[face].tolist()) == sorted([*edge.tolist(), vertex])


@pytest.mark.parametrize(
    "faces",
    [
        TETRAHEDRON,
        torch.tensor([[0, 1, 2]]),
        torch.tensor([[0, 1, 2], [2, 1, 3]]),
        torch.tensor([[5, 9, 2], [2, 9, 7], [9, 2, 3]]),  # an edge with three faces
    ],
)
def test_compiled_topology_is_the_sorted_one(faces):
    fast, slow = topology(faces), topology_reference(faces)
    assert sorted(map(tuple, fast.edges.tolist())) == sorted(map(tuple, slow.edges.tolist()))
    if int(slow.count.max()) <= 2:
        assert edge_facts(fast) == edge_facts(slow)
    assert sorted(fast.count.tolist()) == sorted(slow.count.tolist())


def test_an_open_mesh_is_not_closed():
    table = topology(torch.tensor([[0, 1, 2], [2, 1, 3]]))
    assert not table.closed
    assert int((table.opposite[:, 1] < 0).sum()) == 4


def test_no_faces_no_edges():
    assert unique_edges(torch.zeros(0, 3, dtype=torch.int64)).shape == (0, 2)


def test_normals_point_out_of_a_tetrahedron():
    centre = CORNERS.mean(0)
    middles = CORNERS[TETRAHEDRON].mean(1)
    assert ((middles - centre) * face_normals(CORNERS, TETRAHEDRON)).sum(-1).min() > 0
    assert ((CORNERS - centre) * vertex_normals(CORNERS, TETRAHEDRON)).sum(-1).min() > 0


def test_a_face_without_area_has_normal_zero_and_finite_gradients():
    vertices = CORNERS.clone().requires_grad_()
    faces = torch.tensor([[0, 1, 1]])
    assert face_normals(vertices, faces).abs().max() == 0
    vertex_normals(vertices, faces).sum().backward()
    assert torch.isfinite(vertices.grad).all()


def test_the_laplacian_of_a_regular_tetrahedron_by_hand():
    # each vertex minus the mean of the three others = 4/3 of its offset from the centre
    vertices = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    assert float(laplacian_loss(vertices, TETRAHEDRON)) == pytest.approx((4 / 3) ** 2 * 3)


def test_a_plane_is_perfectly_consistent_and_a_fold_is_not():
    faces = torch.tensor([[0, 1, 2], [2, 1, 3]])
    flat = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]])
    folded = flat.clone()
    folded[3, 2] = 1.0
    assert float(normal_consistency_loss(flat, faces)) == pytest.approx(0, abs=1e-6)
    assert float(normal_consistency_loss(folded, faces)) > 0.05


@pytest.mark.parametrize("loss", [laplacian_loss, normal_consistency_loss])
def test_regularisers_have_the_gradients_of_finite_differences(loss):
    vertices = (CORNERS + 0.1 * torch.randn(4, 3, generator=torch.Generator().manual_seed(0))).double()
    assert torch.autograd.gradcheck(lambda v: loss(v, TETRAHEDRON), vertices.requires_grad_())


@pytest.mark.parametrize(
    ("vertices", "faces", "message"),
    [
        (torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64), "is empty"),
        (torch.tensor([[0.0, 0, 0], [float("nan"), 0, 0]]), torch.tensor([[0, 1, 1]]), "vertex 1 is"),
        (CORNERS, torch.tensor([[0, 1, 2], [0, 1, 4]]), r"face 1 is \[0, 1, 4\].*0..3"),
        (CORNERS[:, :2], torch.tensor([[0, 1, 2]]), "expected vertices"),
    ],
)
def test_a_bad_mesh_is_named(vertices, faces, message):
    with pytest.raises(ValueError, match="bust.obj.*" + message):
        Mesh(vertices, faces).checked("bust.obj")

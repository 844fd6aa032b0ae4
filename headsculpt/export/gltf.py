"""Binary glTF 2.0: one mesh, one material with the albedo as base colour, and the rig where there is one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from headsculpt.cameras import METRES_PER_UNIT
from headsculpt.export.files import SplitMesh, split_at_seams
from headsculpt.export.rig import Rig
from headsculpt.meshes import Mesh, face_normals, vertex_normals

STILL = 1e-5  # metres: what an expression moves by no more is left out of it
UPRIGHT = 0.01  # and what it turns by no more, as the length by which the normal changes: half a degree
TURNED_OVER = 0.1  # cosine between a face's normals at rest and in an expression, under which it counts no more
_UBYTE, _UINT, _FLOAT = 5121, 5125, 5126  # glTF's component types
_ARRAY, _ELEMENTS = 34962, 34963  # and its targets of buffer views


def glb_bytes(mesh: Mesh, name: str = "head", rig: Rig | None = None) -> bytes:
    """A textured mesh as GLB, in metres, +Y up, facing +Z as glTF asks.

    Args:
        mesh: scene units, with ``uv`` and ``texture``.
        name: of the mesh in the scene.
        rig: of the mesh's vertices; its joints become a skin, its expressions morph targets under their ARKit names.

    Raises:
        ValueError: the mesh has no UVs or no texture.
    """
    import trimesh
    from PIL import Image
    from trimesh.visual import TextureVisuals
    from trimesh.visual.material import PBRMaterial

    if mesh.texture is None:
        raise ValueError("this mesh has no texture; bake it first")
    split = split_at_seams(mesh)
    material = PBRMaterial(
        name=f"{name}-skin",
        baseColorTexture=Image.fromarray(mesh.texture),
        metallicFactor=0.0,
        roughnessFactor=0.9,
    )
    geometry = trimesh.Trimesh(
        split.vertices,
        split.faces,
        vertex_normals=split.normals,
        visual=TextureVisuals(uv=split.uv, material=material),
        process=False,
    )
    scene = trimesh.Scene()
    scene.add_geometry(geometry, node_name=name, geom_name=name)

    def add_rig(buffers: Any, tree: dict[str, Any]) -> None:
        if rig is not None:
            _Rigging(buffers, tree, mesh, split).add(rig)

    hooks: dict[str, Any] = {"buffer_postprocessor": add_rig, "tree_postprocessor": _say_what_views_are_for}
    return bytes(scene.export(file_type="glb", include_normals=True, **hooks))


def _say_what_views_are_for(tree: dict[str, Any]) -> None:
    """Vertices or indices: a hint to graphics drivers, which Khronos' validator asks for."""
    for mesh in tree["meshes"]:
        for primitive in mesh["primitives"]:
            used = {accessor: _ARRAY for accessor in primitive["attributes"].values()}
            for accessor, target in (used | {primitive["indices"]: _ELEMENTS}).items():
                tree["bufferViews"][tree["accessors"][accessor]["bufferView"]]["target"] = target


class _Rigging:
    """Adds a rig to what trimesh is about to write.

    Args:
        buffers: name -> bytes, whose order numbers glTF's buffer views.
        tree: glTF's JSON, whose accessors are numbered by order, too.
        mesh: that is rigged.
        split: the same as it is written.
    """

    def __init__(self, buffers: Any, tree: dict[str, Any], mesh: Mesh, split: SplitMesh) -> None:
        self._buffers, self._tree, self._mesh, self._split = buffers, tree, mesh, split

    def add(self, rig: Rig) -> None:
        (mesh,) = self._tree["meshes"]
        (primitive,) = mesh["primitives"]
        weights = rig.weights[self._split.source]
        joints = np.tile(np.arange(4, dtype=np.uint8), (len(weights), 1))
        padded = np.zeros((len(weights), 4), np.float32)
        if weights.shape[1] > 4:
            raise ValueError(f"glTF takes 4 joints a vertex; the rig has {weights.shape[1]}")
        padded[:, : weights.shape[1]] = weights
        joints[padded == 0] = 0  # as glTF asks of joints without weight
        primitive["attributes"]["JOINTS_0"] = self._accessor("joints", joints, _UBYTE, "VEC4")
        primitive["attributes"]["WEIGHTS_0"] = self._accessor("weights", padded, _FLOAT, "VEC4")
        primitive["targets"] = self._targets(rig)
        mesh["weights"] = [0.0] * len(rig.expressions)
        mesh["extras"] = {**mesh.get("extras", {}), "targetNames": list(rig.expressions)}
        self._skeleton(rig)

    def _view(self, name: str, values: np.ndarray) -> int:
        content = values.tobytes()
        self._buffers[name] = content + b"\0" * (-len(content) % 4)
        return list(self._buffers).index(name)

    def _accessor(self, name: str, values: np.ndarray, component: int, kind: str) -> int:
        view = self._view(name, values)
        return self._listed(
            name, {"bufferView": view, "componentType": component, "count": len(values), "type": kind, "byteOffset": 0}
        )

    def _listed(self, name: str, accessor: dict[str, Any]) -> int:
        self._tree["accessors"][name] = accessor
        return list(self._tree["accessors"]).index(name)

    def _targets(self, rig: Rig) -> list[dict[str, int]]:
        """Where each expression moves the vertices, and how their normals turn with it.

        Programs that read a file take its normals as they are: without their own targets, a smile would be lit as the
        face at rest is.
        """
        moved, turned = [], []
        for shape in rig.expressions.values():
            moved.append((shape[self._split.source] * METRES_PER_UNIT).astype(np.float32))
            turned.append(turn_of_normals(self._mesh, torch.from_numpy(shape)).numpy()[self._split.source])
        positions = self._sparse("moved", rig.expressions, moved, STILL)
        normals = self._sparse("turned", rig.expressions, turned, UPRIGHT)
        return [{"POSITION": p, "NORMAL": n} for p, n in zip(positions, normals, strict=True)]

    def _sparse(self, what: str, names: Iterable[str], changes: list[np.ndarray], least: float) -> list[int]:
        """Accessors of changes ``(M, 3)`` that hold the rows of which a number is over ``least``; the others are 0."""
        rows = [np.flatnonzero(np.abs(change).max(1) > least).astype(np.uint32) for change in changes]
        indices = self._view(f"{what} vertices", np.concatenate(rows))
        values = self._view(what, np.concatenate([change[kept] for change, kept in zip(changes, rows, strict=True)]))
        accessors, before = [], 0
        for name, change, kept in zip(names, changes, rows, strict=True):
            # What is not listed stays as it is, so 0 is among the values unless all are listed.
            held = change[kept] if len(kept) == len(change) else np.append(change[kept], [[0, 0, 0]], 0)
            accessor: dict[str, Any] = {
                "componentType": _FLOAT, "count": len(change), "type": "VEC3",
                "min": held.min(0).tolist(), "max": held.max(0).tolist(),
            }  # fmt: skip
            if len(kept):
                accessor["sparse"] = {
                    "count": len(kept),
                    "indices": {"bufferView": indices, "byteOffset": 4 * before, "componentType": _UINT},
                    "values": {"bufferView": values, "byteOffset": 12 * before},
                }
            accessors.append(self._listed(f"{what} {name}", accessor))
            before += len(kept)
        return accessors

    def _skeleton(self, rig: Rig) -> None:
        nodes, joints = self._tree["nodes"], rig.joints * METRES_PER_UNIT
        first = len(nodes)
        for i, (name, parent) in enumerate(zip(rig.names, rig.parents, strict=True)):
            offset = joints[i] - (joints[parent] if parent >= 0 else 0)
            nodes.append({"name": name, "translation": offset.tolist()})
            if parent >= 0:
                nodes[first + parent].setdefault("children", []).append(first + i)
        (drawn,) = (node for node in nodes if "mesh" in node)
        drawn["skin"] = 0
        self._tree["scenes"][0]["nodes"].append(first)
        # Column by column: the translation lies in the last four numbers.
        inverse = np.tile(np.eye(4, dtype=np.float32), (len(joints), 1, 1))
        inverse[:, 3, :3] = -joints
        matrices = self._accessor("rest", inverse, _FLOAT, "MAT4")
        skin = {"joints": list(range(first, first + len(joints))), "skeleton": first, "inverseBindMatrices": matrices}
        self._tree["skins"] = [skin]


def turn_of_normals(mesh: Mesh, moved: Tensor) -> Tensor:
    """``(V, 3)``: by what the vertices' normals change where the vertices move by ``moved (V, 3)``.

    Faces count as much as they do at rest, and those that turn over do not count: where a lid closes, it slides over
    the faces at its rim.
    """
    vertices, faces = mesh.vertices.detach().cpu().float(), mesh.faces.cpu()
    at_rest, after = face_normals(vertices, faces), face_normals(vertices + moved, faces)
    corners = vertices[faces]
    area = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(dim=-1, keepdim=True)
    kept = (at_rest * after).sum(-1, keepdim=True) > TURNED_OVER
    summed = torch.zeros_like(vertices)
    for corner in faces.T:
        summed.index_add_(0, corner, area * torch.where(kept, after, 0.0))
    resting = vertex_normals(vertices, faces)
    lost = summed.norm(dim=-1, keepdim=True) < 1e-12
    return torch.where(lost, 0.0, F.normalize(summed, dim=-1) - resting)


def read_glb(path: str | Path) -> Mesh:
    """A textured GLB of one mesh, as other programs would see it, in scene units.

    Vertices that the atlas' seams split are joined again, so a closed surface is closed.

    Raises:
        ValueError: the file holds no textured mesh.
    """
    import trimesh

    geometry: Any = trimesh.load(str(path), force="mesh", process=False)
    material = getattr(geometry.visual, "material", None)
    image, uv = getattr(material, "baseColorTexture", None), getattr(geometry.visual, "uv", None)
    if image is None or uv is None:
        raise ValueError(f"{path} holds no mesh with a base colour texture")
    split = np.array(geometry.faces, np.int64)
    points, joined = np.unique(np.array(geometry.vertices, np.float32), axis=0, return_inverse=True)
    return Mesh(
        torch.from_numpy(points / np.float32(METRES_PER_UNIT)),
        torch.from_numpy(joined.reshape(-1)[split]),
        uv=torch.from_numpy(np.array(uv, np.float32)[split]),
        texture=np.array(image.convert("RGB")),
    ).checked(str(path))

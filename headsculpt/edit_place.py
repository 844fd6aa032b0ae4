"""Where an edit may act, as far as its words say: a beard grows on the lower face, a hat from the brow up.

Where two predictions of a diffusion model differ is where an edit shows, but they differ a little everywhere: by
differences alone, the mask of "give him a beard" covers his eyes and his shirt as well, and by a threshold that
leaves those out, edits of a whole head are lost. What the instruction names has its place, so there the mask is
sought, and nowhere else (ours).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from torch import Tensor

from headsculpt.heads.landmarks import project_landmarks
from headsculpt.heads.places import COLOURS, EVERYWHERE, OFF_FACE, rays_through
from headsculpt.representations.rasterise import rasterise

if TYPE_CHECKING:
    from headsculpt.cameras import Cameras
    from headsculpt.meshes import Mesh

SIZE = 64  # rows and columns of a place in a view
DEPTH = 0.05  # scene units below the surface that still count as the surface
_HAIR = re.compile(r"(?<!facial )\bhair(ed)?\b")
_BEARD = re.compile(r"beard|goatee|m(o)?ustache|stubble|whiskers|facial hair")


def edited_families(prompt: str, instruction: str) -> frozenset[str]:
    """What an instruction changes, where that has a place; empty where it may change anything, or who knows what.

    Args:
        prompt: of the head before.
        instruction: what to change.

    Example:
        >>> sorted(edited_families("a bald man", "give him a full red beard"))
        ['facial_hair']
        >>> edited_families("a bald man", "turn him into a zombie")
        frozenset()
    """
    text, before, changes, unknown = _read(prompt, instruction)
    named = set(changes)
    if unknown or named & set(EVERYWHERE):
        return frozenset()
    if "hair_colour" in named:  # hair and beards have one word for it
        if "hair_style" in named or _HAIR.search(text):
            # One colour for both, as the mini family knows them.
            named |= {"facial_hair"} if before.get("facial_hair", "none") != "none" else set()
        elif "facial_hair" in named or _BEARD.search(text):
            named = named - {"hair_colour"} | {"facial_hair"}
    if named & {"headwear", "headwear_colour"} and "headphones" in (changes.get("headwear"), before.get("headwear")):
        named.add("ears")  # which other headwear leaves alone
    return frozenset(named)


def keeps_shape(prompt: str, instruction: str) -> bool:
    """Whether an instruction is understood, and is about colours and materials alone; arguments as above.

    Example:
        >>> keeps_shape("an elf with long hair", "make her hair green")
        True
        >>> keeps_shape("an elf with long hair", "give her green hair and a beard")
        False
    """
    _, before, changes, unknown = _read(prompt, instruction)
    if not changes or unknown or not set(changes) <= COLOURS:
        return False
    # A colour can be the first word of a thing: "make his hair green" grows hair on the bald.
    hairless = before.get("hair_style") == "bald" and before.get("facial_hair", "none") == "none"
    hatless = before.get("headwear", "none") == "none"
    return not ("hair_colour" in changes and hairless or "headwear_colour" in changes and hatless)


def takes_hat_off(prompt: str, instruction: str) -> bool:
    """Whether an instruction takes off a hat, or puts another in its place; arguments as above.

    Example:
        >>> takes_hat_off("a boy wearing a red baseball cap", "take off the cap")
        True
        >>> takes_hat_off("a boy", "put a red cap on him")
        False
    """
    _, before, changes, _ = _read(prompt, instruction)
    return "headwear" in changes and before.get("headwear", "none") != "none"


def _read(prompt: str, instruction: str) -> tuple[str, dict[str, object], dict[str, object], list[str]]:
    """The instruction in plain form, what the prompt says, what the instruction changes, and what is not understood."""
    from headsculpt.synthesis.completion import in_near_words
    from headsculpt.synthesis.reading import instruction_in_near_words, read_instruction, read_prompt

    before = read_prompt(in_near_words(prompt)).values
    text = instruction_in_near_words(instruction.lower().strip().rstrip(".,; "), before)
    return text, before, *read_instruction(text, before)


class EditPlace:
    """Places of families, as cameras see them: in front of the head to edit, or on it, not behind it.

    What is not on the face, nor before it, leaves eyes, nose and lips alone.

    Args:
        families: from :func:`edited_families`, not empty.
        mesh: the head to edit, scene units.
        vertices: ``(V, 3)`` of the head whose landmarks guide.
        faces: ``(F, 3)`` its triangles.
        contours: name -> vertex indices, as :class:`headsculpt.heads.builtin.Head` names them.
    """

    def __init__(
        self,
        families: Collection[str],
        mesh: Mesh,
        vertices: np.ndarray,
        faces: np.ndarray,
        contours: Mapping[str, np.ndarray],
    ) -> None:
        self.families, self.mesh = families, mesh
        self.vertices, self.faces = vertices, faces
        # A brim hides a part of the face from above, so hats are not among them.
        spared = set(families) <= OFF_FACE
        self.kept = {n: index for n, index in contours.items() if spared and ("eye" in n or "lips" in n)}

    @torch.no_grad()
    def __call__(self, cameras: Cameras) -> Tensor:
        """``(B, 1, SIZE, SIZE)`` float32 on the CPU: 1 where the edit may act, 0 elsewhere."""
        views = cameras.to("cpu").resized(SIZE, SIZE)
        found = rays_through(self.families, views, self._surface(views) + DEPTH).float()
        if self.kept:
            seen = project_landmarks(self.vertices, self.faces, self.kept, views)
            for row, (points, visible) in zip(found, seen, strict=True):
                corners = np.concatenate([points[name][visible[name]] for name in self.kept])
                if len(corners) >= 3:
                    outline = cv2.convexHull(corners.astype(np.float32)).round().astype(np.int32)
                    inside = cv2.fillConvexPoly(np.zeros((SIZE, SIZE), np.uint8), outline, 1)
                    row *= 1 - torch.from_numpy(inside).float()
        return found[:, None]

    def _surface(self, cameras: Cameras) -> Tensor:
        """``(B, SIZE, SIZE)`` distance of the mesh along each ray; infinite where there is none."""
        vertices, faces = self.mesh.vertices.detach().cpu().float(), self.mesh.faces.cpu().long()
        raster = rasterise(cameras.project(vertices), faces, SIZE, SIZE)
        covered = raster.triangle_id >= 0
        corners = vertices[faces[raster.triangle_id[covered].long()]]
        points = (corners * raster.weights[covered][..., None]).sum(1)
        origins, _ = cameras.rays()
        distance = torch.full(covered.shape, torch.inf)
        distance[covered] = (points - origins[covered]).norm(dim=-1)
        return distance

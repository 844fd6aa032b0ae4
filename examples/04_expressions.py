"""A sculpted head makes faces: one row of expressions for each run folder or saved avatar.

    python examples/04_expressions.py faces.png runs/old-man runs/red-hair
"""

from __future__ import annotations

import sys

import numpy as np
from PIL import Image

from headsculpt import Avatar

GREY = (0.8, 0.8, 0.8)
# Names of ARKit's blend shapes, as face trackers send them; joints turn in degrees.
FACES: tuple[tuple[dict[str, float], dict[str, tuple[float, float, float]]], ...] = (
    ({}, {}),
    ({"jawOpen": 0.8}, {}),
    ({"mouthSmileLeft": 1, "mouthSmileRight": 1, "jawOpen": 0.25, "cheekSquintLeft": 1, "cheekSquintRight": 1}, {}),
    ({"eyeBlinkLeft": 1, "eyeBlinkRight": 1, "mouthPucker": 0.8}, {}),
    ({"browInnerUp": 1, "eyeLookOutLeft": 1, "eyeLookInRight": 1, "mouthFrownLeft": 1, "mouthFrownRight": 1}, {}),
    ({"browDownLeft": 1, "browDownRight": 1, "noseSneerLeft": 0.8, "noseSneerRight": 0.8, "jawOpen": 0.3}, {}),
    ({"mouthSmileLeft": 0.7}, {"neck": (0, 25, 12)}),
)


def main(path: str, *folders: str, size: int = 256) -> None:
    rows = []
    for folder in folders:
        avatar = Avatar.load(folder)
        moved = [avatar.posed(expression, turned) for expression, turned in FACES]
        pictures = [head.render(15.0, 3.0, size, half_height=0.62, background=GREY) for head in moved]
        rows.append(np.concatenate([np.asarray(picture) for picture in pictures], 1))
    Image.fromarray(np.concatenate(rows)).save(path)
    print(f"wrote {path}: {len(rows)} heads, {len(FACES)} faces each")


if __name__ == "__main__":
    main(*sys.argv[1:])

"""A sentence becomes an avatar, a picture, a turntable and a GLB.

    python examples/02_from_a_sentence.py "a smiling woman with long red hair" red-hair
"""

from __future__ import annotations

import sys
from pathlib import Path

from headsculpt import Avatar


def main(prompt: str = "a smiling woman with long red hair", folder: str = "red-hair", *overrides: str) -> None:
    def show(progress) -> None:  # noqa: ANN001
        if progress.step % 50 == 0:
            print(f"{progress.stage} {progress.step}/{progress.steps}, {progress.eta_s:.0f} s left")

    avatar = Avatar.from_prompt(prompt, preset="draft", overrides=overrides, progress=show)
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    avatar.render(azimuth_deg=30, elevation_deg=10, resolution=512).save(out / "three-quarter.png")
    avatar.turntable(out / "turntable.webp", frames=24, resolution=256)
    avatar.export(out / "head.glb")
    avatar.save(out / "avatar")
    same = Avatar.load(out / "avatar")
    print(f"{len(same.mesh.faces)} triangles, made from {same.info.prompt!r} with seed {same.info.seed}")


if __name__ == "__main__":
    main(*sys.argv[1:])

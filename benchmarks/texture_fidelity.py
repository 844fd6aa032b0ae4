"""What the GLB loses against the field that it was baked from: PSNR of unlit colour over eight views.

    python benchmarks/texture_fidelity.py runs/old-man [more runs]

Repeats the steps after the last checkpoint (they come out the same, bit for bit) to have the field again.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from headsculpt.export.fidelity import texture_fidelity
from headsculpt.export.gltf import read_glb
from headsculpt.run_folder import RunFolder
from headsculpt.sculpting import sculpt

TARGET_DB = 28.0


def main() -> int:
    parser = argparse.ArgumentParser(description="PSNR of avatar.glb against the field's own render.")
    parser.add_argument("runs", nargs="+", type=Path)
    worst = float("inf")
    for folder in parser.parse_args().runs:
        finished = RunFolder.open(folder)
        with tempfile.TemporaryDirectory() as scratch:  # the run itself stays as it is
            copy = Path(scratch) / "run"
            copy.mkdir()
            shutil.copy(finished.config_path, copy)
            shutil.copytree(finished.checkpoints, copy / "checkpoints")
            head = sculpt(finished.config(), RunFolder.open(copy))

        def field_render(cameras, background, dmtet=head.dmtet):  # noqa: ANN001, ANN202
            return dmtet.render(cameras, background=background, shaded=False).rgb

        fidelity = texture_fidelity(read_glb(folder / "avatar.glb"), field_render)
        views = " ".join(f"{value:.1f}" for value in fidelity.per_view_db)
        print(f"{folder}: {fidelity.psnr_db:.1f} dB (views: {views})")
        worst = min(worst, fidelity.psnr_db)
    print(f"worst {worst:.1f} dB, wanted {TARGET_DB:.0f}")
    return 0 if worst >= TARGET_DB else 1


if __name__ == "__main__":
    sys.exit(main())

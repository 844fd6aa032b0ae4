"""From the end of the loop to the files of a finished run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from headsculpt import __version__
from headsculpt.avatar import Avatar, AvatarInfo
from headsculpt.config import SculptConfig
from headsculpt.run_folder import RunFolder, write_image

if TYPE_CHECKING:
    from headsculpt.guidance.score_distillation import Guidance
    from headsculpt.sculpting import FinishedHead, Progress


def sculpt_run(
    config: SculptConfig,
    run: RunFolder,
    *,
    guidance: Guidance | None = None,
    progress: Callable[[Progress], None] | None = None,
    stage: Callable[[str], None] = lambda words: None,
    write: bool = True,
) -> Avatar:
    """Sculpts, or goes on where ``run`` stopped, and writes the outputs.

    Args:
        config: what to sculpt.
        run: its folder.
        guidance, progress: as in :func:`headsculpt.sculpting.sculpt`.
        stage: told in a few words what is being done after the loop.
        write: whether to write the outputs, or only return the avatar.

    Raises:
        BusyError: another process is at work on the run.
    """
    from headsculpt.editing import edited_info, load_source
    from headsculpt.sculpting import sculpt

    with run.at_work():
        head = sculpt(config, run, guidance=guidance, progress=progress)
        stage("unwrapping and baking the texture")
        avatar = finished_avatar(head, config)
        if config.edit.instruction:
            avatar.info = edited_info(avatar.info, load_source(run).info, config)
        if write:
            stage("writing the avatar, its GLB and its pictures")
            write_outputs(avatar, run, config)
    return avatar


def finished_avatar(head: FinishedHead, config: SculptConfig) -> Avatar:
    """Decimates, unwraps and bakes what the loop left."""
    import torch

    from headsculpt.editing import SourceField
    from headsculpt.export.bake import bake
    from headsculpt.export.unwrap import decimate, unwrap

    parameter = next(iter(head.colour_field.parameters()), None)
    device = "cpu" if parameter is None else parameter.device
    size = config.output.texture_size
    mesh = head.mesh
    if mesh.uv is None:
        mesh = unwrap(decimate(mesh, config.output.max_faces), size)
    mesh = bake(mesh, head.colour_field, size, device=device)
    info = AvatarInfo(
        prompt=config.prompt,
        negative_prompt=config.negative_prompt,
        seed=config.seed,
        preset=config.preset,
        prior=config.prior.name,
        versions={"headsculpt": __version__, "torch": torch.__version__},
        identity=head.identity,
        expression=head.expression,
    )
    return Avatar(mesh, info, None if head.coarse is None else SourceField(config, head.coarse))


def write_outputs(avatar: Avatar, run: RunFolder, config: SculptConfig) -> list[Path]:
    """Writes ``avatar/``, ``avatar.glb``, ``preview.png`` and ``turntable.webp``; returns the paths."""
    from PIL import Image

    from headsculpt.export.view import strip

    output = config.output
    avatar.save(run.avatar)
    glb = avatar.export(run.path / "avatar.glb")
    preview = run.path / "preview.png"
    write_image(preview, Image.fromarray(strip(avatar.mesh, output.preview_size)))
    turntable = avatar.turntable(run.path / "turntable.webp", output.turntable_frames, output.turntable_size)
    return [run.avatar, glb, preview, turntable]

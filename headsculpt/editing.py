"""Edits: a finished head, an instruction, and a new head sculpted from where the first one ended.

A head can be edited because its radiance field is kept with it (``field.safetensors``). An edit is a run like any
other, whose folder holds a copy of its source (``source/``): so it resumes without the source's own folder,
which is only ever read. It fine-tunes the source's NeRF, on which a hat can grow, and makes a new DMTet from it;
the guidance holds everything that the edit does not concern to the source's finished mesh.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from headsculpt.config import SculptConfig, config_from_yaml, overridden, to_yaml

if TYPE_CHECKING:
    import numpy as np

    from headsculpt.avatar import Avatar, AvatarInfo
    from headsculpt.cameras import Cameras
    from headsculpt.guidance.score_distillation import Guidance
    from headsculpt.kept_source import KeptSource
    from headsculpt.meshes import Mesh
    from headsculpt.priors.prior import Prior
    from headsculpt.run_folder import RunFolder

log = logging.getLogger(__name__)

FIELD_FILE = "field.safetensors"
FIELD_FORMAT = 1
SOURCE = "source"  # in the folder of an edit
STEPS = 0.5  # of the source's steps, in each stage; ours: the head is there, only the change is new
# An edit of these moves the landmarks; for all others the source's stay.
_SHAPES = frozenset({"subject", "expression", "face", "nose", "ears"})
_GRID = ("hash_levels", "hash_finest", "hash_log2_table")  # the shape of the field that is gone on with


@dataclass
class SourceField:
    """What a head can be sculpted on from.

    Attributes:
        config: settings of the run that made it.
        state: of its NeRF at the end of the coarse stage.
    """

    config: SculptConfig
    state: dict[str, Tensor]

    def to_bytes(self) -> bytes:
        """A safetensors file; the same field, the same bytes."""
        from safetensors.torch import save

        # One key: safetensors writes several in any order.
        note = json.dumps({"format": FIELD_FORMAT, "config": to_yaml(self.config)})
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state.items()}
        return save(tensors, metadata={"headsculpt": note})

    @classmethod
    def load(cls, path: Path) -> SourceField:
        """Reads what :meth:`to_bytes` made.

        Raises:
            ValueError: a damaged file, or one from a newer headsculpt; says which.
        """
        from safetensors import safe_open

        try:
            with safe_open(path, "pt") as file:
                note = json.loads((file.metadata() or {})["headsculpt"])
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
            number = int(note["format"])
        except Exception as error:  # safetensors raises kinds of its own
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(f"{path} is damaged ({reason}); restore it or sculpt the head again") from None
        if number > FIELD_FORMAT:
            raise ValueError(
                f"{path} was written by a newer headsculpt (format {number}, this one reads up to "
                f"{FIELD_FORMAT}): update it"
            )
        return cls(config_from_yaml(note["config"], str(path)), state)


def field_of(avatar: Avatar) -> SourceField:
    """The field that an avatar can be edited from; runs of before there were edits have it in a checkpoint.

    Raises:
        ValueError: it has none; or a checkpoint comes from a newer headsculpt.
    """
    from headsculpt.run_folder import RunFolder

    if avatar.source_field is not None:
        return avatar.source_field
    run = avatar.loaded_from.parent if avatar.loaded_from is not None else None
    if run is not None and (run / "config.yaml").is_file():
        folder = RunFolder(run)
        checkpoint = folder.load_checkpoint(restore_random=False)
        if checkpoint is not None and "coarse" in checkpoint["state"]:
            return SourceField(folder.config(), checkpoint["state"]["coarse"])
    where = f"the avatar in {avatar.loaded_from}" if avatar.loaded_from is not None else "this avatar"
    raise ValueError(
        f"{where} can be looked at but not edited: it has no {FIELD_FILE} (it was not sculpted, or was saved by an "
        "older headsculpt); sculpt it again"
    )


def edit_config(
    avatar: Avatar,
    instruction: str,
    *,
    strength: float | None = None,
    seed: int | None = None,
    device: str = "auto",
    overrides: Iterable[str] = (),
) -> SculptConfig:
    """All settings of an edit: those of the source, with what the edit changes, with ``overrides`` on top.

    Args:
        avatar: the source.
        instruction: what to change.
        strength: w_e; None takes the default.
        seed: None takes the source's.
        device, overrides: as in :meth:`headsculpt.avatar.Avatar.from_prompt`.

    Raises:
        ValueError: an empty or over-long instruction, an avatar that cannot be edited, a setting that cannot be
            used.
    """
    from headsculpt.priors.catalogue import has_control
    from headsculpt.prompts import check_prompt
    from headsculpt.synthesis.reading import edited_prompt

    instruction = check_prompt(instruction, what="instruction")
    source = field_of(avatar)
    config = overridden(source.config, (), prompt=edited_prompt(avatar.info.prompt, instruction).text, device=device)
    if not config.edit.instruction:  # an edit of an edit takes as many steps as that one
        for stage in (config.coarse, config.fine):
            stage.steps = max(min(1, stage.steps), round(STEPS * stage.steps))
    config.edit = replace(config.edit, instruction=instruction, told="")
    if strength is not None:
        config.edit.strength = float(strength)
    if seed is not None:
        config.seed = seed
    described = config.prompt
    config = overridden(config, overrides)
    if config.prompt != described:  # the user says what comes of it
        config.edit.told = config.edit.told or config.prompt
    for name in _GRID:
        new, old = getattr(config.coarse, name), getattr(source.config.coarse, name)
        if new != old:
            raise ValueError(f"coarse.{name} is {new}, but the head to edit was made with {old}; leave it as it is")
    controls = [control for control in config.prior.controls if control != "instruction"]
    if config.edit.reference and has_control(config.prior.name, "instruction"):
        controls.append("instruction")
    config.prior.controls = controls
    config.edit.told = _told_after(config, avatar)
    if config.edit.told == told_before(avatar) and "instruction" not in controls:
        raise ValueError(
            f'the prior {config.prior.name!r} edits by its text alone, and "{instruction}" changes nothing in '
            f'"{config.edit.told}"; name what the head is to have, or describe the result with edit.told=...'
        )
    return config


def told_before(avatar: Avatar) -> str:
    """The head to edit as the model was told it: its prompt, with what that leaves open."""
    from headsculpt.synthesis.completion import completed_prompt

    made = field_of(avatar).config
    if made.edit.told:
        return made.edit.told
    return completed_prompt(avatar.info.prompt, made.seed) if made.guidance.complete_prompt else avatar.info.prompt


def _told_after(config: SculptConfig, avatar: Avatar) -> str:
    from headsculpt.synthesis.completion import completed_prompt
    from headsculpt.synthesis.reading import edited_prompt

    # Not the edited prompt completed: "a zombie" wears another shirt than the elf that she was.
    nearest = config.guidance.complete_prompt
    told = config.edit.told or edited_prompt(told_before(avatar), config.edit.instruction, nearest=nearest).text
    return completed_prompt(told, config.seed) if config.guidance.complete_prompt else told


def _told_by_rule(config: SculptConfig, source: Avatar) -> bool:
    """Whether what comes of an edit is what its instruction says, and not what the user says of it beside that."""
    from headsculpt.synthesis.reading import edited_prompt

    plain = replace(config, edit=replace(config.edit, told=""))
    expected = edited_prompt(source.info.prompt, config.edit.instruction).text
    return config.prompt == expected and config.edit.told == _told_after(plain, source)


def check_apart(avatar: Avatar, out: str | Path) -> None:
    """ValueError where ``out`` is the source's own folder, or in it, or around it."""
    if avatar.loaded_from is None:
        return
    source, new = avatar.loaded_from.resolve(), Path(out).resolve()
    run = source.parent if (source.parent / "config.yaml").is_file() else source
    if new in (source, run) or run in new.parents or new in run.parents:
        raise ValueError(f"{out} is where the head to edit lies, and an edit never touches it; give another folder")


def create_edit_run(
    out: str | Path, config: SculptConfig, avatar: Avatar, *, overwrite: bool = False
) -> RunFolder:
    """The folder of an edit, with a copy of its source in it; see :meth:`RunFolder.create` for what it raises."""
    from headsculpt.run_folder import RunFolder

    field = field_of(avatar)
    check_apart(avatar, out)
    run = RunFolder.create(out, config, overwrite=overwrite)
    replace(avatar, source_field=field).save(run.path / SOURCE)
    return run


def load_source(run: RunFolder) -> Avatar:
    """The copy of the source in the folder of an edit.

    Raises:
        FileNotFoundError, ValueError: it is missing or damaged.
    """
    from headsculpt.avatar import Avatar

    try:
        return Avatar.load(run.path / SOURCE)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{run.path} is an edit without its {SOURCE}/, so it cannot go on; start it again with --overwrite"
        ) from None


def edited_info(info: AvatarInfo, source: AvatarInfo, config: SculptConfig) -> AvatarInfo:
    """Where an edited avatar comes from: its source's line, and the source itself at the end of it."""
    return replace(
        info,
        instruction=config.edit.instruction,
        strength=config.edit.strength,
        lineage=[*source.lineage, source.instruction or source.prompt],
    )


def landmark_prompt(config: SculptConfig, source: Avatar) -> str:
    """Whose head the landmarks are of: the edited one's where the edit changes its shape, else the source's.

    Each is the head that a prompt describes, and one prompt's differs from another's a little in all it says, so
    landmarks move by up to 0.02 scene units along a chain of edits.
    """
    from headsculpt.synthesis.reading import edited_prompt

    changes = edited_prompt(source.info.prompt, config.edit.instruction, nearest=True).changes
    unknown = not changes  # free text may change anything
    return config.prompt if unknown or _SHAPES & set(changes) else source.info.prompt


def edit_guides(
    config: SculptConfig,
    prior: Prior,
    source: Avatar,
    vertices: np.ndarray,
    faces: np.ndarray,
    contours: dict[str, np.ndarray],
) -> dict[str, Guidance]:
    """Identity-aware editing for each stage; says so where the prior has no instruction ControlNet."""
    from headsculpt.edit_place import EditPlace, edited_families, keeps_shape
    from headsculpt.guidance.identity_editing import EditDistillation
    from headsculpt.sculpting import diffusion_guides

    instructed = "instruction" in config.prior.controls
    if not instructed and not config.edit.reference:
        log.info('the edit follows its text alone: "%s"', config.edit.told or config.prompt)
    elif not instructed:
        log.warning(
            "prior '%s' has no instruction ControlNet, so the edit follows its text alone: \"%s\"",
            config.prior.name,
            config.edit.told or config.prompt,
        )
    if config.guidance.score != "sds" or config.guidance.perp_neg:
        log.warning(
            "edits blend two predictions by SDS; guidance.score=%s and guidance.perp_neg=%s are for sculpting only",
            config.guidance.score,
            config.guidance.perp_neg,
        )
    place = None
    families = edited_families(source.info.prompt, config.edit.instruction)
    if config.edit.place and families and _told_by_rule(config, source):
        place = EditPlace(families, source.mesh, vertices, faces, contours)
    # Edits from before 0.5.0 have no such words.
    told = replace(config, prompt=config.edit.told or config.prompt)
    bases: dict[str, Any] = dict(diffusion_guides(told, prior, vertices, faces, contours))
    if place is not None and not keeps_shape(source.info.prompt, config.edit.instruction):
        stage = bases["coarse"].stage
        bases["coarse"].stage = replace(stage, t_max_end=max(stage.t_max_end, config.edit.t_max_end))
    return {
        name: EditDistillation(
            base,
            told_before(source) if config.edit.told else source.info.prompt,
            config.edit,
            MeshReference(source.mesh),
            instructed=instructed,
            control_scale=config.prior.control_scale,
            place=place,
            # The last look sees each view once: a hole in its mask would paint the source there for good.
            holds=name != "refine",
        )
        for name, base in bases.items()
    }


def kept_source(
    config: SculptConfig,
    source: Avatar,
    vertices: np.ndarray,
    contours: dict[str, np.ndarray],
    device: torch.device,
) -> KeptSource | None:
    """What the edit keeps of its source to the point; None where its instruction may change anything."""
    from headsculpt.edit_place import edited_families, keeps_shape, takes_hat_off
    from headsculpt.head_surface import finest_grid
    from headsculpt.kept_source import KeptSource, edit_room, shape_room

    if not (config.edit.place and _told_by_rule(config, source)):
        return None
    families = edited_families(source.info.prompt, config.edit.instruction)
    shape_stays = keeps_shape(source.info.prompt, config.edit.instruction)
    if not families and not shape_stays:
        return None
    room = edit_room(families, vertices, contours) if families else None
    shape = None
    if room is not None:
        uncovers = takes_hat_off(source.info.prompt, config.edit.instruction)
        shape = shape_room(room, families, uncovers=uncovers)
    return KeptSource(
        source.mesh,
        room,
        shape_room=shape,
        shape_stays=shape_stays,
        resolution=finest_grid(config),
        device=device,
    )


class MeshReference:
    """Draws the finished source as a guidance asks for it."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh

    @torch.no_grad()
    def __call__(self, cameras: Cameras, background: Tensor) -> Tensor:
        """The lit source from these cameras over ``background (B, 3)``: ``(B, H, W, 3)`` on its device."""
        from headsculpt.export.view import render_mesh

        shown = render_mesh(self.mesh, cameras.to("cpu"), background=(0.0, 0.0, 0.0))
        behind = background[:, None, None].to("cpu")
        return (shown.rgb + (1 - shown.opacity) * behind).clamp(0, 1).to(background.device)

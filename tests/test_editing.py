"""Edits end to end on tiny priors: lineage, chains, resuming, an untouched source, and what errors say."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from stand_ins import textured_egg

from headsculpt import cli
from headsculpt.avatar import Avatar, AvatarInfo
from headsculpt.config import load_config
from headsculpt.editing import (
    FIELD_FILE,
    MeshReference,
    SourceField,
    create_edit_run,
    edit_config,
    told_before,
)
from headsculpt.export.bake import texel_positions
from headsculpt.heads.places import in_places
from headsculpt.outputs import sculpt_run
from headsculpt.priors.catalogue import random_prior
from headsculpt.run_folder import RunFolder
from headsculpt.synthesis.completion import completed_prompt
from headsculpt.synthesis.reading import read_prompt

TINY = [
    "coarse.steps=2", "coarse.batch=1", "coarse.render_size=16", "coarse.samples=8", "coarse.hash_levels=4",
    "coarse.denoise_steps=1", "fine.denoise_steps=1", "refine.denoise_steps=1", "refine.views=2",
    "fine.steps=2", "fine.batch=1", "fine.render_size=24", "fine.tet_resolution=16", "refine.tet_resolution=20",
    "output.texture_size=32", "output.max_faces=400", "output.turntable_frames=1",
    "output.turntable_size=16", "output.preview_size=16", "checkpoint_every_s=0", "preview_every_s=1000",
]  # fmt: skip


@pytest.fixture(scope="module")
def prior(tmp_path_factory) -> Path:
    """A prior folder of tiny random networks with both ControlNets."""
    folder = tmp_path_factory.mktemp("prior")
    made = random_prior("tiny", controls=("landmarks", "instruction"))
    for name in ("tokenizer", "text_encoder", "vae", "unet", "scheduler"):
        getattr(made, name).save_pretrained(folder / name)
    for name, network in made.controlnets.items():
        network.save_pretrained(folder / f"controlnet_{name}")
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    return folder


@pytest.fixture(scope="module")
def source(prior, tmp_path_factory) -> Path:
    """The run folder of a finished head."""
    out = tmp_path_factory.mktemp("runs") / "source"
    overrides = [*TINY, f"prior.name={prior}", "edit.reference=true"]
    Avatar.from_prompt("a man with a red cap", preset="draft", seed=4, out=out, overrides=overrides, device="cpu")
    return out


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def edited(source, tmp_path_factory) -> Path:
    """An edit of it, made by the command line; the source must come out as it went in."""
    out = tmp_path_factory.mktemp("edits") / "edited"
    before = files(source)
    with pytest.raises(SystemExit) as caught:
        cli.main(["edit", str(source), "take off the cap", "--out", str(out), "--strength", "0.8", "--device", "cpu"])
    assert not caught.value.code
    assert files(source) == before
    return out


def test_an_edit_is_a_run_with_its_source_and_its_line(edited, source):
    assert RunFolder.open(edited).finished
    info = Avatar.load(edited).info
    assert (info.prompt, info.instruction, info.strength) == ("a man, bareheaded", "take off the cap", 0.8)
    assert info.lineage == ["a man with a red cap"] and info.seed == 4
    config = RunFolder.open(edited).config()
    assert config.prior.controls == ["landmarks", "instruction"]
    assert (config.coarse.steps, config.fine.steps) == (1, 1)
    assert files(edited / "source") == files(source / "avatar")


def test_edits_chain_and_name_the_whole_line(edited, tmp_path):
    first = Avatar.load(edited)
    again = first.edit("make him smile", out=tmp_path / "again", device="cpu")
    assert again.info.lineage == ["a man with a red cap", "take off the cap"]
    assert again.info.prompt == "a smiling man, bareheaded" and again.info.strength == 0.8
    assert RunFolder.open(tmp_path / "again").config().coarse.steps == 1  # not halved once more
    assert first.info == Avatar.load(edited).info


def test_an_edit_needs_no_folder_and_leaves_the_avatar_as_it_was(edited):
    avatar = Avatar.load(edited)
    vertices, state = avatar.mesh.vertices.clone(), avatar.source_field.state
    kept = {name: tensor.clone() for name, tensor in state.items()}
    other = avatar.edit("add round glasses", device="cpu", overrides=["edit.mask=false"])
    assert torch.equal(avatar.mesh.vertices, vertices)
    assert all(torch.equal(state[name], kept[name]) for name in kept)
    assert other.source_field is not None and other.info.instruction == "add round glasses"
    assert any(not torch.equal(other.source_field.state[name], kept[name]) for name in kept)


def test_an_interrupted_edit_goes_on_without_its_source_and_ends_the_same(source, tmp_path):
    copied = Path(shutil.copytree(source, tmp_path / "source"))
    avatar = Avatar.load(copied)
    config = edit_config(avatar, "add round glasses", device="cpu", overrides=["coarse.steps=2", "fine.steps=2"])
    whole = sculpt_run(config, create_edit_run(tmp_path / "whole", config, avatar), write=False)

    def stop(progress):
        if (progress.stage, progress.step) == ("fine", 1):
            raise KeyboardInterrupt

    run = create_edit_run(tmp_path / "cut", config, avatar)
    with pytest.raises(KeyboardInterrupt):
        sculpt_run(config, run, progress=stop)
    shutil.rmtree(copied)
    reopened = RunFolder.open(tmp_path / "cut")
    resumed = sculpt_run(reopened.config(), reopened, write=False)
    assert torch.equal(resumed.mesh.vertices, whole.mesh.vertices)
    assert resumed.info == whole.info


def test_a_prior_without_instruction_controlnet_says_so_and_edits_by_text(source, prior, tmp_path, caplog):
    bare = Path(shutil.copytree(prior, tmp_path / "prior"))
    shutil.rmtree(bare / "controlnet_instruction")
    avatar = Avatar.load(source)
    with caplog.at_level("WARNING", logger="headsculpt"):
        cli.console.logging.getLogger("headsculpt").propagate = True
        overrides = [f"prior.name={bare}", "guidance.perp_neg=true"]
        made = avatar.edit("add round glasses", device="cpu", overrides=overrides)
    assert 'has no instruction ControlNet, so the edit follows its text alone: "a pale man with' in caplog.text
    assert "guidance.score=sds and guidance.perp_neg=True are for sculpting only" in caplog.text
    assert made.info.instruction == "add round glasses"


def test_an_edit_of_a_colour_keeps_mesh_and_uvs_and_all_other_colours(source, tmp_path):
    before = Avatar.load(source)
    after = before.edit("make the cap blue", out=tmp_path / "blue", device="cpu")
    assert torch.equal(after.mesh.vertices, before.mesh.vertices) and torch.equal(after.mesh.faces, before.mesh.faces)
    assert torch.equal(after.mesh.uv, before.mesh.uv)
    position, covered = texel_positions(before.mesh, before.mesh.texture.shape[0])
    change = np.abs(after.mesh.texture.astype(int) - before.mesh.texture.astype(int)).max(-1)
    outside = (in_places({"headwear_colour"}, position.view(-1, 3)) == 0).view(covered.shape) & covered
    assert outside.any() and change[outside.numpy()].max() <= 1
    assert change[(covered & ~outside).numpy()].max() > 1


def test_an_old_run_without_field_is_edited_from_its_checkpoint(source, tmp_path):
    old = Path(shutil.copytree(source, tmp_path / "old"))
    (old / "avatar" / FIELD_FILE).unlink()
    before = files(old)
    made = Avatar.load(old).edit("add round glasses", device="cpu")
    assert made.info.lineage == ["a man with a red cap"] and files(old) == before


def test_a_field_is_saved_as_the_same_bytes(source, tmp_path):
    path = source / "avatar" / FIELD_FILE
    assert SourceField.load(path).to_bytes() == path.read_bytes()
    assert files(Avatar.load(source).save(tmp_path / "copy")) == files(source / "avatar")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["RUN", "  "], 2, "the instruction is empty; say in a few words what to change"),
        (["RUN", "beard " * 200], 2, "the instruction has 200 words and the limit is"),
        (["NOWHERE", "add a hat"], 1, "holds no avatar (no avatar.json); give a saved avatar or a run"),
        (["RUN", "add a hat", "--strength", "9"], 2, "edit.strength is 9.0; expected 0 to 3"),
        (["RUN", "add a hat", "edit.maks=false"], 2, "unknown setting 'edit.maks' (did you mean edit.mask?)"),
        (["RUN", "add a hat", "edit.mask_threshold=0"], 2, "edit.mask_threshold is 0.0; expected more than 0"),
        (["RUN", "add a hat", "edit.target_share=2"], 2, "edit.target_share is 2.0; expected 0 to 1"),
        (["RUN", "add a hat", "coarse.hash_levels=5"], 2, "but the head to edit was made with 4"),
        (["RUN", "add a hat", "coarse.steps"], 2, "expected key=value"),
        (["RUN", "add a hat", "--out", "RUN", "--overwrite"], 2, "an edit never touches it; give another folder"),
        (["RUN", "add a hat", "--out", "RUN/avatar", "--overwrite"], 2, "an edit never touches it"),
    ],
)  # fmt: skip
def test_bad_edits_write_nothing_and_leave_the_source(arguments, status, message, source, tmp_path, capsys):
    before = files(source)
    given = [a.replace("RUN", str(source)).replace("NOWHERE", str(tmp_path)) for a in arguments]
    if "--out" not in given:
        given += ["--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as caught:
        cli.main(["edit", *given])
    complaint = " ".join(capsys.readouterr().err.split())
    assert caught.value.code == status and message in complaint and "Traceback" not in complaint
    assert files(source) == before and not (tmp_path / "out").exists()


def test_what_cannot_be_edited_says_why(source, tmp_path):
    with pytest.raises(ValueError, match="this avatar can be looked at but not edited: it has no field.safetensors"):
        Avatar(textured_egg(), AvatarInfo(prompt="an egg")).edit("add a hat")
    saved = Avatar(textured_egg(), AvatarInfo(prompt="an egg")).save(tmp_path / "egg")
    with pytest.raises(ValueError, match="the avatar in .*egg can be looked at but not edited"):
        Avatar.load(saved).edit("add a hat")


def test_newer_and_damaged_fields_are_named(source, tmp_path):
    field = Avatar.load(source).source_field
    assert field is not None
    folder = Path(shutil.copytree(source / "avatar", tmp_path / "avatar"))
    path = folder / FIELD_FILE
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"field.safetensors is damaged .*sculpt the head again"):
        Avatar.load(folder)
    path.write_bytes(field.to_bytes().replace(b'\\"format\\": 1', b'\\"format\\": 9', 1))
    with pytest.raises(ValueError, match=r"written by a newer headsculpt \(format 9, this one reads up to 1\)"):
        Avatar.load(folder)
    note = folder / "avatar.json"
    note.write_text(json.dumps({**json.loads(note.read_text()), "format": 99}))
    with pytest.raises(ValueError, match="newer headsculpt"):
        Avatar.load(folder)


def test_an_edit_whose_copy_of_the_source_is_gone(source, tmp_path):
    avatar = Avatar.load(source)
    config = edit_config(avatar, "add round glasses", device="cpu")
    run = create_edit_run(tmp_path / "run", config, avatar)
    shutil.rmtree(run.path / "source")
    with pytest.raises(FileNotFoundError, match="is an edit without its source/, so it cannot go on"):
        sculpt_run(config, run)


def test_settings_of_an_edit_read_back_whatever_the_instruction_says(source, tmp_path):
    avatar = Avatar.load(source)
    config = edit_config(avatar, "${oc.env:HOME}: [a] 'b' # c", device="cpu", seed=9)
    run = create_edit_run(tmp_path / "run", config, avatar)
    assert run.config() == config and config.seed == 9
    assert config.edit.instruction == "${oc.env:HOME}: [a] 'b' # c"


def test_an_edit_keeps_what_the_prompt_left_open(source, tmp_path):
    """Whoever is turned into an elf keeps her shirt, and so does a second edit of her."""
    avatar = Avatar.load(source)
    first = edit_config(avatar, "turn him into an elf", device="cpu", seed=11)
    before, after = (read_prompt(told).values for told in (told_before(avatar), first.edit.told))
    assert after["subject"] == "elf" and first.prompt == "an elf man wearing a red baseball cap"
    assert {f: after[f] for f in before if f not in ("subject", "skin")} == {
        f: before[f] for f in before if f not in ("subject", "skin")
    }
    assert first.edit.told != completed_prompt(first.prompt, first.seed)
    edited = replace(avatar, source_field=SourceField(first, {}), info=AvatarInfo(prompt=first.prompt))
    second = edit_config(edited, "add round glasses", device="cpu")
    assert read_prompt(second.edit.told).values == {**after, "eyewear": "round glasses"}
    told = [
        edit_config(avatar, "make him sad", device="cpu", overrides=[override]).edit.told
        for override in ("edit.told=a sad king", "prompt=a sad king")
    ]
    assert told == [completed_prompt("a sad king", 4)] * 2


@pytest.mark.parametrize(
    ("instruction", "override", "families"),
    [
        ("take off the cap", "edit.place=true", {"headwear"}),
        ("take off the cap", "edit.place=false", None),
        ("turn him into a zombie", "edit.place=true", None),
        ("take off the cap", "edit.told=a bald zombie", None),  # who says what comes of it may mean the whole head
    ],
)
def test_an_edit_acts_in_its_place(source, instruction, override, families):
    from headsculpt.editing import edit_guides
    from headsculpt.sculpting import load_guiding_prior, starting_head

    avatar = Avatar.load(source)
    config = edit_config(avatar, instruction, device="cpu", overrides=[override])
    prior = load_guiding_prior(config, torch.device("cpu"))
    guides = edit_guides(config, prior, avatar, *starting_head(config, None))
    for guide in guides.values():
        assert (None if guide.place is None else set(guide.place.families)) == families


@pytest.mark.parametrize(
    ("instruction", "ends"),
    [
        (["put a beanie on him"], (0.85, 0.2)),
        (["make his cap green"], (0.65, 0.2)),  # colours alone
        (["turn him into a zombie"], (0.65, 0.2)),  # all of him
        (["put a beanie on him", "edit.t_max_end=0"], (0.65, 0.2)),
    ],
)
def test_noise_stays_high_where_a_shape_is_to_change_in_its_place(source, instruction, ends):
    from headsculpt.editing import edit_guides
    from headsculpt.sculpting import load_guiding_prior, starting_head

    avatar = Avatar.load(source)
    config = edit_config(avatar, instruction[0], device="cpu", overrides=instruction[1:])
    prior = load_guiding_prior(config, torch.device("cpu"))
    guides = edit_guides(config, prior, avatar, *starting_head(config, None))
    assert tuple(guides[name].base.stage.t_max_end for name in ("coarse", "fine")) == ends
    assert config.coarse.t_max_end == 0.65  # of the next edit, too


def test_an_edit_that_says_nothing_new_is_refused_where_only_its_text_counts(source, prior, tmp_path):
    bare = Path(shutil.copytree(prior, tmp_path / "prior"))
    shutil.rmtree(bare / "controlnet_instruction")
    avatar = Avatar.load(source)
    message = 'edits by its text alone, and "put him in a t-shirt" changes nothing in "a pale man with'
    with pytest.raises(ValueError, match=message):
        edit_config(avatar, "put him in a t-shirt", device="cpu", overrides=[f"prior.name={bare}"])
    edit_config(avatar, "put him in a t-shirt", device="cpu")  # here the instruction itself is told


def test_the_reference_is_the_finished_mesh_over_the_same_background():
    from headsculpt.cameras import framed

    cameras = framed([0.0, 180.0], 0.0, 1.0, height=32, width=32)
    background = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    shown = MeshReference(textured_egg())(cameras, background)
    assert shown.shape == (2, 32, 32, 3)
    assert torch.equal(shown[:, 0, 0], background)
    assert not torch.equal(shown[0, 16, 16], background[0])


def test_a_preset_knows_nothing_of_edits_until_there_is_an_instruction():
    config = load_config("mini", prompt="an elf")
    assert not config.edit.instruction and config.edit.strength == 0.95 and config.edit.mask
    assert load_config("sd15", prompt="an elf").edit.target_share == 0.0
    assert replace(config.edit, instruction="x") != config.edit

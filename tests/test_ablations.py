"""The ablations' bench on heads that cost nothing: rows, resuming, tables, and what is skipped."""

from __future__ import annotations

import importlib.util
import json
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from stand_ins import textured_egg

from headsculpt.avatar import Avatar, AvatarInfo
from headsculpt.config import load_config
from headsculpt.evaluation.judge import Judge, JudgeConfig, JudgeNetwork

PATH = Path(__file__).parents[1] / "benchmarks" / "ablations.py"


@pytest.fixture(scope="module")
def ablations():
    spec = importlib.util.spec_from_file_location("ablations", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules["ablations"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["ablations"]


@pytest.fixture(scope="module")
def judge() -> Judge:
    torch.manual_seed(0)
    return Judge(JudgeNetwork(JudgeConfig()))


@pytest.fixture
def given(tmp_path: Path) -> Namespace:
    prompts = {
        "prompts": [{"prompt": "a man", "expects": {"subject": "man"}}, {"prompt": "an elf", "expects": {}}],
        "edits": [{"prompt": "a man", "instruction": "add glasses", "expects": {"eyewear": "round glasses"}}],
    }
    (tmp_path / "p.json").write_text(json.dumps(prompts))
    return Namespace(
        prompts=tmp_path / "p.json", preset="draft", limit=None, rows=["full", "no-token", "nerf-only"], seed=0,
        work=tmp_path / "work", docs=tmp_path / "docs", clip=str(tmp_path), device="cpu", set=["coarse.steps=3"],
    )  # fmt: skip


def sculptor(made: list[tuple[str, list[str]]]):
    def sculpt(prompt: str, folder: Path, *, overrides: list[str], **_: object) -> Avatar:
        made.append((folder.parent.name, list(overrides)))
        avatar = Avatar(textured_egg(), AvatarInfo(prompt=prompt))
        avatar.save(folder / "avatar")
        return avatar

    return sculpt


def test_every_row_is_sculpted_once_with_its_own_settings(ablations, given, judge, capsys, monkeypatch) -> None:
    monkeypatch.setattr(ablations, "has_token", lambda prior, files: False)
    made: list[tuple[str, list[str]]] = []
    lines = ablations.run(given, sculptor(made), judge)
    fine = load_config("draft").fine.steps
    expected = [("full", ["coarse.steps=3"])] * 2
    expected += [("nerf-only", ["coarse.steps=3", f"coarse.steps={3 + fine}", "fine.steps=0", "refine.views=0"])] * 2
    assert made == expected
    assert [line["name"] for line in lines] == ["full", "nerf-only"] and lines[0]["asked"] == 1
    said = capsys.readouterr().out
    assert "skipped: without back-view token: prior 'mini' has no learned" in said
    assert "without CLIP's columns" in said
    table = (given.docs / "ablations.md").read_text()
    assert "| full | 2 |" in table and "| NeRF only | 2 |" in table and "## Edits" not in table
    assert (given.docs / "images" / "ablations.jpg").is_file()
    assert ablations.run(given, sculptor(made), judge) == lines and len(made) == 4
    given.limit = 0
    with pytest.raises(ValueError, match="--limit is 0; expected 1 or more"):
        ablations.run(given, sculptor(made), judge)


def test_the_token_of_the_shipped_prior_can_be_left_out(ablations, given, judge) -> None:
    made: list[tuple[str, list[str]]] = []
    given.rows = ["no-token"]
    ablations.run(given, sculptor(made), judge)
    assert made == [("no-token", ["coarse.steps=3", "guidance.back_token=false"])] * 2


def test_edits_are_skipped_with_a_reason_until_avatars_can_edit(ablations, given, judge, monkeypatch, capsys) -> None:
    given.rows = ["edit-0.6", "edit-no-mask"]
    monkeypatch.delattr(Avatar, "edit", raising=False)
    assert ablations.run(given, sculptor([]), judge) == []
    assert "skipped: edit, w_e = 0.6: this headsculpt cannot edit yet" in capsys.readouterr().out


def test_edits_start_from_the_full_head_and_measure_what_stays(ablations, given, judge, monkeypatch) -> None:
    asked: list[tuple[str, float]] = []

    def edit(self: Avatar, instruction: str, *, strength: float, **_: object) -> Avatar:
        asked.append((instruction, strength))
        return Avatar(self.mesh, AvatarInfo(prompt=f"{self.info.prompt} with glasses"))

    monkeypatch.setattr(Avatar, "edit", edit, raising=False)
    given.rows, made = ["edit-0.2", "edit-1.0"], []
    lines = ablations.run(given, sculptor(made), judge)
    assert asked == [("add glasses", 0.2), ("add glasses", 1.0)]
    assert all(made_in == ("sources", ["coarse.steps=3"]) for made_in in made)
    assert lines[0]["outside_difference"] == 0 and lines[0]["kept"] == lines[0]["kept_of"] > 0
    assert "| edit, w_e = 0.2 | 1 |" in (given.docs / "ablations.md").read_text()


def test_all_settings_of_the_rows_are_known_or_those_of_edits(ablations) -> None:
    for row in ablations.ROWS:
        if not row.is_edit:
            load_config("mini", [override.format(total=7) for override in row.overrides])
    names = [row.name for row in ablations.ROWS]
    assert len(set(names)) == len(names)
    tasks = json.loads(PATH.with_suffix(".json").read_text())
    assert {edit["prompt"] for edit in tasks["edits"]} <= {task["prompt"] for task in tasks["prompts"]}


def test_without_a_density_prior_there_is_no_head(ablations) -> None:
    from headsculpt.representations.density_prior import DensityPrior
    from headsculpt.sculpting import starting_head
    from headsculpt.sculpting_stages import new_nerf

    config = load_config("draft", ["coarse.prior_kind=blob", "coarse.hash_log2_table=8", "coarse.hash_levels=2"])
    vertices, faces, _ = starting_head(config, None)
    assert [m.kind for m in new_nerf(config, vertices, faces).modules() if isinstance(m, DensityPrior)] == ["blob"]
    with pytest.raises(ValueError, match="coarse.prior_kind is 'none'; expected one of solid, shell, blob"):
        load_config("draft", ["coarse.prior_kind=none"])

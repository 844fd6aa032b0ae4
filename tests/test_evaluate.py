"""Evaluation: prompts files, tables, resuming, the check for second faces, CLIP figures."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from headsculpt.avatar import Avatar, AvatarInfo
from headsculpt.evaluation import metrics
from headsculpt.evaluation.evaluate import (
    JUDGED,
    Judgement,
    Task,
    evaluate_prompts,
    headline,
    janus_check,
    kept_families,
    markdown,
    mesh_check,
    read_prompts,
    slug,
    summary,
)
from headsculpt.evaluation.evaluate_prior import described_landmarks
from headsculpt.evaluation.judge import Judge, JudgeConfig, JudgeNetwork
from headsculpt.meshes import Mesh
from headsculpt.synthesis.attributes import VALUES

SMALL = JudgeConfig((8, 8, 8), (1, 1, 1))


def ball(rings: int = 6, sides: int = 8) -> Mesh:
    import trimesh

    shape = trimesh.creation.uv_sphere(radius=0.5, count=[rings, sides])
    vertices = torch.tensor(shape.vertices, dtype=torch.float32)
    return Mesh(vertices, torch.tensor(shape.faces), colours=torch.full((len(vertices), 3), 0.5))


def prompts_file(tmp_path, content):
    path = tmp_path / "prompts.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def entry(prompt="a man with sunglasses", **expects):
    return {"prompt": prompt, "expects": expects or {"eyewear": "sunglasses"}}


class Sculptor:
    """Stands in for the sculpting: a ball, saved where a run would leave its avatar."""

    def __init__(self):
        self.asked = []

    def __call__(self, prompt, folder):
        self.asked.append(prompt)
        avatar = Avatar(ball())
        avatar.save(folder / "avatar")
        return avatar


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{not json", r"prompts.json is not JSON"),
        ([], r'should hold \{"prompts"'),
        ({"prompts": [entry(), {"text": "a man"}]}, r"prompts\[1\] has no 'prompt'.*it has \['text'\]"),
        ({"prompts": ["a man"]}, r"prompts\[0\] should be an object with prompt; got 'a man'"),
        (
            {"prompts": [entry(eyeware="sunglasses")]},
            r"prompts\[0\] expects 'eyeware'.*did you mean 'eyewear'",
        ),
        (
            {"prompts": [entry(eyewear="monocle")]},
            r"expects eyewear 'monocle'; it can be none, round glasses",
        ),
        ({"prompts": [entry(earrings=1)]}, r"expects earrings 1; it can be False, True"),
        ({"prompts": [], "edits": [{"prompt": "a man"}]}, r"edits\[0\] has no 'instruction'"),
        ({"prompts": [], "edits": {}}, r"edits should be a list; got dict"),
    ],
)
def test_a_bad_prompts_file_is_named_with_the_entry(tmp_path, content, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_prompts(prompts_file(tmp_path, content))
    assert "prompts.json" in str(caught.value)


def test_what_a_prompts_file_says_in_other_words_is_warned_of(tmp_path, caplog):
    tasks, _ = read_prompts(prompts_file(tmp_path, {"prompts": [{"prompt": "a man", "attributes": {"nose": "big"}}]}))
    assert tasks[0].expects == {} and "prompts[0]: attributes is not read" in caplog.text


def test_a_missing_prompts_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no prompts file .*nothing.json"):
        read_prompts(tmp_path / "nothing.json")


def test_limit_below_one_is_refused(tmp_path):
    path = prompts_file(tmp_path, {"prompts": [entry()]})
    with pytest.raises(ValueError, match="limit must be at least 1; got 0"):
        evaluate_prompts(path, "mini", tmp_path / "out", limit=0)


def test_evaluation_writes_tables_and_a_sheet_and_goes_on_where_it_was(tmp_path):
    torch.manual_seed(0)
    judge, sculptor = Judge(JudgeNetwork(SMALL)), Sculptor()
    second = entry("a woman with a bun", hair_style="bun", subject="woman")
    path = prompts_file(tmp_path, {"prompts": [entry(), second]})
    out = tmp_path / "out"
    evaluate_prompts(path, "mini", out, limit=1, judge=judge, sculpt=sculptor)
    results = evaluate_prompts(path, "mini", out, judge=judge, sculpt=sculptor)
    assert sculptor.asked == ["a man with sunglasses", "a woman with a bun"]  # the first was not made again
    assert (out / "01-a-man-with-sunglasses" / JUDGED).is_file()
    assert (out / "contact_sheet.png").stat().st_size > 1000
    written = json.loads((out / "results.json").read_text())
    assert written["prompts"]["count"] == 2 and written["prompts"]["asked"] == 3
    assert set(written["prompts"]["heads"][0]["read"]) == set(VALUES)
    assert written["prompts"]["right"] == results["prompts"]["right"]
    assert written["prompts"]["heads"][1]["mesh"]["watertight"]
    assert not written["prompts"]["heads"][1]["mesh"]["ok"]  # far below 10,000 faces
    table = (out / "results.md").read_text()
    assert "| a woman with a bun |" in table and "| eyewear |" in table and "second faces on" in table


def test_edits_run_on_the_heads_of_their_prompts_and_count_what_stayed(tmp_path, monkeypatch):
    asked = []

    def edit(source, instruction, folder):
        asked.append((source.info.prompt, instruction, folder.name))
        avatar = Avatar(ball())
        avatar.save(folder / "avatar")
        return avatar

    def sculpt(prompt, folder):
        avatar = Avatar(ball(), AvatarInfo(prompt=prompt))
        avatar.save(folder / "avatar")
        return avatar

    edits = [
        {"prompt": "a man with sunglasses", "instruction": "add a golden crown", "expects": {"headwear": "crown"}},
        {"prompt": "a woman", "instruction": "make her smile", "expects": {}},
    ]
    path = prompts_file(tmp_path, {"prompts": [entry()], "edits": edits})
    judge, out = Judge(JudgeNetwork(SMALL)), tmp_path / "out"
    for _ in range(2):
        results = evaluate_prompts(path, "mini", out, judge=judge, sculpt=sculpt, edit=edit)
    # The second edit's prompt is not in the file; the first is not made again.
    assert asked == [("a man with sunglasses", "add a golden crown", "edit-01-add-a-golden-crown")]
    assert results["edits"]["count"] == 1 and results["edits"]["asked"] == 1
    assert Image.open(path.parent / "out" / "edits.png").width > 4 * 144  # two views before, two after
    kept, of = results["edits"]["kept"]
    assert kept == of > 5  # the same ball reads the same
    assert f"left as they were: {of} of {of} (100.0 %)" in headline(results)
    # The same of what was read clearly on the source, by any measure of that.
    for least, expected in ((0.0, [kept, of]), (1.1, [0, 0])):
        monkeypatch.setattr("headsculpt.evaluation.evaluate.CLEAR", least)
        results = evaluate_prompts(path, "mini", out, judge=judge, sculpt=sculpt, edit=edit)
        assert results["edits"]["clear"] == expected
        assert ("of what was clear before" in headline(results)) == (expected[1] > 0)


def test_an_edit_of_a_head_that_failed_says_so(tmp_path):
    def sculpt(prompt, folder):
        raise FloatingPointError("the loss became nan")

    edits = [{"prompt": "a man with sunglasses", "instruction": "add a cap", "expects": {"headwear": "baseball cap"}}]
    path = prompts_file(tmp_path, {"prompts": [entry()], "edits": edits})
    results = evaluate_prompts(path, "mini", tmp_path / "out", judge=Judge(JudgeNetwork(SMALL)), sculpt=sculpt)
    assert "its prompt gave no head to edit" in results["edits"]["heads"][0]["error"]


def test_what_an_edit_leaves_alone_is_what_it_does_not_name_and_can_be_seen():
    before = {"headwear": ("none", 0.9), "headwear_colour": ("red", 0.4), "nose": ("big", 0.9), "skin": ("tan", 0.8),
              "subject": ("man", 0.9), "material": ("plain", 0.9)}  # fmt: skip
    hat = Task("a man", {"headwear": "beanie"}, "add a beanie")
    after = {**before, "headwear": ("beanie", 0.9), "nose": ("small", 0.6)}
    assert kept_families(before, after, hat) == {"nose": False, "skin": True, "subject": True, "material": True}
    hair = {"hair_style": ("short", 0.9), "eyewear": ("none", 0.9)}
    under = {**hair, "headwear": ("beanie", 0.9), "hair_style": ("bald", 0.6)}
    assert kept_families(hair, under, hat) == {"eyewear": True}  # hair under a hat is no loss
    orc = Task("a man", {"subject": "orc"}, "turn him into an orc")
    assert kept_families(before, {**before, "subject": ("orc", 0.9)}, orc) == {"headwear": True, "material": True}


def test_a_head_that_fails_counts_as_wrong_and_does_not_stop_the_others(tmp_path):
    def sculpt(prompt, folder):
        if "man with" in prompt:
            raise FloatingPointError("the loss became nan")
        return Sculptor()(prompt, folder)

    path = prompts_file(tmp_path, {"prompts": [entry(), entry("an elf", ears="pointed")]})
    results = evaluate_prompts(
        path, "mini", tmp_path / "out", judge=Judge(JudgeNetwork(SMALL)), sculpt=sculpt
    )
    heads = results["prompts"]["heads"]
    assert (
        heads[0]["right"] == {"eyewear": False}
        and "became nan" in heads[0]["error"]
        and not heads[1]["error"]
    )
    assert "the loss became nan" in (tmp_path / "out" / "results.md").read_text()


def test_summary_counts_by_family_and_apart_for_edits():
    found = [
        Judgement("a", {"nose": "big", "skin": "tan"}, "1", right={"nose": True, "skin": False}, minutes=2.0,
                  janus={"found": True}, mesh={"ok": True}),
        Judgement("b", {"nose": "big"}, "2", right={"nose": True}, janus={"found": False}, mesh={"ok": False}),
        Judgement("a -> b", {"nose": "big"}, "3", right={"nose": False}, is_edit=True),
    ]  # fmt: skip
    result = summary({"preset": "mini"}, found)
    assert result["prompts"]["families"] == {"skin": [0, 1], "nose": [2, 2]}
    assert (result["prompts"]["right"], result["prompts"]["asked"], result["prompts"]["percent"]) == (
        2,
        3,
        66.7,
    )
    assert (result["prompts"]["janus"], result["prompts"]["meshes_ok"]) == (1, 1)
    assert result["prompts"]["mean_minutes"] == 2.0 and result["edits"]["asked"] == 1
    found[0].read = {"skin": ("pale", 0.9)}
    found[0].mesh = {"faces": 5, "parts": 2, "watertight": False, "ok": False}
    text = markdown(summary({"preset": "mini"}, found[:1]))
    assert "skin: tan (read pale)" in text and "| yes | 5 faces, not watertight, parts: 2 | 2.0 |" in text
    assert "## Edits" not in text
    assert headline(result).startswith(
        "Prompts: 2 of 3 attributes right (66.7 %); second faces on 1 of 2 heads"
    )


def test_mesh_check_sees_holes_parts_and_nan():
    whole = ball()
    assert mesh_check(Avatar(whole)) | {"ok": 0, "faces": 0} == {
        "finite": True, "watertight": True, "parts": 1, "faces": 0, "ok": 0
    }  # fmt: skip
    assert not mesh_check(Avatar(Mesh(whole.vertices, whole.faces[1:])))["watertight"]
    two = Mesh(whole.vertices.repeat(2, 1), torch.cat([whole.faces, whole.faces + len(whole.vertices)]))
    assert mesh_check(Avatar(two))["parts"] == 2
    broken = Mesh(whole.vertices.clone(), whole.faces)
    broken.vertices[0, 0] = float("nan")
    assert not mesh_check(Avatar(broken))["finite"]


class _Sure(JudgeNetwork):
    """Says what it is told about faces."""

    seen, front = -5.0, -5.0

    def forward(self, images):
        out = super().forward(images)
        out["face_seen"] = torch.full_like(out["face_seen"], self.seen)
        out["frontal"] = torch.full_like(out["frontal"], self.front)
        return out


def test_a_face_behind_or_a_frontal_face_at_the_side_is_a_second_face():
    network, avatar = _Sure(SMALL), Avatar(ball())
    assert not janus_check(avatar, Judge(network))["found"]
    network.seen = 5.0
    assert janus_check(avatar, Judge(network))["back"] > 0.9 and janus_check(avatar, Judge(network))["found"]
    network.seen, network.front = -5.0, 5.0
    assert janus_check(avatar, Judge(network))["found"]


def test_slugs_are_folder_names():
    assert slug("A square-jawed man, in: a grey beanie!") == "a-square-jawed-man-in-a"
    assert slug("???") == "head"


class _Clip:
    """A CLIP whose image features are the mean colour and whose text features are given."""

    class config:
        class vision_config:
            image_size = 8

        class text_config:
            max_position_embeddings = 4

    device, dtype = torch.device("cpu"), torch.float32
    words = {"red": 0, "green": 1, "blue": 2}

    def get_image_features(self, pixel_values):
        return pixel_values.mean((2, 3))

    def get_text_features(self, input_ids, attention_mask):
        return torch.nn.functional.one_hot(input_ids[:, 0], 3).float()

    def __call__(self, texts, **_):
        ids = torch.tensor([[self.words[text]] for text in texts])
        return _Tokens(ids)


class _Tokens:
    def __init__(self, ids):
        self.input_ids, self.attention_mask = ids, torch.ones_like(ids)

    def to(self, device):
        return self


def colours(*rows):
    return torch.tensor(rows, dtype=torch.float32)[:, :, None, None].expand(-1, -1, 8, 8)


def test_clip_figures_on_colours_whose_answers_are_known():
    clip = _Clip()
    images = colours([1, 0, 0], [0, 1, 0], [0, 0, 1])
    assert metrics.r_precision(clip, clip, images, ["red", "green", "blue"]) == 1.0
    assert metrics.r_precision(clip, clip, images, ["red", "green", "red"]) == pytest.approx(2 / 3)
    right = metrics.clip_score(clip, clip, images, ["red", "green", "blue"])
    assert right > metrics.clip_score(clip, clip, images, ["green", "blue", "red"])
    red, green = images[:1], images[1:2]
    turned = metrics.directional_similarity(clip, clip, red, green, ["red"], ["green"])
    assert turned > 0.9
    assert metrics.directional_similarity(clip, clip, red, green, ["green"], ["red"]) == pytest.approx(
        -turned
    )
    with pytest.raises(ValueError, match="one text for each image"):
        metrics.clip_score(clip, clip, images, ["red"])


def test_clip_figures_of_an_evaluation_folder(tmp_path, capsys, monkeypatch):
    from headsculpt.evaluation import evaluate_clip

    with pytest.raises(FileNotFoundError, match="results.json is missing; sculpt first: headsculpt evaluate"):
        evaluate_clip.evaluate_clip(tmp_path, clip=(_Clip(), _Clip()))
    assert evaluate_clip.main([str(tmp_path)]) == 1 and "sculpt first" in capsys.readouterr().err
    red, green = [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]
    heads = {"a": ("red", red), "b": ("green", green), "c": ("green", red), "e": ("green", green)}
    avatars = {}
    for name, (prompt, colour) in heads.items():
        avatars[name] = SimpleNamespace(info=SimpleNamespace(prompt=prompt, instruction="green"), colour=colour)
    monkeypatch.setattr("headsculpt.avatar.Avatar.load", lambda folder: avatars[folder.name])
    monkeypatch.setattr(
        evaluate_clip, "views_of", lambda avatar, views: colours(*[avatar.colour] * len(views))
    )
    told = [dict(text=heads[name][0], folder=name, error="") for name in "abc"]
    told.append(dict(text="blue", folder="d", error="no surface"))
    edits = [dict(text="red -> make it green", folder="e", error="")]
    results = {"prompts": {"heads": told}, "edits": {"heads": edits}}
    (tmp_path / "results.json").write_text(json.dumps(results))
    found = evaluate_clip.evaluate_clip(tmp_path, clip=(_Clip(), _Clip()))
    assert found["heads"] == 3 and found["edits"] == 1
    assert found["clip_r"] == pytest.approx(2 / 3, abs=1e-3)  # the third is red and was to be green
    assert found["each"]["a"]["clip_s"] > found["each"]["c"]["clip_s"]
    assert found["clip_ds"] > 0.9
    assert json.loads((tmp_path / "clip.json").read_text()) == found
    monkeypatch.setattr(evaluate_clip.metrics, "load_clip", lambda which: (_Clip(), _Clip()))
    assert evaluate_clip.main([str(tmp_path)]) == 0
    assert "3 heads: CLIP score" in capsys.readouterr().out


def test_janus_rate():
    assert metrics.janus_rate([]) == 0.0
    assert metrics.janus_rate([True, False, False, False]) == 0.25


@pytest.fixture(scope="module")
def tiny_prior():
    from headsculpt.priors.catalogue import random_prior

    torch.manual_seed(0)
    return random_prior("tiny", controls=("landmarks",))


def test_a_prior_is_judged_on_what_its_captions_name(tiny_prior, tmp_path):
    from headsculpt.evaluation.evaluate_prior import evaluate_prior

    judge = Judge(JudgeNetwork(SMALL))
    result = evaluate_prior(3, prior=tiny_prior, judge=judge, steps=1, out=tmp_path)
    again = evaluate_prior(3, prior=tiny_prior, judge=judge, steps=1)
    assert result["families"] == again["families"] and result["asked"] > 0
    assert set(result["families"]) <= set(VALUES)
    assert all(0 <= right <= asked for right, asked in result["families"].values())
    assert result["right"] == sum(right for right, _ in result["families"].values())
    assert "| all named attributes |" in (tmp_path / "prior.md").read_text()
    assert (tmp_path / "prior_samples.png").is_file()
    with pytest.raises(ValueError, match="count must be at least 1; got 0"):
        evaluate_prior(0, prior=tiny_prior, judge=judge)
    with pytest.raises(ValueError, match="'random tiny' has no text_to_head.safetensors, so captions describe no head"):
        evaluate_prior(1, prior=tiny_prior, judge=judge, described=True)
    heads = SimpleNamespace(image_size=64)
    heads.text_to_head = lambda prior, text: ({}, {"jawOpen": 1.0} if "surprised" in text else {})
    rng = np.random.default_rng(0)
    maps = described_landmarks(heads, ["a man", "a surprised man"], [0.0, 0.0], rng)
    assert maps.shape == (2, 3, heads.image_size, heads.image_size) and 0 < maps.max() <= 1
    assert not torch.equal(*maps)


def test_totals_need_both_the_mean_and_every_family():
    from headsculpt.evaluation.evaluate_prior import _totals

    assert _totals({"nose": [95, 100], "skin": [9, 10], "face": [0, 0]})["passed"]
    one_weak = _totals({"nose": [995, 1000], "skin": [7, 10]})
    assert one_weak["percent"] > 90 and not one_weak["passed"] and one_weak["worst"] == "skin"


def test_landmark_error_is_a_fraction_of_the_width_over_seen_points():
    from headsculpt.evaluation.evaluate_prior import landmark_error

    class _Centre:
        def landmarks(self, images):
            return torch.full((len(images), 2, 2), 0.5), torch.ones(len(images), 2)

    target = torch.tensor([[[64.0, 64.0 + 12.8, 1.0], [0.0, 0.0, 0.0]]])
    assert landmark_error(_Centre(), torch.zeros(1, 3, 128, 128), target, 128) == pytest.approx(0.1)


def test_a_prior_without_landmark_control_says_so(tiny_prior):
    from dataclasses import replace

    from headsculpt.evaluation.evaluate_prior import sample_images

    with pytest.raises(ValueError, match="has no landmark ControlNet"):
        next(
            sample_images(replace(tiny_prior, controlnets={}), ["a"], conditions=torch.zeros(1, 3, 128, 128))
        )


def test_landmark_control_is_measured_against_the_judge_itself(tiny_prior, tmp_path):
    from headsculpt.evaluation.evaluate_prior import evaluate_landmarks
    from headsculpt.heads.builtin import builtin_head

    contours = {name: len(points) for name, points in builtin_head().landmarks.items()}
    judge = Judge(JudgeNetwork(JudgeConfig((8, 8, 8), (1, 1, 1), contours=contours)))
    result = evaluate_landmarks(1, prior=tiny_prior, judge=judge, steps=1, out=tmp_path)
    assert 0 < result["error"] < 1 and 0 < result["judge_error"] < 1
    assert "under 3 %" in (tmp_path / "landmarks.md").read_text()
    assert (tmp_path / "landmark_samples.png").is_file()


def test_the_autoencoder_is_measured_on_fresh_renders(tmp_path) -> None:
    from headsculpt.evaluation.evaluate_autoencoder import autoencoder_table, evaluate_autoencoder
    from headsculpt.priors.catalogue import random_prior

    prior = random_prior("tiny")
    result = evaluate_autoencoder(4, prior=prior, out=tmp_path)
    assert result["count"] == 4 and 0 < result["psnr_db"] < 60
    assert 50 < result["read"] <= 100 and 0 <= result["read_back"] < result["read"]
    assert result == evaluate_autoencoder(4, prior=prior)
    assert (tmp_path / "autoencoder.png").exists()
    framings = [counts for family in result["families"].values() for counts in family.values()]
    assert all(max(right, back) <= visible for right, back, visible in framings)
    assert sum(visible for *_, visible in framings) > 0
    one = {"families": {"nose": {"bust": [3, 1, 4], "close_up": [0, 0, 0]}}}
    assert autoencoder_table(one).endswith("| nose | 75 % | 25 % |  |  |")
    with pytest.raises(ValueError, match="count must be at least 1; got 0"):
        evaluate_autoencoder(0, prior=prior)

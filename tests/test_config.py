"""The schema, presets and overrides, and what is said when one of them is wrong."""

import pytest

from headsculpt.config import PRESETS, SculptConfig, config_from_yaml, keys, load_config, read_config, to_yaml


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_loads_and_survives_its_own_file(preset, tmp_path):
    config = load_config(preset, prompt="an elf with ${hair} and: colons", seed=7)
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(config), encoding="utf-8")
    assert read_config(path) == config
    assert config.preset == preset


def test_overrides_take_the_type_of_their_setting():
    config = load_config(
        "mini",
        ["coarse.steps=12", "coarse.lr_grid=1e-3", "guidance.text_to_head=false", "prior.controls=[]", "seed=3"],
    )
    assert config.coarse.steps == 12
    assert config.coarse.lr_grid == 1e-3
    assert config.guidance.text_to_head is False
    assert config.prior.controls == []
    assert config.seed == 3


def test_presets_do_not_share_state():
    load_config("mini").prior.controls.append("changed")
    assert "changed" not in load_config("mini").prior.controls


def test_draft_is_less_work_than_mini_and_sd15_is_the_published_setting():
    draft, mini, sd15 = (load_config(p) for p in ("draft", "mini", "sd15"))
    assert draft.coarse.steps < mini.coarse.steps and draft.fine.steps < mini.fine.steps
    assert (sd15.coarse.guidance_scale, sd15.fine.t_max_start, sd15.fine.laplacian_weight) == (100.0, 0.5, 0.2)


@pytest.mark.parametrize(
    ("preset", "overrides", "message"),
    [
        ("minni", [], r"unknown preset 'minni' \(did you mean mini\?\); presets: draft, mini, sd15, sd15-fast, sd21"),
        ("nowhere.yaml", [], "there is no preset file 'nowhere.yaml'"),
        ("mini", ["coarse.stepps=3"], r"unknown setting 'coarse.stepps' \(did you mean coarse.steps"),
        ("mini", ["stepps=3"], r"unknown setting 'stepps' \(did you mean .*coarse.steps"),
        ("mini", ["fine.samples=3"], r"unknown setting 'fine.samples' \(did you mean .*coarse.samples"),
        ("mini", ["qqqqqq=3"], "unknown setting 'qqqqqq'$"),
        ("mini", ["coarse=3"], "'coarse' is a group of settings; set one of its own, such as coarse.steps"),
        ("mini", ["coarse.steps"], "expected key=value .* got 'coarse.steps'"),
        ("mini", ["coarse.steps=many"], "coarse.steps should be a whole number .* got 'many'"),
        ("mini", ["coarse.lr_grid=fast"], "coarse.lr_grid should be a number .* got 'fast'"),
        ("mini", ["guidance.text_to_head=perhaps"], "guidance.text_to_head should be true or false"),
        ("mini", ["coarse.batch=0"], "coarse.batch is 0; expected at least 1"),
        ("mini", ["coarse.steps=-1"], "coarse.steps is -1; expected 0 or more"),
        ("mini", ["fine.t_min=2"], "fine.t_min is 2.0; timesteps are fractions"),
        ("mini", ["device=tpu"], "device is 'tpu'; expected one of auto, cpu, cuda"),
        ("mini", ["coarse.lr_grid=nan"], "coarse.lr_grid is not a number"),
    ],
)
def test_mistakes_are_named_in_one_sentence(preset, overrides, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_config(preset, overrides)
    assert "\n" not in str(caught.value)


def test_keyword_of_the_wrong_name_or_type():
    with pytest.raises(ValueError, match="did you mean prompt"):
        load_config("mini", promt="an elf")
    with pytest.raises(ValueError, match="prompt should be text; got 3"):
        load_config("mini", prompt=3)


def test_damaged_files(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("prompt: [unclosed")
    with pytest.raises(ValueError, match="no readable YAML"):
        read_config(path)
    path.write_text("- a list")
    with pytest.raises(ValueError, match="should hold keys and values; it holds a list"):
        read_config(path)
    path.write_text("coarse: {stepps: 3}")
    with pytest.raises(ValueError, match="did you mean coarse.steps"):
        read_config(path)


def test_a_preset_of_ones_own(tmp_path):
    path = tmp_path / "quick.yaml"
    path.write_text("coarse: {steps: 5}\n")
    assert load_config(str(path)).coarse.steps == 5


def test_keys_are_dotted_and_complete():
    assert "coarse.steps" in keys() and "prompt" in keys()
    assert SculptConfig().coarse.steps > 0


def test_a_file_from_before_a_setting_means_what_was_done_then():
    now = load_config("mini", ["coarse.prior_slope=50"])
    assert now.coarse.replay > 0 and now.coarse.prior_inside_slope != 50
    assert config_from_yaml(to_yaml(now), "now") == now
    old = to_yaml(load_config("mini", ["edit.reference=true"]))
    assert config_from_yaml(old, "now").edit.reference  # mini had no instruction ControlNet when that was the default
    assert not config_from_yaml(old.replace("cover_landmarks: true", ""), "then").edit.reference
    names = ("replay:", "prior_inside_slope:", "landmarks_guided:", "busts_first:")
    names += ("keep_off:", "carry_on:", "upscale:", "cover_landmarks:")
    old = "\n".join(line for line in to_yaml(now).splitlines() if not line.strip().startswith(names))
    then = config_from_yaml(old, "then")
    assert (then.coarse.replay, then.fine.replay, then.coarse.prior_inside_slope) == (0, 0, 50)
    assert not then.guidance.keep_off and not then.refine.carry_on
    assert now.refine.upscale and not then.refine.upscale
    assert now.guidance.cover_landmarks and not then.guidance.cover_landmarks
    assert now.refine.landmarks_guided and not then.refine.landmarks_guided
    assert now.cameras.busts_first > 0 and then.cameras.busts_first == 0


def test_an_edit_of_before_goes_on_as_it_began_and_a_head_of_before_is_edited_as_today():
    now = load_config("mini", prompt="an elf")
    now.edit.instruction = "add a hat"
    old = "\n".join(line for line in to_yaml(now).splitlines() if line != f"  t_max_end: {now.edit.t_max_end}")
    assert len(old) < len(to_yaml(now)) and "  t_max_end: 0.65" in old  # a stage's is still there
    assert config_from_yaml(old, "an edit").edit.t_max_end == 0
    old = old.replace("instruction: add a hat", "instruction: ''")
    assert config_from_yaml(old, "a head").edit.t_max_end == now.edit.t_max_end > 0.8


@pytest.mark.parametrize(("steps", "views"), [(25, 15), (0, 0)])
def test_a_file_of_the_time_when_pictures_were_fitted_means_the_last_look_of_today(steps, views):
    fitted = f"  steps: {steps}\n  lr_grid: 0.01\n  lr_network: 0.001\n  keep_weight: 0.5\n  chroma_weight: 0.5\n"
    old = to_yaml(load_config("mini")).replace("refine:\n  views: 15\n", "refine:\n" + fitted)
    assert "views:" not in old and "keep_weight" in old
    then = config_from_yaml(old, "then")
    assert then == load_config("mini", [f"refine.views={views}"])
    with pytest.raises(ValueError, match=r"unknown setting 'refine.steps'"):
        load_config("mini", [f"refine.steps={steps}"])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("cameras.busts_first=1", "cameras.busts_first is 1.0; expected 0 or more, below 1"),
        ("refine.views=16", "refine.views is 16; expected 0, for no last look, to 15, for all of it"),
        ("seed=-1", "seed is -1; expected 0 or more"),
        ("coarse.replay=-1", "coarse.replay is -1; expected 0 or more"),
        ("fine.denoise_steps=0", "fine.denoise_steps is 0; expected at least 1"),
        ("coarse.hash_log2_table=40", "coarse.hash_log2_table is 40; expected 4 to 26"),
        ("coarse.hash_finest=4", "coarse.hash_finest is 4; expected at least 16"),
        ("refine.t_window=-1", "refine.t_window is -1.0; expected 0 or more"),
    ],
)
def test_values_that_no_run_can_use(setting, message):
    with pytest.raises(ValueError, match=message):
        load_config("mini", [setting])

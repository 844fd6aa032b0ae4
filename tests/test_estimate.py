"""Estimates need not be exact, but must know what is more work."""

import json

from headsculpt.config import load_config
from headsculpt.estimate import estimate


def minutes(preset, *overrides, device="cpu", cores=2):
    return estimate(load_config(preset, overrides), device, cores).minutes


def test_more_work_takes_longer_and_more_cores_help():
    assert minutes("draft") < minutes("mini") < minutes("sd15", device="cuda") < minutes("sd15")
    assert minutes("mini", "coarse.steps=9000") > minutes("mini", "coarse.steps=900")
    assert minutes("mini", cores=8) < minutes("mini")


def test_a_prior_folder_counts_by_the_size_of_its_latents(tmp_path):
    (tmp_path / "unet").mkdir()
    config = tmp_path / "unet" / "config.json"
    config.write_text(json.dumps({"sample_size": 16}))
    small = minutes("mini", f"prior.name={tmp_path}")
    config.write_text(json.dumps({"sample_size": 64}))
    assert small == minutes("mini") and minutes("mini", f"prior.name={tmp_path}") > small


def test_it_reads_as_a_sentence():
    assert str(estimate(load_config("sd15"), "cpu")).startswith("about ")
    assert "GB of memory" in str(estimate(load_config("draft"), "cpu"))

"""Estimates need not be exact, but must know what is more work."""

import json

import torch

from headsculpt.config import load_config
from headsculpt.estimate import estimate, measured_teraflops, step_teraflop


def minutes(preset, *overrides, device="cpu", teraflops=None):
    return estimate(load_config(preset, overrides), device, teraflops).minutes


def test_more_work_takes_longer_and_faster_machines_less():
    assert minutes("draft") < minutes("mini") < minutes("sd15", device="cuda") < minutes("sd15")
    assert minutes("mini", "coarse.steps=9000") > minutes("mini", "coarse.steps=900")
    assert minutes("mini", teraflops=1.0) < minutes("mini", teraflops=0.1) / 3


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


def test_what_was_not_measured_is_said():
    assert estimate(load_config("mini"), "cpu").basis == ""
    assert "not measured on CUDA" in str(estimate(load_config("mini"), "cuda"))
    assumed, measured = (str(estimate(load_config("sd15"), "cpu", teraflops=t)) for t in (None, 0.4))
    assert "an assumed 0.2 TFLOP/s; no whole run was measured" in assumed
    assert "0.4 TFLOP/s measured here" in measured


def test_work_of_large_priors_follows_the_score_and_the_terms():
    def work(*overrides):
        config = load_config("sd15", overrides)
        return step_teraflop(config, config.coarse)

    plain = work()
    assert abs(plain - 4.43) < 0.05  # benchmarks/arithmetic.py counts 4.44
    assert work("guidance.perp_neg=true") > work("guidance.score=nfsd") > plain
    assert work("guidance.score=ism") > work("guidance.score=vsd") > work("guidance.score=ssd") > plain
    assert work("prior.controls=[]") < plain < work("guidance.image_weight=1") > work("guidance.latent_weight=0")
    assert minutes("sd15-fast") < minutes("sd15") / 10


def test_memory_of_large_priors_follows_type_and_batch():
    def memory(*overrides):
        return estimate(load_config("sd15", overrides), "cpu").memory_gb

    assert memory("prior.dtype=bfloat16") < memory()
    assert memory("coarse.batch=1", "fine.batch=1") < memory()
    assert memory("prior.gradient_checkpointing=true") < memory()


def test_speed_is_measured_in_about_a_second():
    assert 0 < measured_teraflops(torch.device("cpu")) < 1e4

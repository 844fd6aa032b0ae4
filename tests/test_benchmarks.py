"""The benchmarks run, at sizes at which they measure nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
if not BENCHMARKS.is_dir():
    pytest.skip("headsculpt runs from an installation", allow_module_level=True)


def run(name: str, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": f"{BENCHMARKS.parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    found = subprocess.run(
        [sys.executable, str(BENCHMARKS / name), *arguments], capture_output=True, text=True, env=environment
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_the_silhouette_gradient_is_printed_for_each_kind():
    said = run("silhouette_gradient.py", "--sizes", "32", "--triangles", "200", "--repeats", "1")
    assert all(word in said for word in ("scale", "shift", "turn", "stretch", "added peak MB"))


@pytest.mark.slow
def test_a_step_is_broken_down_into_the_priors_time_and_the_loops():
    small = ["hash_levels=3", "hash_finest=32", "hash_log2_table=8", "samples=16"]
    said = run(
        "step_breakdown.py", "--device", "cpu", "--prior", "tiny", "--batch", "1", "--size", "16", "--steps", "1",
        *(f"coarse.{setting}" for setting in small), "fine.tet_resolution=16",
    )  # fmt: skip
    assert said.count("the loop's own over the prior's") == 2 and said.count("peak memory of the process") == 2


@pytest.mark.slow
def test_precisions_are_compared():
    said = run("precision.py", "--batch", "1", "--repeats", "1")
    assert "float32" in said and "bfloat16" in said and "a run takes" in said


@pytest.mark.slow
def test_samplers_are_compared():
    said = run("samplers.py", "--pictures", "1", "--reference-steps", "2")
    assert said.count("ddim") == 4 and said.count("dpm") == 4


def test_the_upscaler_is_compared_with_interpolation():
    said = run("upscaling.py", "--figures", "1").splitlines()
    assert [line.split()[0] for line in said] == ["interpolation", "upscaler", "portraits"]
    assert said[0].endswith("dB") and said[1].endswith("dB")


def test_peak_memory_sees_what_a_call_holds(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from measuring import measured

    found = measured(lambda: torch.ones(64, 1024, 256).sum(), torch.device("cpu"), repeats=1)
    assert found.ms > 0 and found.cpu_ms > 0
    if sys.platform == "linux":
        assert found.peak_mb > 30  # of 64

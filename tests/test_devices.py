"""Networks run in bfloat16 only where the device multiplies in it."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import torch

from headsculpt import devices
from headsculpt.devices import describe_device, fast_bfloat16, mixed


def pretend(monkeypatch: pytest.MonkeyPatch, machine: str, *, avx512: bool = False, amx: bool = False) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)


@pytest.mark.parametrize(
    ("has", "fast"), [({}, False), ({"avx512": True}, True), ({"amx": True}, True)]
)
@pytest.mark.parametrize("machine", ["x86_64", "AMD64"])
def test_an_x86_is_asked_for_its_instructions(monkeypatch, machine, has, fast):
    pretend(monkeypatch, machine, **has)
    assert fast_bfloat16("cpu") is fast
    with mixed("cpu"):
        out = torch.nn.Linear(4, 4)(torch.ones(1, 4))
    assert out.dtype == (torch.bfloat16 if fast else torch.float32)
    assert f"{'with' if fast else 'without'} bfloat16)" in describe_device(torch.device("cpu"))


def test_a_torch_that_cannot_be_asked_gets_float32(monkeypatch):
    pretend(monkeypatch, "x86_64")
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, name)
    assert fast_bfloat16("cpu") is False


def test_where_it_is_not_wanted_it_stays_off(monkeypatch):
    pretend(monkeypatch, "x86_64", avx512=True)
    with mixed("cpu", enabled=False):
        assert torch.nn.Linear(4, 4)(torch.ones(1, 4)).dtype == torch.float32


def test_another_processor_is_asked_through_onednn(monkeypatch):
    pretend(monkeypatch, "aarch64", avx512=True)  # what an x86 would say does not count
    for found in (True, False):
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda found=found: found)
        assert fast_bfloat16("cpu") is found
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert fast_bfloat16("cpu") is False


@pytest.mark.parametrize("fast", [True, False])
def test_the_back_bone_follows(monkeypatch, fast):
    from headsculpt.guidance.backbone import LatentDiffusion
    from headsculpt.priors.catalogue import random_prior

    pretend(monkeypatch, "x86_64", avx512=fast)
    seen = []
    backbone = LatentDiffusion(random_prior("tiny"), autocast=True)
    backbone.prior.unet.conv_in.register_forward_hook(lambda module, given, out: seen.append(out.dtype))
    latents = torch.zeros(1, backbone.prior.unet.config.in_channels, 16, 16)
    backbone.predict_noise(latents, torch.tensor([500]), backbone.embed(["an elf"]))
    assert seen == [torch.bfloat16 if fast else torch.float32]


@pytest.mark.parametrize("fast", [True, False])
def test_bfloat16_that_is_asked_for_where_it_is_slow_is_warned_of(monkeypatch, caplog, fast):
    from headsculpt.config import load_config
    from headsculpt.priors import catalogue
    from headsculpt.sculpting import load_guiding_prior

    pretend(monkeypatch, "x86_64", avx512=fast)
    monkeypatch.setattr(catalogue, "load_prior", lambda *_, **__: catalogue.random_prior("tiny"))
    load_guiding_prior(load_config("mini", ["prior.dtype=bfloat16"]), torch.device("cpu"))
    assert ("no bfloat16 instructions: float32 is some twenty times faster" in caplog.text) is not fast


SECOND_STEP = """
import resource, torch
from headsculpt.devices import keep_freed_memory
took = keep_freed_memory("cpu")
for _ in range(12):  # aligned arrays of one size need a few rounds to find places that fit
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    arrays = [torch.ones(20 << 20, dtype=torch.uint8) for _ in range(4)]
    del arrays
print(took, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc is told")
def test_freed_memory_is_used_again_without_asking_the_system():
    command = [sys.executable, "-c", SECOND_STEP]
    took, faults = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    if took == "False":
        pytest.skip("another C library")
    assert int(faults) < 200  # of 20480 pages


def test_other_devices_and_systems_are_left_alone(monkeypatch):
    assert not devices.keep_freed_memory(torch.device("cuda"))
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not devices.keep_freed_memory("cpu")


@pytest.mark.parametrize(
    ("triton", "cc", "said"),
    [(True, True, ""), (False, True, "needs Triton"), (True, False, "needs a C compiler"),
     (False, False, "needs Triton and a C compiler")],
)  # fmt: skip
def test_training_is_compiled_on_cuda_where_it_can_be(monkeypatch, caplog, triton, cc, said):
    model = torch.nn.Linear(1, 1)
    monkeypatch.setattr(torch, "compile", lambda model, dynamic: "compiled")
    monkeypatch.setattr(devices, "importable", lambda name: triton)
    monkeypatch.setattr(devices.shutil, "which", lambda name: "/usr/bin/cc" if cc else None)
    monkeypatch.delenv("CC", raising=False)
    assert devices.compiled(model, "cpu") is model
    with caplog.at_level("INFO", logger="headsculpt.devices"):
        assert devices.compiled(model, "cuda") == (model if said else "compiled")
    assert said in caplog.text and bool(said) == bool(caplog.text)

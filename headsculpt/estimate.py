"""How long a run will take and how much memory it wants, before its first step.

The mini family's figures were measured on one machine, and follow the speed of this one. Stable Diffusion's time is
reckoned: the operations of its networks, counted (benchmarks/arithmetic.py), over that speed, which
:func:`measured_teraflops` measures.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from headsculpt.config import CoarseConfig, FineConfig, SculptConfig

if TYPE_CHECKING:
    import torch

# Mini family, one image: seconds of a prediction of the diffusion model under guidance, and of a step on a rendering.
# CPU: measured where measured_teraflops() gives 0.13 (two cores with AVX2; benchmarks/loop_share.py); on two cores that
# give about 0.55 (AVX-512 BF16), predictions took a quarter of that and steps two fifths. CUDA: not measured.
_SECONDS = {
    "cpu": {"coarse": (0.067, 0.024), "fine": (0.075, 0.066)},
    "cuda": {"coarse": (0.003, 0.003), "fine": (0.003, 0.004)},
}
_MEASURED_AT = {"cpu": 0.13, "cuda": 30.0}
_PAINT_SECONDS = {"cpu": 0.3, "cuda": 0.03}  # a view of the last look beside its predictions
_FIXED_SECONDS = {"mini": 45.0, "sd": 90.0}  # imports, weights, meshing, texture, pictures
_MINI_GB = 1.3

# Stable Diffusion 1.5 and 2.1 at 512x512: TFLOP of one image, counted; parameters in thousands of millions.
_UNET, _CONTROLNET, _ENCODE, _ENCODE_WITH_GRADIENT, _DECODE = 0.80, 0.28, 1.12, 2.27, 2.52
_PARAMETERS, _CONTROL_PARAMETERS = 1.07, 0.36
_ASSUMED_TERAFLOPS = {"cpu": 0.2, "cuda": 30.0}  # where the machine was not measured
_KEPT_GB = 1.66  # by the encoder for its backward pass, one image at 16 bits; counted likewise
# All else: 4.6 GB at the peak of tests/test_full_size.py (CPU, 256 pixels, one image) less 3.6 GB of weights.
_PROCESS_GB = 1.0
# An edit asks for four predictions and two for its mask where a prompt asks for two; counted, not measured.
_EDIT = 2.0


@dataclass(frozen=True)
class Estimate:
    """Rough by nature: within a factor of two or so of what a machine of the same kind needs.

    Attributes:
        minutes: of the whole run.
        memory_gb: at the peak.
        basis: what was not measured, in a few words; empty where all was.
    """

    minutes: float
    memory_gb: float
    basis: str = ""

    def __str__(self) -> str:
        if self.minutes < 90:
            time = f"about {max(1, round(self.minutes))} min" if self.minutes >= 1 else "under a minute"
        else:
            time = f"about {self.minutes / 60:.0f} h"
        return f"{time}, {self.memory_gb:.1f} GB of memory" + (f" ({self.basis})" if self.basis else "")


def estimate(config: SculptConfig, device_type: str, teraflops: float | None = None) -> Estimate:
    """Expected cost of a run.

    Args:
        config: what is to be sculpted.
        device_type: ``cpu`` or ``cuda``.
        teraflops: of this device, from :func:`measured_teraflops`; None assumes.
    """
    kind = "cuda" if device_type == "cuda" else "cpu"
    if _is_large(config.prior.name):
        return _estimate_large(config, kind, teraflops)
    # Predictions are matrix products. What else there is gains less from wider units (two machines, see above).
    speed = (teraflops or _MEASURED_AT[kind]) / _MEASURED_AT[kind]
    predictions = rest = 0.0
    fine_pixels = (config.fine.render_size / 256) ** 2
    views = config.refine.views
    predictions += views * config.refine.denoise_steps * 1.5 * _SECONDS[kind]["coarse"][0]  # three rows, not two
    rest += views * _PAINT_SECONDS[kind] * (0.6 + 0.4 * fine_pixels)
    stages = (("coarse", config.coarse, (config.coarse.render_size / 64) ** 2), ("fine", config.fine, fine_pixels))
    for name, stage, pixels in stages:
        denoise, render = _SECONDS[kind][name]
        images = stage.steps * stage.batch
        predictions += images * stage.denoise_steps * denoise
        rest += images * (1 + stage.replay) * render * (0.6 + 0.4 * pixels)
    if config.edit.instruction:
        predictions *= _EDIT
    basis = "" if kind == "cpu" else "not measured on CUDA yet"
    fixed = _FIXED_SECONDS["mini"] / (speed**0.5 if kind == "cpu" else 1.0)  # always the processor's work
    return Estimate((predictions / speed + rest / speed**0.5 + fixed) / 60, _MINI_GB, basis)


def _estimate_large(config: SculptConfig, kind: str, teraflops: float | None) -> Estimate:
    rate = teraflops or _ASSUMED_TERAFLOPS[kind]
    work = sum(s.steps * s.batch * step_teraflop(config, s) for s in (config.coarse, config.fine))
    half = config.prior.dtype in ("float16", "bfloat16") or (config.prior.dtype == "auto" and kind == "cuda")
    size = 2 if half else 4
    weights = size * (_PARAMETERS + _CONTROL_PARAMETERS * len(config.prior.controls))
    batch = max(config.coarse.batch, config.fine.batch)
    speed = f"{rate:.2g} TFLOP/s measured here" if teraflops else f"an assumed {rate:.2g} TFLOP/s"
    basis = f"reckoned from the networks' arithmetic at {speed}; no whole run was measured"
    kept = 0.0 if config.prior.gradient_checkpointing or config.guidance.latent_weight == 0 else _KEPT_GB
    memory = weights + _PROCESS_GB + batch * kept * size / 2
    return Estimate((work / rate + _FIXED_SECONDS["sd"]) / 60, memory, basis)


def step_teraflop(config: SculptConfig, stage: CoarseConfig | FineConfig) -> float:
    """Operations (10^12) of Stable Diffusion's networks for one image of one step."""
    guidance = config.guidance
    guided = 4 if guidance.perp_neg else 2
    passes = {
        "sds": guided * stage.denoise_steps,
        "vsd": guided + 1 + 3,  # the LoRA's prediction, and its training forward and backward
        "csd": 3 if guidance.negative_weight else 2,
        "nfsd": 3,
        "ssd": guided + 1,
        "ism": guided + 1 + math.ceil(max(0.0, stage.t_max_start - guidance.ism_interval) / guidance.ism_stride),
    }[guidance.score]
    total = passes * (_UNET + _CONTROLNET * len(config.prior.controls))
    total += _ENCODE_WITH_GRADIENT if guidance.latent_weight > 0 else _ENCODE
    return total + (2 * _DECODE if guidance.image_weight > 0 else 0.0)


def measured_teraflops(device: torch.device) -> float:
    """What this machine reaches on the UNet's commonest layer, in 10^12 operations a second; takes about a second.

    A 3x3 convolution of 320 channels at 64x64 in the type that the UNet runs in.
    """
    import torch

    from headsculpt.devices import fast_bfloat16

    if device.type == "cuda":
        dtype = torch.float16
    else:
        dtype = torch.bfloat16 if fast_bfloat16(device) else torch.float32
    x = torch.ones(2, 320, 64, 64, dtype=dtype, device=device)
    weight = torch.ones(320, 320, 3, 3, dtype=dtype, device=device)
    work = 2 * 9 * 320 * 320 * 64 * 64 * 2 / 1e12

    def seconds(times: int) -> float:
        started = time.perf_counter()
        for _ in range(times):
            torch.nn.functional.conv2d(x, weight, padding=1)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    with torch.no_grad():
        seconds(1)
        once = seconds(1)
        times = max(1, min(200, int(0.3 / max(once, 1e-6))))
        return times * work / seconds(times)


def _is_large(prior: str) -> bool:
    if prior == "mini":
        return False
    try:
        unet = json.loads((Path(prior) / "unet" / "config.json").read_text(encoding="utf-8"))
        return not unet["sample_size"] <= 16
    except (OSError, ValueError, KeyError, TypeError):
        return True

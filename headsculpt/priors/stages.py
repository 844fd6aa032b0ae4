"""Which stages the mini family has, in which order, for how long; and its export into one folder."""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from headsculpt.devices import usable_cores
from headsculpt.priors import mini, parallel
from headsculpt.priors.dataset import render_dataset
from headsculpt.priors.pairs import render_pairs
from headsculpt.priors.training import STATE_FILE, Budget, Stage, export_unfinished, start_from, train
from headsculpt.priors.upscaler import FACTOR
from headsculpt.priors.upscaler import FILE as UPSCALER

log = logging.getLogger(__name__)

# Minutes on two CPU cores; a GPU needs a small part of them for the same number of steps.
MINUTES = {
    "text": 6.0, "vae": 40.0, "decoder": 30.0, "unet": 150.0, "upscaler": 25.0, "clip": 12.0, "instruction": 40.0,
}  # fmt: skip
# Images a step.
BATCH = {"text": 64, "vae": 4, "decoder": 8, "unet": 48, "upscaler": 16, "clip": 256, "instruction": 48}
BATCH_ON_GPU = {
    "text": 64, "vae": 128, "decoder": 128, "unet": 1024, "upscaler": 128, "clip": 512, "instruction": 512,
}  # UNet: 16 GB  # fmt: skip
STAGES = ("data", "text", "head", "vae", "decoder", "unet", "large", "upscaler", "clip", "pairs", "instruction")
IMAGES = 40_000
PAIRS = 0.4  # pairs of portraits for each portrait of the data set
LARGE_SHARE = 0.15  # portraits of twice the size, by the same
EXPORTED = {
    "tokenizer": ("transformers", "CLIPTokenizer"),
    "text_encoder": ("transformers", "CLIPTextModel"),
    "vae": ("diffusers", "AutoencoderKL"),
    "unet": ("diffusers", "UNet2DConditionModel"),
    "scheduler": ("diffusers", "DDIMScheduler"),
}
# exported where they are trained
BESIDE = ("controlnet_landmarks", "controlnet_instruction", "clip", "tokens")
CARD = """# headsculpt mini

A text-to-portrait diffusion prior in the diffusers layout: 128x128 images, 16x16 latents with 16 channels,
v-prediction; `upscaler.safetensors` makes them 256x256. Trained from nothing on the procedural portraits of
headsculpt (`headsculpt train-prior`); no photograph and no downloaded asset went into it. Licence: Apache-2.0.
"""


def train_prior(
    stage: str,
    work: Path,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    device: torch.device | str = "cpu",
    images: int = IMAGES,
    seed: int = 0,
    out: Path | None = None,
    workers: int | None = None,
    threads: int | None = None,
    processes: int = 1,
    batch: int | None = None,
    start: Path | None = None,
) -> bool:
    """Train one stage of the mini family, or all of them; a stage goes on where it was interrupted.

    Args:
        stage: one of :data:`STAGES` ("unet" trains the landmark ControlNet with it, "instruction" the ControlNet
            for edits, on "pairs"), "all", or "export", which writes the family as it stands after the last saved
            states.
        work: folder of data set, states, logs, sample sheets and modules.
        minutes: budget of the stage over all its runs; :data:`MINUTES` where None. For "all" the budgets
            keep their proportions and sum to this.
        steps: budget in steps in place of minutes; runs of one process are then reproducible bit for bit.
        device: of the training.
        images: size of the data set; of pairs there are :data:`PAIRS` times as many.
        seed: of data set, weights and batches.
        out: folder of the exported family; ``work/mini`` where None. Written by "all" and "export".
        workers: processes that render the data set; as many as cores where None.
        threads: of torch on the CPU; all cores where None.
        processes: that share each batch, with as many threads each as the cores allow; best on a CPU.
        batch: images a step, over all processes; :data:`BATCH` where None, on CUDA :data:`BATCH_ON_GPU`.
        start: prior folder whose weights a stage that has not begun yet starts from, e.g. the shipped family; "text"
            starts afresh all the same.

    Returns:
        False if interrupted by SIGINT or SIGTERM; what was done is saved.

    Raises:
        ValueError: an unknown stage, or a budget that is not positive.
        FileNotFoundError: a stage that must come before is missing.
    """
    if stage not in (*STAGES, "all", "export"):
        known = ", ".join((*STAGES, "all", "export"))
        raise ValueError(f"unknown stage {stage!r}; expected one of {known}")
    for name, value in (("minutes", minutes), ("steps", steps), ("batch", batch)):
        if value is not None and value <= 0:
            raise ValueError(f"{name} must be positive; got {value}")
    work, workers = Path(work), workers or usable_cores()
    usual = BATCH_ON_GPU if torch.device(device).type == "cuda" else BATCH
    if threads is not None:
        torch.set_num_threads(threads)
    scale = 1.0 if minutes is None else minutes / sum(MINUTES.values())
    for name in STAGES if stage == "all" else (stage,):
        if name == "data":
            render_dataset(
                work / "data",
                images,
                seed,
                workers,
                report=lambda n, of: log.info("portraits %d of %d", n, of),
            )
        elif name == "large":
            render_dataset(
                work / name,
                max(1, round(LARGE_SHARE * images)),
                seed + 1,
                workers,
                image_size=FACTOR * mini.IMAGE_SIZE,
                report=lambda n, of: log.info("large portraits %d of %d", n, of),
            )
        elif name == "head":
            fit_head(work, seed)
        elif name == "pairs":
            render_pairs(
                work / "pairs",
                max(1, round(PAIRS * images)),
                seed,
                workers,
                report=lambda n, of: log.info("pairs %d of %d", n, of),
            )
        elif name in MINUTES:
            share = MINUTES[name] * scale if stage == "all" else (minutes or MINUTES[name])
            budget = Budget(steps=steps) if steps is not None else Budget(minutes=share)
            together: dict[str, Any] = dict(
                name=name, work=work, device=device, seed=seed, budget=budget, batch=batch or usual[name],
                start=start,
            )  # fmt: skip
            if not (parallel.run(processes, _train, together) if processes > 1 else _train(**together)):
                return False
    if stage == "export":
        for name in MINUTES:
            other = {"text": "text_encoder", "upscaler": UPSCALER, "instruction": "controlnet_instruction"}
            module = other.get(name, name)
            # The decoder's module is the VAE's: its own state, finished or not, is the later one of the two.
            if (work / name / STATE_FILE).exists() and not (work / "modules" / module).exists():
                export_unfinished(_stage(name)(work, device, seed), work)
    if stage in ("all", "export"):
        export_family(work, out or work / "mini")
    return True


def fit_head(work: Path, seed: int) -> None:
    """Fit the map from a sentence to the built-in head's weights; a minute or two, once per work folder.

    Raises:
        FileNotFoundError: the text encoder is not trained yet.
    """
    from transformers import CLIPTextModel, CLIPTokenizer

    from headsculpt.priors.text_to_head import FILE, fit_text_to_head

    modules = work / "modules"
    if (modules / FILE).exists():
        return
    if not (modules / "text_encoder").is_dir():
        raise FileNotFoundError(
            f"{modules / 'text_encoder'} is missing; train it first: headsculpt train-prior text --work {work}"
        )
    tokenizer = CLIPTokenizer.from_pretrained(modules / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(modules / "text_encoder", torch_dtype=torch.float32).eval()
    fit_text_to_head(tokenizer, encoder, seed=seed).save(modules)


def _train(
    *,
    name: str,
    work: Path,
    device: torch.device | str,
    seed: int,
    budget: Budget,
    batch: int,
    start: Path | None = None,
) -> bool:
    def build() -> Stage:
        return _stage(name)(work, device, seed, batch=max(1, batch // parallel.world_size()))

    if parallel.rank() != 0:  # process 0 first: it writes the caches that the others read
        parallel.agreed(0.0)
    stage = build()
    if parallel.rank() == 0:
        parallel.agreed(0.0)
    if start is not None and stage.modules and not (work / name / STATE_FILE).exists():
        start_from(stage, start)
    return train(stage, work, budget, seed=seed)


def _stage(name: str) -> Callable[..., Stage]:
    if name == "text":
        from headsculpt.priors.train_text import text_stage

        return text_stage
    if name == "vae":
        from headsculpt.priors.train_vae import vae_stage

        return vae_stage
    if name == "decoder":
        from headsculpt.priors.train_decoder import decoder_stage

        return decoder_stage
    if name == "upscaler":
        from headsculpt.priors.train_upscaler import upscaler_stage

        return upscaler_stage
    if name == "clip":
        from headsculpt.priors.train_clip import clip_stage

        return clip_stage
    if name == "instruction":
        from headsculpt.priors.train_instruction import instruction_stage

        return instruction_stage
    from headsculpt.priors.train_unet import unet_stage

    return unet_stage


def export_family(work: Path, out: Path) -> None:
    """Copy the trained modules into one prior folder, whole or not at all.

    Raises:
        FileNotFoundError: a module is not trained yet.
    """
    import diffusers

    modules = work / "modules"
    for name in EXPORTED:
        if not (modules / name).is_dir():
            raise FileNotFoundError(
                f"{modules / name} is missing, so the family is incomplete; run headsculpt train-prior all "
                f"--work {work} to train what is left"
            )
    temporary = out.with_name(out.name + f".tmp{os.getpid()}")
    temporary.mkdir(parents=True)
    try:
        for name in (*EXPORTED, *BESIDE):
            if (modules / name).is_dir():
                shutil.copytree(modules / name, temporary / name)
        for extra in modules.glob("*.safetensors"):  # small maps that lie beside the models
            shutil.copy(extra, temporary)
        index: dict[str, object] = {"_class_name": "StableDiffusionPipeline"}
        index |= {"_diffusers_version": diffusers.__version__, **{k: list(v) for k, v in EXPORTED.items()}}
        index |= {"safety_checker": [None, None], "feature_extractor": [None, None]}
        index |= {"image_encoder": [None, None], "requires_safety_checker": False}
        (temporary / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        (temporary / "README.md").write_text(CARD, encoding="utf-8")
        if out.exists():
            shutil.rmtree(out)
        os.replace(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m headsculpt.priors.training``."""
    parser = argparse.ArgumentParser(description="Train the mini prior family.")
    parser.add_argument("stage", choices=(*STAGES, "all", "export"))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--start", type=Path)
    given = vars(parser.parse_args(arguments))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    stage, work = given.pop("stage"), given.pop("work")
    try:
        return 0 if train_prior(stage, work, **given) else 130
    except (ValueError, FileNotFoundError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1

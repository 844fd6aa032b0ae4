"""The loop: cameras -> rendering -> guidance -> step, first on a NeRF, then on the mesh made from it; a last look.

Read it top to bottom and copy out what you want to change: :func:`sculpt` builds the two stages,
:func:`run_stage` is the loop that both share.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from headsculpt.cameras import framed
from headsculpt.config import SculptConfig
from headsculpt.guidance.score_distillation import image_loss
from headsculpt.head_surface import head_surface
from headsculpt.meshes import Mesh
from headsculpt.refining import refine_colours
from headsculpt.replay import Replay
from headsculpt.run_folder import RunFolder
from headsculpt.sculpting_stages import (
    CoarseStage,
    FineStage,
    Stage,
    drop_bad_gradients,
    match_appearance,
    new_dmtet,
    new_nerf,
    paint_start,
    random_background,
    settled,
)
from headsculpt.synthesis.completion import in_near_words

if TYPE_CHECKING:
    from headsculpt.guidance.score_distillation import Guidance
    from headsculpt.priors.prior import Prior
    from headsculpt.priors.upscaler import Upscaler
    from headsculpt.representations.dmtet import DMTet

log = logging.getLogger(__name__)


@dataclass
class Progress:
    """One step, as the progress callback sees it. Times are seconds."""

    stage: str
    step: int  # done in this stage
    steps: int  # of this stage
    loss: float | None  # None where pictures are painted
    seconds: float  # since sculpt() was called
    eta_s: float  # to the end of the last stage
    image: np.ndarray | None = None  # (H, W, 3) uint8, when a preview was made


@dataclass
class FinishedHead:
    """What the loop leaves: geometry, and the field that colours it.

    Attributes:
        mesh: watertight, with vertex colours, in scene units; that of the source, with its UVs, after an edit that
            leaves the shape alone.
        colour_field: ``(N, 3)`` scene points -> ``(N, 3)`` albedo in [0, 1].
        dmtet: the last representation, for renders of the field itself.
        coarse: state of the NeRF that the mesh was made from; an edit goes on from it.
        identity, expression: weights of the built-in head that it started from, which it moves as
            (:mod:`headsculpt.export.rig`).
    """

    mesh: Mesh
    colour_field: nn.Module
    dmtet: DMTet
    coarse: dict[str, Tensor] | None = None
    identity: dict[str, float] = field(default_factory=dict)
    expression: dict[str, float] = field(default_factory=dict)


def sculpt(
    config: SculptConfig,
    run: RunFolder,
    *,
    guidance: Guidance | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> FinishedHead:
    """Sculpts the head that ``config`` describes, or goes on where ``run`` was interrupted.

    Args:
        config: all settings; its seed is the only source of randomness.
        run: folder for checkpoints, previews and progress.
        guidance: replaces score distillation in both stages; any function
            ``(rendering, cameras, progress, generator) -> loss`` will do. There is no refinement then.
        progress: called after each step; KeyboardInterrupt raised from it is kept as a checkpoint.

    Returns:
        the finished head.
    """
    from headsculpt.devices import keep_freed_memory, resolve_device

    device = resolve_device(config.device)
    keep_freed_memory(device)
    generator = torch.Generator().manual_seed(config.seed)
    torch.manual_seed(config.seed)  # initial weights
    clock = Clock(config, progress)

    checkpoint = run.load_checkpoint()
    for warning in run.warnings:
        log.warning(warning)

    source, shown, kept = None, config, None
    if config.edit.instruction:
        from headsculpt.editing import edit_guides, field_of, kept_source, landmark_prompt, load_source

        source = load_source(run)
        shown = replace(config, prompt=landmark_prompt(config, source))
    prior, guides = None, {}
    if guidance is None:
        prior = load_guiding_prior(config, device)
    vertices, faces, contours = starting_head(shown, prior)
    if guidance is None and prior is not None:
        if source is None:
            guides = diffusion_guides(config, prior, vertices, faces, contours)
        else:
            guides = edit_guides(config, prior, source, vertices, faces, contours)
            kept = kept_source(config, source, vertices, contours, device)
    guide = {name: guidance or guides.get(name) for name in ("coarse", "fine")}

    coarse = CoarseStage(new_nerf(config, vertices, faces).to(device), config)
    if source is not None:
        coarse.nerf.load_state_dict(field_of(source).state)
    elif checkpoint is None and config.coarse.paint_steps and config.guidance.head == "builtin":
        paint_start(config, coarse.nerf, vertices)
    resumed = checkpoint if checkpoint and checkpoint["stage"] == "coarse" else None
    if checkpoint is None or checkpoint["stage"] == "coarse":
        run_stage(coarse, guide["coarse"], config, run, generator, clock, resumed)
        coarse_state = coarse.nerf.state_dict()
    else:
        coarse_state = checkpoint["state"]["coarse"]
        coarse.nerf.load_state_dict(coarse_state)

    # Copied before the mesh trains the colours that it shares: a resumed run makes its grid from these.
    keep = {k: v.clone() for k, v in coarse_state.items()}
    head = head_surface(config, vertices, faces, contours, device)
    fine = FineStage(new_dmtet(config, coarse.nerf, head, kept), config)
    resumed = checkpoint if checkpoint and checkpoint["stage"] == "fine" else None
    if resumed is None and config.fine.match_steps:
        match_appearance(config, coarse.nerf, fine)
    run_stage(fine, guide["fine"], config, run, generator, clock, resumed, extra={"coarse": keep})
    if guides and config.refine.views:
        fine = settled(config, fine, head, kept)
        upscaler = prior.upscaler if prior is not None and config.refine.upscale else None
        refine(fine, guides["refine"], config, run, clock, upscaler)

    if kept is not None:
        fine.dmtet.colour_field = kept.colours(fine.dmtet.colour_field)
    if kept is not None and kept.shape_stays:
        mesh = kept.recoloured(fine.dmtet.colour_field)
    else:
        mesh = fine.dmtet.mesh()
    identity, expression = described_head(shown, prior)
    return FinishedHead(
        mesh.checked("the sculpted mesh"), fine.dmtet.colour_field, fine.dmtet, keep, identity, expression
    )


def run_stage(
    stage: Stage,
    guidance: Guidance | None,
    config: SculptConfig,
    run: RunFolder,
    generator: torch.Generator,
    clock: Clock,
    checkpoint: dict[str, Any] | None = None,
    extra: dict[str, Any] | None = None,
) -> None:
    """Optimises one stage from its first step, or from ``checkpoint``, to its last.

    Args:
        stage: what is optimised.
        guidance: gives the loss of a rendering; None only for a stage of no steps.
        config, run: settings and folder.
        generator: every random number of the loop comes from here.
        clock: times and reports.
        checkpoint: of this stage, from :meth:`RunFolder.load_checkpoint`.
        extra: goes into each checkpoint beside the stage's own state.
    """
    optimiser = stage.optimiser()
    base_rates = [group["lr"] for group in optimiser.param_groups]
    learned: Any = guidance if hasattr(guidance, "load_state_dict") else None  # VSD's model of the renderings
    first, pictures = 0, Replay()
    if checkpoint is not None:
        state = checkpoint["state"]
        stage.module.load_state_dict(state["module"])
        optimiser.load_state_dict(state["optimiser"])
        generator.set_state(state["generator"])
        if learned is not None and "guidance" in state:
            learned.load_state_dict(state["guidance"])
        pictures.load_state_dict(state.get("replay", []), next(stage.module.parameters()).device)
        first = checkpoint["step"]

    def save(step: int) -> None:
        state = {
            "module": stage.module.state_dict(),
            "optimiser": optimiser.state_dict(),
            "generator": generator.get_state(),
            "replay": pictures.state_dict(),
            **(extra or {}),
        }
        if learned is not None:
            state["guidance"] = learned.state_dict()
        run.save_checkpoint(stage.name, step, state)

    if first == 0 and extra:  # so that the stage before need not run again
        save(0)
    device = next(stage.module.parameters()).device
    for step in range(first, stage.steps):
        started = time.perf_counter()
        progress = step / stage.steps
        for group, rate in zip(optimiser.param_groups, base_rates, strict=True):
            group["lr"] = rate * learning_rate_factor(progress)
        stage.before_step(step, generator)
        cameras = stage.cameras(progress, generator).to(device)
        background = random_background(len(cameras), generator).to(device)
        rendering = stage.render(cameras, background, generator)
        rendering.background = background
        if guidance is None:
            raise ValueError(f"stage {stage.name!r} has {stage.steps} steps but no guidance")
        result = guidance(rendering, cameras, progress, generator)
        loss, record = result if isinstance(result, tuple) else (result, None)
        descend(stage, optimiser, loss, progress)
        if stage.replay and record is not None and record.target is not None:
            pictures.add(cameras, background, record.target)
            for _ in range(stage.replay):
                seen, behind, target = pictures.any(generator)
                rgb = stage.render(seen, behind, generator).rgb
                descend(stage, optimiser, image_loss(rgb, target), progress)

        value = float(loss.detach())  # waits for the device
        seconds = time.perf_counter() - started
        line = {
            "stage": stage.name,
            "step": step + 1,
            "loss": value,
            "seconds": round(seconds, 4),
        }
        if record is not None:
            line |= {"timestep": round(record.timestep, 4), "guidance_seconds": round(record.seconds, 4)}
        run.log(line)
        image = None
        if clock.preview_due(config.preview_every_s) or step + 1 == stage.steps:
            image = preview(stage)
            run.save_preview(f"{stage.name}-{step + 1:05d}", image)
        try:
            clock.report(stage.name, step + 1, stage.steps, value, seconds, image)
        except KeyboardInterrupt:
            save(step + 1)
            raise
        if clock.checkpoint_due(config.checkpoint_every_s) or step + 1 == stage.steps:
            save(step + 1)


def descend(stage: Stage, optimiser: torch.optim.Optimizer, loss: Tensor, progress: float) -> None:
    """One step of a stage down a loss and its regularisers."""
    total = loss + stage.regularisation(progress)
    optimiser.zero_grad(set_to_none=True)
    total.backward()
    drop_bad_gradients(stage.module)
    optimiser.step()


def refine(
    fine: FineStage,
    guidance: Guidance,
    config: SculptConfig,
    run: RunFolder,
    clock: Clock,
    upscaler: Upscaler | None = None,
) -> None:
    """The last look; a run that is stopped here goes on from the end of the fine stage."""
    started, views = time.perf_counter(), config.refine.views

    def report(view: int) -> None:
        nonlocal started
        seconds = time.perf_counter() - started
        run.log({"stage": "refine", "step": view, "seconds": round(seconds, 4)})
        image = preview(fine) if clock.preview_due(config.preview_every_s) or view == views else None
        if image is not None:
            run.save_preview(f"refine-{view:05d}", image)
        clock.report("refine", view, views, None, seconds, image)
        started = time.perf_counter()

    refine_colours(config, fine, guidance, report, upscaler)


class Clock:
    """Times a run: when previews and checkpoints are due, and how long is left."""

    def __init__(self, config: SculptConfig, callback: Callable[[Progress], None] | None) -> None:
        self.callback = callback
        self.started = self.last_preview = self.last_checkpoint = time.monotonic()
        self.step_seconds: dict[str, float] = {}
        # What comes after, in steps of the stage that runs; a view that is painted takes about half of one.
        last = config.refine.views / 2
        self.steps_after = {"coarse": config.fine.steps + last, "fine": last}

    def preview_due(self, every_s: float) -> bool:
        now = time.monotonic()
        if now - self.last_preview < every_s:
            return False
        self.last_preview = now
        return True

    def checkpoint_due(self, every_s: float) -> bool:
        now = time.monotonic()
        if now - self.last_checkpoint < every_s:
            return False
        self.last_checkpoint = now
        return True

    def report(
        self, stage: str, step: int, steps: int, loss: float | None, seconds: float, image: np.ndarray | None
    ) -> None:
        if self.callback is None:
            return
        # The first step of a stage compiles kernels, so the second replaces it in the estimate.
        usual = self.step_seconds.get(stage, seconds) if step > 2 else seconds
        self.step_seconds[stage] = 0.9 * usual + 0.1 * seconds
        eta = (steps - step + self.steps_after.get(stage, 0)) * self.step_seconds[stage]
        elapsed = time.monotonic() - self.started
        self.callback(Progress(stage, step, steps, loss, elapsed, eta, image))


def learning_rate_factor(progress: float) -> float:
    """Warm-up over the first 2 %, then constant, then down to a tenth over the last 30 % (ours)."""
    if progress < 0.02:
        return 0.1 + 0.9 * progress / 0.02
    return 1.0 if progress < 0.7 else 1.0 - 0.9 * (progress - 0.7) / 0.3


def load_guiding_prior(config: SculptConfig, device: torch.device) -> Prior:
    from headsculpt.devices import fast_bfloat16
    from headsculpt.priors.catalogue import load_prior
    from headsculpt.priors.memory import check_offload, spare_memory

    check_offload(config.prior, device.type)
    names = {"auto": torch.float32 if device.type == "cpu" else torch.float16}
    dtype = names.get(config.prior.dtype) or getattr(torch, config.prior.dtype)
    if dtype == torch.bfloat16 and not fast_bfloat16(device):
        log.warning("this %s has no bfloat16 instructions: float32 is some twenty times faster", device.type)
    wanted = config.prior
    place = device if wanted.offload == "none" else torch.device("cpu")
    prior = load_prior(
        wanted.name, device=place, dtype=dtype, controls=tuple(wanted.controls), tokens=wanted.tokens
    )
    return spare_memory(prior, wanted, device)


def starting_head(
    config: SculptConfig, prior: Prior | None
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Vertices, faces and landmark contours of the head that the sculpture starts from."""
    from headsculpt.heads.builtin import builtin_head
    from headsculpt.heads.landmarks import annotator_contours

    if config.guidance.head != "builtin":
        from headsculpt.heads.flame import flame_in_scene

        return flame_in_scene(config.guidance.head, config.guidance.head_landmarks)
    head = builtin_head()
    annotator = config.guidance.landmark_drawing == "annotator"
    contours = annotator_contours(head) if annotator else dict(head.landmarks)
    return head.vertices(*described_head(config, prior)), head.faces, contours


def described_head(config: SculptConfig, prior: Prior | None) -> tuple[dict[str, float], dict[str, float]]:
    """Identity and expression weights of the built-in head that the prompt describes; none with a head of FLAME's."""
    wanted = config.guidance.text_to_head and config.guidance.head == "builtin"
    if prior is None or prior.text_to_head is None or not wanted:
        return {}, {}
    prompt = in_near_words(config.prompt) if config.guidance.complete_prompt else config.prompt
    return prior.text_to_head(prior, prompt)


def diffusion_guides(
    config: SculptConfig,
    prior: Prior,
    vertices: np.ndarray,
    faces: np.ndarray,
    contours: dict[str, np.ndarray],
) -> dict[str, Guidance]:
    """Guidance for each stage and for the last look, with landmark control where the prior has it."""
    from headsculpt.guidance.backbone import LatentDiffusion
    from headsculpt.guidance.landmark_control import LandmarkControl
    from headsculpt.guidance.score_distillation import ScoreDistillation
    from headsculpt.synthesis.completion import completed_prompt
    from headsculpt.synthesis.reading import read_prompt

    # Half-precision weights (auto on CUDA) need no autocast on top.
    full = next(prior.vae.parameters()).dtype == torch.float32
    backbone = LatentDiffusion(prior, autocast=config.prior.dtype == "auto" and full)
    particles = None
    if config.guidance.score == "vsd":
        from headsculpt.guidance.particles import ParticleModel

        rank, rate = config.guidance.lora_rank, config.guidance.lora_rate
        particles = ParticleModel(backbone, rank=rank, rate=rate, seed=config.seed)
    landmarks = None
    if "landmarks" in config.prior.controls:
        wears: Iterable[str] = ()
        # Other ControlNets learned from landmarks that shine through.
        if config.guidance.cover_landmarks and config.guidance.prompt_style == "mini":
            complete = config.guidance.complete_prompt
            told = completed_prompt(config.prompt, config.seed) if complete else config.prompt
            wears = map(str, read_prompt(told).values.values())
        landmarks = LandmarkControl(
            vertices,
            faces,
            contours,
            size=backbone.image_size,
            rule=config.guidance.landmark_rule,  # type: ignore[arg-type]
            drawing=config.guidance.landmark_drawing,  # type: ignore[arg-type]
            scale=config.prior.control_scale,
            wears=wears,
        )
    # The last look paints pictures, whichever score and residual the stages before it take.
    pictures = replace(config.guidance, score="sds", latent_weight=0.0, image_weight=1.0, drawn_colours=True)
    return {
        name: ScoreDistillation(
            backbone,
            config.prompt,
            pictures if name == "refine" else config.guidance,
            stage,
            landmarks=landmarks,
            negative_prompt=config.negative_prompt,
            back_token=prior.tokens.get("back-view") if config.guidance.back_token else None,
            seed=config.seed,
            particles=particles,
        )
        for name, stage in (("coarse", config.coarse), ("fine", config.fine), ("refine", config.refine))
    }


@torch.no_grad()
def preview(stage: Stage, size: int = 128) -> np.ndarray:
    """Front, three-quarter, side and back in one strip, ``(size, 4 size, 3)`` uint8."""
    cameras = framed([0.0, 45.0, 90.0, 180.0], 5.0, 1.0, height=size, width=size)
    device = next(stage.module.parameters()).device
    background = torch.full((4, 3), 0.9, device=device)
    rgb = stage.render(cameras.to(device), background, None).rgb
    strip = torch.cat(list(rgb), 1).clamp(0, 1)
    return (strip * 255 + 0.5).to(torch.uint8).cpu().numpy()

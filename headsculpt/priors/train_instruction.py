"""The instruction ControlNet of the mini family: a reference picture in, an instruction as text, the edit out.

A standard ControlNet (Zhang et al. 2023) on the frozen UNet whose map is the picture before the edit, as
lllyasviel's control_v11e_sd15_ip2p has it; so it takes the place of that one in identity-aware editing
(HeadSculpt, method A.10). The UNet reads captions only; the text encoder and its tokenizer were trained on
captions and instructions alike (:mod:`.train_text`), so instructions are embedded like any prompt and the
ControlNet has to teach the UNet what an instruction means.

In A.10 both predictions and the unconditional one see the reference. So four kinds of rows are trained, in the
shares below (ours), and each prediction that the guidance asks for is one that was learned:

* instruction: the picture after the edit;
* caption of the picture after the edit: that picture (the target prompt);
* caption of the picture before: the picture before (the description that keeps the identity);
* empty text: the picture before. Guidance then points from "as it was" to "as asked".
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from headsculpt.devices import compiled, mixed
from headsculpt.priors import mini
from headsculpt.priors.dataset import VIEWS_PER_FIGURE
from headsculpt.priors.pairs import Pairs, open_pairs
from headsculpt.priors.resident import Rows, as_images, normal_like
from headsculpt.priors.sampling import decode, embed, sample_latents
from headsculpt.priors.train_text import save_module
from headsculpt.priors.train_unet import cached_latents, stratified_timesteps, velocity_loss
from headsculpt.priors.train_vae import to_tensor
from headsculpt.priors.training import STATE_FILE, Stage

log = logging.getLogger(__name__)

MODULE = "controlnet_instruction"
SHARES = {"instruction": 0.55, "after": 0.15, "before": 0.15, "empty": 0.15}
SHOWN = 16  # pairs on the sample sheet
INLET_STEPS, INLET_BATCH, INLET_RATE = 400, 64, 2e-3


class Texts:
    """Token ids of all texts of the pairs.

    Attributes:
        instructions: ``(figures, T)`` uint16.
        after, before: captions ``(pairs, captions, T)`` uint16.
        empty: ``(T,)`` uint16.
    """

    def __init__(self, pairs: Pairs, tokenizer: Any) -> None:
        def ids(texts: list[str]) -> NDArray:
            parts = [mini.tokenise(tokenizer, texts[i : i + 4096]) for i in range(0, len(texts), 4096)]
            return torch.cat(parts).numpy().astype(np.uint16)

        def captions(of: list[list[str]]) -> NDArray:
            return ids([text for entry in of for text in entry]).reshape(len(of), len(of[0]), -1)

        self.instructions = ids(pairs.instructions)
        self.after, self.before = captions(pairs.captions_after), captions(pairs.captions_before)
        self.empty = ids([""])[0]

    def rows(self, indices: NDArray, kinds: NDArray, which: NDArray) -> Tensor:
        """Ids ``(B, T)`` int64: for each pair the text of its kind (number in :data:`SHARES`)."""
        choices = np.stack(
            [
                self.instructions[indices // VIEWS_PER_FIGURE],
                self.after[indices, which],
                self.before[indices, which],
                np.broadcast_to(self.empty, (len(indices), len(self.empty))),
            ]
        )
        return torch.from_numpy(choices[kinds, np.arange(len(indices))].astype(np.int64))


@dataclass
class _Side:
    """One side of the pairs with the interface of a data set of portraits."""

    pairs: Pairs
    which: str

    @property
    def shards(self) -> list[NDArray]:
        return self.pairs.before

    def __len__(self) -> int:
        return len(self.pairs)

    def images(self, indices: NDArray) -> NDArray:
        return self.pairs.images(self.which, indices)


def fresh_controlnet(unet: Any, landmarks: Path) -> Any:
    """The ControlNet before its first step, with gradients.

    It is a copy of the UNet's encoder, as published, or of the landmark ControlNet where there is one: that
    one's outlets are open already, where those of a fresh one start at zero and stay unheard for thousands of
    steps. Its inlet for the map is always fresh.
    """
    from safetensors.torch import load_file

    controlnet = mini.make_controlnet(unet)
    weights = landmarks / "diffusion_pytorch_model.safetensors"
    if weights.exists():
        own = controlnet.state_dict()
        there = {
            name: tensor
            for name, tensor in load_file(weights).items()
            if name in own and own[name].shape == tensor.shape and "controlnet_cond_embedding" not in name
        }
        controlnet.load_state_dict(there, strict=False)
    return controlnet.requires_grad_(True).train()


def teach_inlet(
    controlnet: Any, unet: Any, references: Rows, latents: Rows, *, steps: int = INLET_STEPS, seed: int = 0
) -> float:
    """Teaches the inlet to see the reference as the UNet sees its latents; ours.

    A fresh inlet gives nothing, so the ControlNet, which was copied from one that reads latents, has to find out what a
    picture is while it learns what to do with it: after a thousand steps of 512 it kept outlines and lost colours. Here
    the inlet alone first learns ``unet.conv_in`` of the reference's latents, less its bias: the ControlNet then starts
    with the reference added to what it is to denoise.

    Args:
        controlnet: fresh; its inlet is trained in place.
        unet: that the ControlNet is for.
        references, latents: pictures ``(N, H, W, 3)`` uint8, and their latents ``(N, C, h, w)``.
        steps: of Adam, :data:`INLET_BATCH` pictures each.
        seed: of the choice of pictures.

    Returns:
        Mean square error of the last batch over the mean square of what it was to give; 1 without any steps.
    """
    inlet, generator = controlnet.controlnet_cond_embedding, torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(inlet.parameters(), INLET_RATE)
    missed = 1.0
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = INLET_RATE * max(0.02, 1 - step / steps)
        indices = torch.randint(len(references), (INLET_BATCH,), generator=generator).numpy()
        with torch.no_grad():
            wanted = unet.conv_in(latents[indices].float()) - unet.conv_in.bias[:, None, None]
        with mixed(references.device):
            given = inlet(as_images(references[indices])).float()
        error = (given - wanted).square().mean() / wanted.square().mean()
        optimiser.zero_grad(set_to_none=True)
        error.backward()
        optimiser.step()
        missed = float(error.detach())
    inlet.zero_grad(set_to_none=True)
    return missed


def instruction_stage(
    work: Path, device: torch.device | str, seed: int, *, batch: int = 48, inlet_steps: int = INLET_STEPS
) -> Stage:
    """Stage "instruction"; needs the pairs, the text encoder, the VAE and the UNet.

    A stage that has not begun takes ``inlet_steps`` of :func:`teach_inlet` first.

    Raises:
        FileNotFoundError: a stage before has not been trained, or there are no pairs; says which.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    modules = work / "modules"
    for stage, name in (("text", "text_encoder"), ("vae", "vae"), ("unet", "unet")):
        if not (modules / name / "config.json").exists():
            raise FileNotFoundError(
                f"{modules / name} is missing; train it first: headsculpt train-prior {stage} --work {work}"
            )
    pairs = open_pairs(work / "pairs")
    tokenizer = CLIPTokenizer.from_pretrained(modules / "tokenizer")
    parts: tuple[tuple[Any, str], ...] = (
        (CLIPTextModel, "text_encoder"),
        (AutoencoderKL, "vae"),
        (UNet2DConditionModel, "unet"),
    )
    opened: list[Any] = [
        kind.from_pretrained(modules / name, torch_dtype=torch.float32).to(device).eval().requires_grad_(False)
        for kind, name in parts
    ]
    encoder, vae, unet = opened
    torch.manual_seed(seed)
    controlnet = fresh_controlnet(unet, modules / "controlnet_landmarks").to(device)
    sides: dict[str, Any] = {which: _Side(pairs, which) for which in ("before", "after")}
    latents_of = {
        which: Rows([cached_latents(work / f"latents-{which}", side, vae, modules / "vae", device)], device)
        for which, side in sides.items()
    }
    references = Rows(pairs.before, device)
    if not (work / "instruction" / STATE_FILE).exists():
        missed = teach_inlet(controlnet, unet, references, latents_of["before"], steps=inlet_steps, seed=seed)
        log.info("the inlet misses %.0f %% of what latents say of the references", 100 * missed)
    scheduler = mini.make_scheduler()
    alphas = scheduler.alphas_cumprod.to(device)
    texts = Texts(pairs, tokenizer)
    edges = torch.tensor(list(SHARES.values())).cumsum(0)

    def predicted(noisy: Tensor, t: Tensor, text: Tensor, reference: Tensor) -> Tensor:
        down, middle = controlnet(noisy, t, text, reference, return_dict=False)
        return unet(
            noisy, t, text, down_block_additional_residuals=down, mid_block_additional_residual=middle
        ).sample

    predict = compiled(predicted, device)

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        indices = torch.randint(len(pairs), (batch,), generator=generator).numpy()
        which = torch.randint(texts.after.shape[1], (batch,), generator=generator).numpy()
        kinds = torch.bucketize(torch.rand(batch, generator=generator), edges[:-1]).numpy()
        edited = torch.from_numpy(kinds < 2).to(device)[:, None, None, None]
        latents = torch.where(edited, latents_of["after"][indices], latents_of["before"][indices]).float()
        reference = as_images(references[indices])
        with torch.no_grad(), mixed(device):
            text = encoder(texts.rows(indices, kinds, which).to(device)).last_hidden_state.float()
        noise = normal_like(latents, generator)
        t = stratified_timesteps(batch, len(alphas), generator).to(device)
        noisy = scheduler.add_noise(latents, noise, t)
        with mixed(device):
            output = predict(noisy, t, text, reference)
        return velocity_loss(output, latents, noise, alphas[t]), {}

    # One view that shows the face of each of a few figures.
    facing = np.flatnonzero(np.abs(pairs.views[:, 0]) < 80)
    facing = facing if len(facing) else np.arange(len(pairs))
    shown = facing[np.linspace(0, len(facing) - 1, SHOWN).astype(int)]

    def sheet(model: Any) -> Image.Image:
        """Rows of before, what the model makes of the instruction, and after; eight pairs in a row."""
        instructions = [pairs.instructions[i // VIEWS_PER_FIGURE] for i in shown]
        before = pairs.images("before", shown)
        latents = sample_latents(
            unet, scheduler, embed(tokenizer, encoder, instructions), embed(tokenizer, encoder, [""]),
            torch.Generator().manual_seed(0), guidance_scale=2.0, controlnet=model,
            condition=0.5 + 0.5 * to_tensor(before, device), control_guided=False,
        )  # fmt: skip
        made = (decode(vae, latents) * 255).byte().cpu().numpy()
        rows = []
        for start in range(0, SHOWN, 8):
            for pictures in (before, made, pairs.images("after", shown)):
                rows.append(np.concatenate(list(pictures[start : start + 8]), 1))
        return Image.fromarray(np.concatenate(rows))

    def export(model: Any) -> None:
        save_module(model, work / "modules" / MODULE)

    return Stage(
        "instruction", controlnet, loss, export, batch, sheet, learning_rate=6e-4, ema_decay=0.995,
        warm_up_steps=50, muon=True, modules={MODULE: controlnet},
    )  # fmt: skip

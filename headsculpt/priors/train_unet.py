"""The noise predictor of the mini family and its landmark ControlNet, on the latents of its frozen VAE.

The two are trained together: a ControlNet that starts when its UNet is done (Zhang et al. 2023) takes
thousands of steps before it is heard, and the UNet learns faces sooner where it is told where they are.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from headsculpt.devices import compiled, mixed, usable_cores
from headsculpt.priors import mini
from headsculpt.priors.dataset import Portraits, open_dataset
from headsculpt.priors.resident import Rows, as_images, normal_like
from headsculpt.priors.sampling import decode, embed, sample_latents
from headsculpt.priors.train_text import save_module
from headsculpt.priors.train_vae import encoder_stamp, face_boxes, face_weights, to_tensor
from headsculpt.priors.training import Stage

log = logging.getLogger(__name__)

EMPTY_SHARE = 0.1  # of the texts are dropped, so that guidance has its unconditional half
MAPPED_SHARE = 0.5  # of the images that show a face come with their landmark map
SNR_CAP = 5.0  # gamma of Hang et al. 2023

SHEET_TEXTS = (
    "an old man with a white beard and round glasses, front view",
    "a woman with long red hair, three-quarter view from the left",
    "an orc with green skin and a crown, angry, front view",
    "a boy with a blue baseball cap, smiling, left side view",
    "a girl with a blonde ponytail, back view",
    "a zombie with sunglasses and a pink mohawk, front view",
    "a marble bust of a man with curly hair, three-quarter view from the right",
    "a bronze statue of an old woman with a bun, right side view",
    "an elf with pointed ears, long white hair and earrings, front view",
    "a surprised man with a brown moustache and square glasses, front view, close-up",
    "an alien with blue skin and headphones, front view",
    "a man in a black suit and tie with a goatee and an eyepatch, front view",
    "a woman with a red cowboy hat, front view",
    "a man with a black top hat, back view",
    "a wooden carving of a girl with a beanie, three-quarter view from the left",
    "a bald man with dark skin in a yellow hoodie, sad, front view",
)


@dataclass
class Frozen:
    """What a stage on latents needs of the stages before."""

    portraits: Portraits
    tokenizer: Any
    encoder: Any
    vae: Any
    scheduler: Any
    latents: Rows
    ids: NDArray
    device: torch.device | str

    def batch(
        self, size: int, generator: torch.Generator, empty_share: float
    ) -> tuple[NDArray, Tensor, Tensor]:
        """Random images: their indices, scaled latents ``(B, C, h, w)`` and text states ``(B, T, D)``."""
        indices = torch.randint(len(self.portraits), (size,), generator=generator).numpy()
        which = torch.randint(self.ids.shape[1], (size,), generator=generator).numpy()
        ids = torch.from_numpy(self.ids[indices, which].astype(np.int64))
        dropped = torch.rand(size, generator=generator) < empty_share
        ids[dropped] = mini.tokenise(self.tokenizer, [""])
        with torch.no_grad(), mixed(self.device):
            text = self.encoder(ids.to(self.device)).last_hidden_state.float()
        return indices, self.latents[indices].float(), text


def open_frozen(work: Path, device: torch.device | str) -> Frozen:
    """Load data set, text encoder and VAE of a work folder, with latents and tokens made once and kept.

    Raises:
        FileNotFoundError: a stage before has not been trained.
    """
    from diffusers import AutoencoderKL
    from transformers import CLIPTextModel, CLIPTokenizer

    modules = work / "modules"
    for stage, name in (("text", "text_encoder"), ("vae", "vae")):
        if not (modules / name / "config.json").exists():
            raise FileNotFoundError(
                f"{modules / name} is missing; train it first: headsculpt train-prior {stage} --work {work}"
            )
    portraits = open_dataset(work / "data")
    tokenizer = CLIPTokenizer.from_pretrained(modules / "tokenizer")
    encoder: Any = CLIPTextModel.from_pretrained(modules / "text_encoder", torch_dtype=torch.float32)
    encoder = encoder.to(device)
    vae: Any = AutoencoderKL.from_pretrained(modules / "vae", torch_dtype=torch.float32).to(device)
    encoder.eval().requires_grad_(False)
    vae.eval().requires_grad_(False)
    latents = Rows([cached_latents(work / "latents", portraits, vae, modules / "vae", device)], device)
    ids = _token_ids(portraits, tokenizer)
    return Frozen(portraits, tokenizer, encoder, vae, mini.make_scheduler(), latents, ids, device)


def cached_latents(
    folder: Path, portraits: Portraits, vae: Any, weights: Path, device: torch.device | str
) -> NDArray:
    """Means of all latents ``(N, C, h, w)`` float16 on disk; goes on where an interrupted pass ended."""
    stamp = encoder_stamp(weights)
    size = portraits.shards[0].shape[1] // 2 ** (len(vae.config.block_out_channels) - 1)
    shape = (len(portraits), vae.config.latent_channels, size, size)
    folder.mkdir(parents=True, exist_ok=True)
    path, note = folder / "latents.npy", folder / "latents.json"
    done = 0
    if path.exists() and note.exists():
        said = json.loads(note.read_text(encoding="utf-8"))
        if said["vae"] == stamp and tuple(said["shape"]) == shape:
            done = said["done"]
    latents = np.lib.format.open_memmap(path, "r+" if done else "w+", np.float16, shape)
    if not done:
        note.unlink(missing_ok=True)
    at_once = 512 if torch.device(device).type == "cuda" else 8  # more at once leave a CPU's cache
    with torch.no_grad(), mixed(device):
        for start in range(done, len(portraits), at_once):
            part = np.arange(start, min(start + at_once, len(portraits)))
            mean = vae.encode(to_tensor(portraits.images(part), device)).latent_dist.mean
            latents[part] = (mean.float() * vae.config.scaling_factor).cpu().numpy().astype(np.float16)
            if start // at_once % 32 == 31 or part[-1] == len(portraits) - 1:
                latents.flush()
                said = {"vae": stamp, "shape": shape, "done": int(part[-1]) + 1}
                note.write_text(json.dumps(said), encoding="utf-8")
                log.info("latents %d of %d", part[-1] + 1, len(portraits))
    return np.load(path, mmap_mode="r")


def _token_ids(portraits: Portraits, tokenizer: Any) -> NDArray:
    """Tokens of all captions ``(N, captions, T)`` uint16."""
    per_image = min(len(entry) for entry in portraits.captions)
    texts = [text for entry in portraits.captions for text in entry[:per_image]]
    parts = [
        mini.tokenise(tokenizer, texts[i : i + 4096]).numpy().astype(np.uint16)
        for i in range(0, len(texts), 4096)
    ]
    return np.concatenate(parts).reshape(len(portraits), per_image, -1)


def stratified_timesteps(count: int, total: int, generator: torch.Generator) -> Tensor:
    """One timestep in each of ``count`` equal parts of [0, total): ``(count,)`` int64, less noise in the loss."""
    places = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    return (places * total).long().clamp(max=total - 1)


def velocity_loss(
    output: Tensor, latents: Tensor, noise: Tensor, alphas: Tensor, places: Tensor | None = None
) -> Tensor:
    """Squared error of v, of nearly clean latents less.

    v = sqrt(a) noise - sqrt(1 - a) latents (Salimans & Ho 2022). The weight is min(1, gamma / SNR): on the clean side
    that of min-SNR (Hang et al. 2023), whose weight on the noisy side, SNR / (SNR + 1) for v, is left out. With
    it, the first steps of a sample had a thirtieth of the weight of the middle ones, and what they decide (which
    hat, which colour) was learnt last: a ControlNet that sees the picture to edit kept its outlines and lost its
    colours.

    Args:
        output: ``(B, C, h, w)`` predicted v.
        latents, noise: ``(B, C, h, w)``.
        alphas: ``(B,)`` cumulative alphas at the timesteps.
        places: ``(B, 1, h, w)`` weights of the pixels; None weighs all alike. They change what is learnt first,
            not what is learnt in the end: each pixel's best answer stays its mean.
    """
    a = alphas[:, None, None, None]
    target = a.sqrt() * noise - (1 - a).sqrt() * latents
    snr = alphas / (1 - alphas).clamp(min=1e-8)
    weight = (SNR_CAP / snr.clamp(min=1e-8)).clamp(max=1)
    errors = (output.float() - target).square().mean(1, keepdim=True)
    if places is not None:
        errors = errors * places / places.mean()
    # Divided by the mean weight, so that the learning rate means what it does without weights.
    return (weight * errors.mean((1, 2, 3))).sum() / weight.sum()


def rows_to_map(with_face: NDArray, count: int, generator: torch.Generator) -> Tensor:
    """Which rows of a batch come with their landmark map: always as many, so that every step has the same shapes.

    Args:
        with_face: ``(B,)`` bool; rows without a face (their maps are black) are taken where the others do not suffice.
        count: at most B.

    Returns:
        ``(count,)`` int64, rising.
    """
    order = torch.rand(len(with_face), generator=generator) + torch.from_numpy(with_face)
    return order.topk(count).indices.sort().values


class Denoiser(nn.Module):
    """A UNet and the ControlNet that some rows of a batch pass through."""

    def __init__(self, unet: Any, controlnet: Any) -> None:
        super().__init__()
        self.unet, self.controlnet = unet, controlnet

    def forward(self, noisy: Tensor, t: Tensor, text: Tensor, maps: Tensor, mapped: Tensor) -> Tensor:
        """Predicted v ``(B, C, h, w)``.

        Args:
            noisy, t, text: of the UNet.
            maps: ``(M, 3, H, W)`` in [0, 1], one for each mapped row.
            mapped: ``(M,)`` int64, the rows that have one.
        """
        if not len(mapped):
            return self.unet(noisy, t, text).sample
        down, middle = self.controlnet(noisy[mapped], t[mapped], text[mapped], maps, return_dict=False)

        def spread(part: Tensor) -> Tensor:  # a residual of zero is the plain UNet
            return part.new_zeros((len(noisy), *part.shape[1:])).index_put((mapped,), part)

        return self.unet(
            noisy,
            t,
            text,
            down_block_additional_residuals=[spread(part) for part in down],
            mid_block_additional_residual=spread(middle),
        ).sample


def unet_stage(
    work: Path, device: torch.device | str, seed: int, *, config: dict = mini.UNET, batch: int = 32
) -> Stage:
    """Stage "unet"; needs the data set, the text encoder and the VAE."""
    frozen = open_frozen(work, device)
    torch.manual_seed(seed)
    unet = mini.make_unet(config)
    model = Denoiser(unet, mini.make_controlnet(unet)).to(device)
    alphas = frozen.scheduler.alphas_cumprod.to(device)
    portraits = frozen.portraits
    size = portraits.shards[0].shape[1]
    with_face = portraits.landmarks[..., 2].max(1) > 0.5

    boxes = face_boxes(portraits)
    mapped_rows = round(MAPPED_SHARE * with_face.mean() * batch)
    denoise = compiled(model, device)
    # A GPU would wait for the drawing of every batch, so there all maps are drawn beforehand.
    every = None
    if torch.device(device).type == "cuda":
        place = with_face.cumsum() - 1
        every = Rows([portraits.landmark_maps(np.flatnonzero(with_face), size, usable_cores())], device)

    def maps(indices: NDArray) -> Tensor:
        if not len(indices):
            return torch.zeros((0, 3, size, size), device=device)
        if every is not None:
            return as_images(every[place[indices]])
        return as_images(torch.from_numpy(portraits.landmark_maps(indices, size)).to(device))

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        indices, latents, text = frozen.batch(batch, generator, EMPTY_SHARE)
        mapped = rows_to_map(with_face[indices], mapped_rows, generator)
        noise = normal_like(latents, generator)
        t = stratified_timesteps(batch, len(alphas), generator).to(device)
        noisy = frozen.scheduler.add_noise(latents, noise, t)
        with mixed(device):
            output = denoise(noisy, t, text, maps(indices[mapped.numpy()]), mapped.to(device))
        # A mouth is a latent or two of 256: with all alike, smiles are learnt after everything else.
        places = F.adaptive_avg_pool2d(face_weights(boxes[indices], size, device), latents.shape[-1])
        return velocity_loss(output, latents, noise, alphas[t], places), {}

    facing = np.flatnonzero(with_face)
    shown = facing[np.linspace(0, len(facing) - 1, len(SHEET_TEXTS)).astype(int)]

    def sheet(model: Any) -> Image.Image:
        """Samples of the texts alone; of other figures' captions under their maps; and those maps over them."""
        texts = [portraits.captions[i][0] for i in shown]
        conditions = maps(shown)
        controlled = _rows(sample_pictures(frozen, model.unet, texts, model.controlnet, conditions))
        drawn = _rows((conditions.permute(0, 2, 3, 1).cpu().numpy() * 255).astype(np.uint8))
        free = _rows(sample_pictures(frozen, model.unet, SHEET_TEXTS))
        return Image.fromarray(np.concatenate([free, controlled, np.maximum(controlled // 2, drawn)]))

    def export(model: Any) -> None:
        save_module(model.unet, work / "modules" / "unet")
        save_module(model.controlnet, work / "modules" / "controlnet_landmarks")
        frozen.scheduler.save_pretrained(work / "modules" / "scheduler")

    return Stage(
        "unet", model, loss, export, batch, sheet, learning_rate=6e-4, ema_decay=0.998, muon=True,
        modules={"unet": unet, "controlnet_landmarks": model.controlnet},
    )  # fmt: skip


def sample_pictures(
    frozen: Frozen, unet: Any, texts: Sequence[str], controlnet: Any = None, condition: Tensor | None = None
) -> NDArray:
    """Samples ``(B, S, S, 3)`` uint8, always from the same noise."""
    latents = sample_latents(
        unet, mini.make_scheduler(), embed(frozen.tokenizer, frozen.encoder, texts),
        embed(frozen.tokenizer, frozen.encoder, [""]), torch.Generator().manual_seed(0),
        controlnet=controlnet, condition=condition,
    )  # fmt: skip
    return (decode(frozen.vae, latents) * 255).byte().cpu().numpy()


def _rows(pictures: NDArray) -> NDArray:
    """Pictures, eight in a row."""
    return np.concatenate([np.concatenate(list(pictures[i : i + 8]), 1) for i in range(0, len(pictures), 8)])

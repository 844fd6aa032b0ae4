"""Textual inversion (Gal et al. 2022): one new word is learned, every weight of the prior stays as it is.

Minimises eq. 2 of the paper, E || target - f(z_t, t, text(v)) ||^2, over the embedding v of the new token. The
texts are the very prompts that the sculpting loop says behind a head, with the token in them, so that the
token learns what these prompts leave open. HeadSculpt uses such a token for back views and publishes neither
its pictures nor its settings (method A.6); all numbers here are ours, except where a comment says otherwise.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from headsculpt.priors.tokens import TokenError, check_token, save_token
from headsculpt.priors.train_unet import stratified_timesteps
from headsculpt.priors.training import Budget, Stage, train
from headsculpt.prompts import BACK_DEG, PromptStyle, view_prompt

if TYPE_CHECKING:
    from headsculpt.priors.prior import Prior

log = logging.getLogger(__name__)

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
# Of a picture whose words nobody gave: all of them say only what every back view shows.
SUBJECTS = ("a head", "a person", "a portrait of a person", "the head of a person", "a photo of a person")
HELD_OUT = 8  # every so many pictures, one is only measured on
LEARNING_RATE = 2e-3  # diffusers' script: 5e-4, times 4 images a step
BATCH = 4


@dataclass
class Examples:
    """Pictures ``(N, S, S, 3)`` uint8 of back views, and for each the texts that describe it without the view."""

    images: NDArray
    texts: list[list[str]]


def read_images(folder: Path, size: int) -> Examples:
    """The user's pictures of backs of heads: their middle squares, and the same mirrored.

    A text file beside a picture, of the same name, may say what it shows, one description in a line.

    Args:
        folder: with .png, .jpg, .webp or .bmp files.
        size: pixels, both ways.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no picture in it, or a file that is none; names it.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}; give a folder of pictures of backs of heads")
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
    if not paths:
        raise ValueError(f"{folder} holds no picture ({', '.join(SUFFIXES)}); expected backs of heads, five or more")
    images, texts = [], []
    for path in paths:
        try:
            with Image.open(path) as opened:
                picture = ImageOps.fit(ImageOps.exif_transpose(opened).convert("RGB"), (size, size))
        except (UnidentifiedImageError, OSError, ValueError):
            raise ValueError(f"{path} is no readable picture; remove it or save it again") from None
        words = path.with_suffix(".txt")
        lines = words.read_text(encoding="utf-8").splitlines() if words.is_file() else []
        described = [line.strip() for line in lines if line.strip()] or list(SUBJECTS)
        for pixels in (np.asarray(picture), np.asarray(ImageOps.mirror(picture))):
            images.append(pixels)
            texts.append(described)
    return Examples(np.stack(images), texts)


def world_images(count: int, size: int, seed: int) -> Examples:
    """Back views of random figures of the portrait world with their captions (which never say the view)."""
    from headsculpt.cameras import framed
    from headsculpt.priors.dataset import sample_backgrounds
    from headsculpt.synthesis.captions import caption, sample_attributes
    from headsculpt.synthesis.figure import build_figure
    from headsculpt.synthesis.render import render_figure

    rng = np.random.default_rng([seed, 77])
    images, texts = [], []
    for _ in range(count):
        person = sample_attributes(rng)
        camera = framed(
            [180.0 + rng.uniform(-BACK_DEG, BACK_DEG)],
            float(np.clip(rng.normal(5, 7), -15, 35)),
            float(rng.uniform(0.7, 1.0)),
            height=size,
            width=size,
        )
        shown = render_figure(build_figure(person, rng), camera, background=sample_backgrounds(1, rng))
        images.append(np.asarray(shown["rgb"])[0])
        texts.append([caption(person, rng).text for _ in range(4)])
    return Examples(np.stack(images), texts)


def learn_token(
    prior: Prior,
    examples: Examples,
    out: Path,
    work: Path,
    *,
    token: str = "<back-view>",
    initial: str = "back",
    style: PromptStyle | None = None,
    steps: int = 1000,
    batch: int = BATCH,
    learning_rate: float = LEARNING_RATE,
    seed: int = 0,
    pause_after: int | None = None,
) -> dict[str, float] | None:
    """Learn one token and write it; goes on where an interrupted call with the same settings was.

    Args:
        prior: any in the diffusers layout; left as it was.
        examples: what the token is to mean.
        out: .safetensors file to write.
        work: folder of the saved state and the loss log.
        token: the new word.
        initial: a word whose embedding it starts from.
        style: of the prompts, see :mod:`headsculpt.prompts`; None takes the one that suits the prior.
        steps, batch, learning_rate: of Adam with a cosine schedule.
        seed: of noise, timesteps and texts.
        pause_after: stop as if interrupted after this many steps.

    Returns:
        the loss on the pictures held out (all pictures where there are fewer than 8): ``without`` the token,
        with its ``initial`` embedding, and ``learned``; or None if interrupted, the work being kept.

    Raises:
        TokenError: the token is no new word, or ``initial`` is none.
        ValueError: ``work`` holds another token's state.
    """
    check_token(token, prior.tokenizer, f"prior '{prior.name}'")
    style = style or ("mini" if prior.text_to_head is not None else "headsculpt")
    settings = {
        "prior": prior.name, "token": token, "initial": initial, "style": style, "steps": steps, "batch": batch,
        "learning_rate": learning_rate, "seed": seed, "images": int(len(examples.images)),
        "sum": int(examples.images.sum(dtype=np.int64)),
    }  # fmt: skip
    _same_settings(work / "settings.json", settings)
    inversion = _Inversion(prior, token, initial)
    latents = _encode(prior, examples.images)
    held_out = np.arange(len(latents)) % HELD_OUT == HELD_OUT - 1
    if not held_out.any():
        held_out[:] = True
    learned_from = np.flatnonzero(~held_out) if not held_out.all() else np.arange(len(latents))

    def prompts(indices: Sequence[int], which: Sequence[int], said: str | None = token) -> list[str]:
        chosen = [examples.texts[i][w % len(examples.texts[i])] for i, w in zip(indices, which, strict=True)]
        return [view_prompt(text, 180.0, style=style, back_token=said)[0] for text in chosen]

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        places = torch.randint(len(learned_from), (batch,), generator=generator).numpy()
        which = torch.randint(1 << 16, (batch,), generator=generator).tolist()
        indices = learned_from[places]
        texts = prompts(indices.tolist(), which)
        return inversion.loss(latents[torch.from_numpy(indices)], texts, generator), {}

    def measured(said: str | None) -> float:
        """The loss on held-out pictures, at timesteps and noise that are always the same."""
        indices = np.flatnonzero(held_out)[:32]
        generator = torch.Generator().manual_seed(12345)
        with torch.no_grad():
            parts = [
                inversion.loss(latents[[i]].expand(8, -1, -1, -1), prompts([i] * 8, list(range(8)), said), generator)
                for i in indices.tolist()
            ]
        return float(torch.stack(parts).mean())

    def export(model: nn.Module) -> None:
        save_token(out, token, inversion.embedding, json.dumps(settings))

    with inversion.installed():
        figures = {"without": measured(None), "initial": measured(token)}
        stage = Stage(
            "inversion", inversion, loss, export, batch, learning_rate=learning_rate, weight_decay=0.0,
            ema_decay=0.99, warm_up_steps=min(50, max(1, steps // 10)),
        )  # fmt: skip
        if not train(stage, work, Budget(steps=steps), seed=seed, pause_after=pause_after, save_every_s=30.0):
            return None
        from headsculpt.priors.tokens import read_token

        with torch.no_grad():
            inversion.embedding.copy_(read_token(out)[1][0])
        figures["learned"] = measured(token)
    log.info("held-out loss %s", figures)
    return figures


class _Inversion(nn.Module):
    """The embedding being learned, beside a frozen prior that is no submodule of it."""

    def __init__(self, prior: Prior, token: str, initial: str) -> None:
        super().__init__()
        self._prior = (prior,)  # in a tuple, so that nn.Module does not count its weights
        self.token = token
        ids = prior.tokenizer(initial, add_special_tokens=False).input_ids
        if not ids:
            raise TokenError(f'the word that a token starts from is empty; give one such as "back"; got {initial!r}')
        table = prior.text_encoder.get_input_embeddings().weight  # type: ignore[operator, union-attr]
        self.embedding = nn.Parameter(table[ids].detach().float().mean(0))

    @contextmanager
    def installed(self) -> Iterator[None]:
        """While open, the prior's tokenizer has the token, and its text encoder reads the embedding for it."""
        from copy import deepcopy

        prior = self._prior[0]
        encoder: Any = prior.text_encoder
        self.tokenizer = deepcopy(prior.tokenizer)
        self.tokenizer.add_tokens([self.token])
        number = self.tokenizer.convert_tokens_to_ids(self.token)
        table = encoder.get_input_embeddings()

        def known(module: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            self._asked = given[0] == number
            return (torch.where(self._asked, 0, given[0]),)  # a row that the table has

        def learned(module: nn.Module, given: tuple[Tensor, ...], rows: Tensor) -> Tensor:
            return torch.where(self._asked[..., None], self.embedding.to(rows), rows)

        hooks = [table.register_forward_pre_hook(known), table.register_forward_hook(learned)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def loss(self, latents: Tensor, texts: list[str], generator: torch.Generator) -> Tensor:
        """Squared error of the prior's prediction for latents ``(B, C, h, w)`` under their texts; a scalar."""
        from headsculpt.devices import mixed

        prior = self._prior[0]
        unet: Any = prior.unet
        encoder: Any = prior.text_encoder
        device = next(unet.parameters()).device
        alphas = prior.scheduler.alphas_cumprod
        t = stratified_timesteps(len(latents), len(alphas), generator)
        noise = torch.randn(latents.shape, generator=generator)
        a = alphas[t][:, None, None, None]
        noisy = a.sqrt() * latents + (1 - a).sqrt() * noise
        velocity = prior.scheduler.config.prediction_type == "v_prediction"
        target = a.sqrt() * noise - (1 - a).sqrt() * latents if velocity else noise
        ids = self.tokenizer(
            texts, padding="max_length", max_length=self.tokenizer.model_max_length, truncation=True,
            return_tensors="pt",
        ).input_ids  # fmt: skip
        with mixed(device):
            states = encoder(ids.to(device)).last_hidden_state
            output = unet(noisy.to(device), t.to(device), states).sample
        return F.mse_loss(output.float(), target.to(device))


@torch.no_grad()
def _encode(prior: Prior, images: NDArray) -> Tensor:
    """Scaled mean latents ``(N, C, h, w)`` float32 on the CPU."""
    vae: Any = prior.vae
    parameter = next(vae.parameters())
    parts = []
    for start in range(0, len(images), 8):
        pixels = torch.from_numpy(images[start : start + 8]).to(parameter).permute(0, 3, 1, 2) / 127.5 - 1
        parts.append(vae.encode(pixels).latent_dist.mean.float().cpu() * vae.config.scaling_factor)
    return torch.cat(parts)


def _same_settings(path: Path, settings: dict[str, Any]) -> None:
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        different = sorted(key for key in settings if before.get(key) != settings[key])
        if different:
            raise ValueError(
                f"{path.parent} holds the unfinished learning of another token (its {', '.join(different)} "
                "differ); give --work another folder, or delete that one"
            )
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")



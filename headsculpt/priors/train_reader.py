"""The reader: attributes off noisy latents. It teaches the UNet to draw what its captions say.

Squared error alone hardly notices a smile: a mouth is a latent or two of 256, and the UNet learns skin, hair and
hats long before it. So while the UNet trains, its estimate of the clean latents is read, and what is read should
be what the figure has (reward feedback learning, Xu et al. 2023, arXiv 2304.05977, with the truth for a reward).
The estimate is noised again before it is read, as a diffusion GAN's discriminator sees its pictures (Wang et al.
2022, arXiv 2206.02262): estimates are blurred, and noise hides what they lack. The reader itself is a classifier
of noisy pictures as in Dhariwal & Nichol 2021 (arXiv 2105.05233, section 4). Sizes and weights are ours. It ships
with no family and has nothing in common with the judge.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headsculpt.priors import mini
from headsculpt.priors.dataset import VIEWS_PER_FIGURE, Portraits
from headsculpt.priors.sampling import mixed
from headsculpt.priors.train_vae import weights_stamp
from headsculpt.priors.training import Stage
from headsculpt.synthesis.attributes import VALUES
from headsculpt.synthesis.visibility import IGNORED, visible_labels

FILE = "reader.safetensors"  # in the folder of its stage
NOISIEST = 0.5  # of the schedule; estimates are read at half of their own noise
WIDTHS = (64, 128, 192)  # at 16x16, 8x8 and 4x4


class _Block(nn.Module):
    """Residual block; its second convolution sees how noisy the latents are."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.norms = nn.ModuleList(nn.GroupNorm(8, channels) for _ in range(2))
        self.level = nn.Linear(2, channels)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        h = self.first(F.silu(self.norms[0](x))) + self.level(level)[:, :, None, None]
        return x + self.second(F.silu(self.norms[1](h)))


class Reader(nn.Module):
    """Values of all families off noisy latents.

    Args:
        channels: of the latents.
        widths: channels at each level; the first is the latents' own size.
    """

    def __init__(self, channels: int = mini.LATENT_CHANNELS, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList(nn.ModuleList(_Block(width) for _ in range(2)) for width in widths)
        self.downs = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in zip(widths, widths[1:], strict=False)
        )
        self.norm = nn.GroupNorm(8, widths[-1])
        self.heads = nn.ModuleDict({name: nn.Linear(2 * widths[-1], len(of)) for name, of in VALUES.items()})

    def forward(self, noisy: Tensor, alphas: Tensor) -> dict[str, Tensor]:
        """Logits ``(B, n)`` of each family.

        Args:
            noisy: ``(B, C, h, w)``.
            alphas: ``(B,)`` cumulative alphas of their noise.
        """
        level = torch.stack([alphas.sqrt(), (1 - alphas).sqrt()], 1)
        x = self.conv_in(noisy)
        for number, blocks in enumerate(self.blocks):
            if number:
                x = self.downs[number - 1](x)
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x, level)
        x = F.silu(self.norm(x))
        # The mean knows colours; the maximum, that somewhere there is an ear-ring.
        pooled = torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)
        return {name: head(pooled) for name, head in self.heads.items()}


def all_labels(portraits: Portraits) -> Tensor:
    """:func:`visible_labels` of all images, ``(N, families)`` int64."""
    people = portraits.attributes
    return torch.tensor(
        [
            visible_labels(people[i // VIEWS_PER_FIGURE], *map(float, view))
            for i, view in enumerate(portraits.views)
        ]
    )


def reading_loss(logits: dict[str, Tensor], labels: Tensor) -> Tensor:
    """Cross-entropy, the mean over all labels that are not ignored; a scalar in nats."""
    each = [
        F.cross_entropy(logits[family].float(), labels[:, i], ignore_index=IGNORED, reduction="sum")
        for i, family in enumerate(VALUES)
    ]
    return torch.stack(each).sum() / (labels != IGNORED).sum().clamp_min(1)


def noised(clean: Tensor, alphas: Tensor, generator: torch.Generator) -> Tensor:
    """``(B, C, h, w)`` latents with fresh noise at cumulative alphas ``(B,)``."""
    a = alphas[:, None, None, None]
    return a.sqrt() * clean + (1 - a).sqrt() * torch.randn(clean.shape, generator=generator).to(clean.device)


def reader_stage(
    work: Path, device: torch.device | str, seed: int, *, batch: int = 128, widths: tuple[int, ...] = WIDTHS
) -> Stage:
    """Stage "reader"; needs the data set, the text encoder and the VAE.

    Raises:
        FileNotFoundError: a stage before has not been trained; says which.
    """
    from safetensors.torch import save_file

    from headsculpt.priors.train_unet import open_frozen

    frozen = open_frozen(work, device)
    torch.manual_seed(seed)
    reader = Reader(frozen.latents.shape[1], widths).to(device)
    alphas = frozen.scheduler.alphas_cumprod.to(device)
    labels = all_labels(frozen.portraits)
    held_out = len(labels) // 32  # the last images, for the log

    def read(indices: Tensor, generator: torch.Generator) -> tuple[dict[str, Tensor], Tensor]:
        latents = torch.from_numpy(frozen.latents[indices.numpy()]).to(device).float()
        t = (torch.rand(len(indices), generator=generator) * NOISIEST * len(alphas)).long()
        a = alphas[t.to(device)]
        with mixed(device):
            return reader(noised(latents, a, generator), a), labels[indices].to(device)

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        indices = torch.randint(max(len(labels) - held_out, 1), (batch,), generator=generator)
        figures = {}
        if step % 20 == 19 and held_out:
            with torch.no_grad():
                unseen = len(labels) - held_out + torch.randint(held_out, (batch,), generator=generator)
                logits, truth = read(unseen, generator)
                right = torch.stack([logits[name].argmax(-1) for name in VALUES], 1) == truth
                figures["held_out"] = float(right[truth != IGNORED].float().mean())
        return reading_loss(*read(indices, generator)), figures

    def export(model: nn.Module) -> None:
        folder = work / "reader"
        folder.mkdir(parents=True, exist_ok=True)
        save_file(model.state_dict(), folder / FILE, metadata=_trained_on(work))

    return Stage("reader", reader, loss, export, batch, learning_rate=1e-3, ema_decay=0.998, muon=True)


def _trained_on(work: Path) -> dict[str, str]:
    """What a reader depends on; one key, since safetensors writes several in any order."""
    return {"trained_on": json.dumps({"vae": weights_stamp(work / "modules" / "vae"), "values": VALUES})}


def load_reader(work: Path, device: torch.device | str) -> Reader | None:
    """The trained reader of a work folder, frozen; None where there is none.

    Raises:
        ValueError: it was trained on latents of another VAE, or on other attributes.
    """
    from safetensors import safe_open

    path = work / "reader" / FILE
    if not path.exists():
        return None
    with safe_open(path, "pt") as file:
        known = file.metadata()
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
    if known != _trained_on(work):
        raise ValueError(
            f"{path} was trained on latents of another VAE or on other attributes than those of {work}; delete "
            f"{path.parent} and train it again: headsculpt train-prior reader --work {work}"
        )
    widths = tuple(len(state[f"blocks.{i}.0.first.weight"]) for i in range(len(WIDTHS)))
    reader = Reader(state["conv_in.weight"].shape[1], widths)
    reader.load_state_dict(state)
    return reader.to(device).eval().requires_grad_(False)

"""A small CLIP (Radford et al. 2021) on the portrait world, for metrics alone: it never guides a sculpture.

Captions are partial: "a man" is true of half of the batch, and the plain contrastive loss would push all of
these pictures away from it. Here it is known what every caption says and what every picture shows, so a pair
counts as a negative only where the caption names something that the picture visibly contradicts; all others
are left out of the sum (false-negative cancellation, Huynh et al. 2022, with the truth in place of a guess).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from headsculpt.devices import mixed
from headsculpt.evaluation.metrics import CLIP_MEAN, CLIP_STD, embedding_tensor
from headsculpt.priors import mini
from headsculpt.priors.dataset import VIEWS_PER_FIGURE, Portraits, open_dataset
from headsculpt.priors.train_text import FIELDS, SIDES, VIEW_CLASSES, labels_of, save_module
from headsculpt.priors.train_vae import to_tensor
from headsculpt.priors.training import Stage
from headsculpt.synthesis.attributes import VALUES
from headsculpt.synthesis.captions import caption, view_class

# 4.4 M parameters in all. Patches of 16 pixels: spectacle rims are two pixels wide, and the first layer's 768
# numbers a patch keep them; smaller patches cost four times as much attention for the same rims.
VISION: dict[str, Any] = dict(
    hidden_size=192, intermediate_size=768, num_hidden_layers=4, num_attention_heads=4, image_size=128,
    patch_size=16, hidden_act="quick_gelu",
)  # fmt: skip
TEXT: dict[str, Any] = dict(
    hidden_size=192, intermediate_size=768, num_hidden_layers=4, num_attention_heads=4,
    max_position_embeddings=mini.TEXT_LENGTH, hidden_act="quick_gelu",
)  # fmt: skip
PROJECTION = 128
TINY_VISION = VISION | dict(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
TINY_TEXT = TEXT | dict(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
MAX_LOGIT_SCALE = math.log(100.0)  # as in CLIP


def make_clip(tokenizer: Any, vision: Mapping[str, Any] = VISION, text: Mapping[str, Any] = TEXT) -> Any:
    """A fresh CLIP for this tokenizer's vocabulary."""
    from transformers import CLIPConfig, CLIPModel

    words = dict(
        vocab_size=len(tokenizer), bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, projection_dim=PROJECTION,
    )  # fmt: skip
    return CLIPModel(
        CLIPConfig(
            text_config={**text, **words},
            vision_config={**vision, "projection_dim": PROJECTION},
            projection_dim=PROJECTION,
        )
    )


def shown_truth(portraits: Portraits) -> tuple[NDArray, NDArray]:
    """What every picture shows, over ``FIELDS``.

    Returns:
        values ``(N, F)`` int64 in the order of ``FIELDS``, and ``(N, F)`` bool, False where the picture does
        not show the field (the glasses of a head seen from behind).
    """
    from headsculpt.synthesis.visibility import visible_families

    values = np.zeros((len(portraits), len(FIELDS)), np.int64)
    visible = np.ones((len(portraits), len(FIELDS)), bool)
    columns = {name: column for column, name in enumerate(FIELDS)}
    for i, (azimuth, elevation, half) in enumerate(portraits.views.tolist()):
        person = portraits.attributes[i // VIEWS_PER_FIGURE]
        seen = visible_families(person, azimuth, half, elevation)
        for name, known in VALUES.items():
            values[i, columns[name]] = known.index(getattr(person, name))
            visible[i, columns[name]] = name in seen
        view, side = view_class(azimuth)
        values[i, columns["view"]] = VIEW_CLASSES.index(view)
        values[i, columns["side"]] = SIDES.index(side)
    return values, visible


def contradicted(said: Tensor, values: Tensor, visible: Tensor) -> Tensor:
    """Which pictures visibly contradict which captions.

    Args:
        said: ``(T, F)`` int64, what each caption says; the number of a field's values means "not said".
        values: ``(I, F)`` int64, what each picture shows.
        visible: ``(I, F)`` bool.

    Returns:
        ``(T, I)`` bool.
    """
    unsaid = torch.tensor(list(FIELDS.values()), device=said.device)
    against = (said[:, None] != values[None]) & (said != unsaid)[:, None] & visible[None]
    return against.any(-1)


def contrastive_loss(similarity: Tensor, negative: Tensor) -> Tensor:
    """Symmetric cross-entropy of matching pairs (Radford et al. 2021, figure 3) over true negatives alone.

    Args:
        similarity: ``(B, B)`` logits, captions by pictures; pair i is the i-th of each.
        negative: ``(B, B)`` bool; pairs that are neither negatives nor on the diagonal are left out.
    """
    own = torch.eye(len(similarity), dtype=torch.bool, device=similarity.device)
    logits = similarity.float().masked_fill(~(negative | own), -1e4)
    labels = torch.arange(len(logits), device=logits.device)
    return 0.5 * (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels))


def clip_stage(
    work: Path, device: torch.device | str, seed: int, *, batch: int = 128,
    vision: Mapping[str, Any] = VISION, text: Mapping[str, Any] = TEXT,
) -> Stage:  # fmt: skip
    """Stage "clip"; needs the data set and the tokenizer."""
    from transformers import CLIPTokenizer

    modules = work / "modules"
    if not (modules / "tokenizer" / "tokenizer.json").exists():
        raise FileNotFoundError(
            f"{modules / 'tokenizer'} is missing; train it first: headsculpt train-prior text --work {work}"
        )
    portraits = open_dataset(work / "data")
    tokenizer = CLIPTokenizer.from_pretrained(modules / "tokenizer")
    values, visible = (torch.from_numpy(part) for part in shown_truth(portraits))
    torch.manual_seed(seed)
    model = make_clip(tokenizer, vision, text).to(device)
    mean, deviation = (torch.tensor(v, device=device)[:, None, None] for v in (CLIP_MEAN, CLIP_STD))

    def captions(indices: NDArray, rng: np.random.Generator) -> tuple[list[str], Tensor]:
        texts, said = [], []
        for i in indices.tolist():
            azimuth, elevation, half = portraits.views[i].tolist()
            person = portraits.attributes[i // VIEWS_PER_FIGURE]
            words = caption(person, rng, azimuth_deg=azimuth, elevation_deg=elevation, half_height=half)
            texts.append(words.text)
            said.append(labels_of(person, words.named, words.text, azimuth))
        return texts, torch.tensor(said)

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        indices = torch.randint(len(portraits), (batch,), generator=generator)
        rng = np.random.default_rng(int(torch.randint(2**31, (), generator=generator)))
        texts, said = captions(indices.numpy(), rng)
        ids = mini.tokenise(tokenizer, texts)
        longest = int((ids != tokenizer.eos_token_id).sum(1).max()) + 1  # attention is causal: the rest is padding
        pixels = (to_tensor(portraits.images(indices.numpy()), device) + 1) / 2
        # Renders of a sculpture are lit otherwise than the world's: a little brighter or darker (ours).
        gain = 0.85 + 0.3 * torch.rand(batch, 1, 1, 1, generator=generator).to(device)
        pixels = ((pixels * gain).clamp(0, 1) - mean) / deviation
        with torch.no_grad():
            model.logit_scale.clamp_(max=MAX_LOGIT_SCALE)
        with mixed(device):
            pictures = embedding_tensor(model.get_image_features(pixel_values=pixels))
            sentences = embedding_tensor(model.get_text_features(input_ids=ids[:, :longest].to(device)))
        pictures, sentences = (F.normalize(part.float(), dim=-1) for part in (pictures, sentences))
        similarity = model.logit_scale.exp() * sentences @ pictures.T
        negative = contradicted(said, values[indices], visible[indices]).to(device)
        with torch.no_grad():
            nearest = similarity.argmax(1)
            # Right where the nearest picture is one that the caption is true of.
            right = ~negative[torch.arange(batch, device=negative.device), nearest]
        figures = {"right": float(right.float().mean()), "negatives": float(negative.float().mean())}
        return contrastive_loss(similarity, negative), figures

    def export(trained: Any) -> None:
        save_module(trained, modules / "clip")
        save_processor(modules / "clip", int(vision["image_size"]))

    return Stage(
        "clip", model, loss, export, batch, learning_rate=5e-4, weight_decay=0.05, betas=(0.9, 0.98),
        ema_decay=0.995, modules={"clip": model},
    )  # fmt: skip


def save_processor(folder: Path, size: int) -> None:
    """Write the sizes and colours that transformers' CLIP image processor reads."""
    import json

    settings = {
        "image_processor_type": "CLIPImageProcessor", "do_resize": True, "size": {"shortest_edge": size},
        "do_center_crop": True, "crop_size": {"height": size, "width": size}, "do_convert_rgb": True,
        "do_rescale": True, "rescale_factor": 1 / 255, "resample": 3, "do_normalize": True,
        "image_mean": list(CLIP_MEAN), "image_std": list(CLIP_STD),
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")

"""The text encoder, trained on text alone: its end state must tell what the caption says.

Captions cost nothing, so before any image is seen the encoder learns to read: from the end token's final
state one linear head per attribute family names the value, or that none was said; two more read the view.
The heads are then dropped and the encoder stays frozen. Trained together with the UNet instead, a fresh
encoder would have to learn the language from a hundred thousand noisy images.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headsculpt.devices import mixed
from headsculpt.priors import mini
from headsculpt.priors.training import Stage
from headsculpt.synthesis import wording
from headsculpt.synthesis.attributes import VALUES, Attributes
from headsculpt.synthesis.captions import caption, sample_attributes, view_class
from headsculpt.synthesis.instructions import sample_edit

VIEW_CLASSES = tuple(wording.VIEWS)
SIDES = ("left", "right")
FIELDS = {**{name: len(values) for name, values in VALUES.items()}, "view": len(VIEW_CLASSES), "side": 2}
INSTRUCTION_SHARE = 0.15
POOL = 16  # batches that are sorted by length together


class Reader(nn.Module):
    """The text encoder with one head per field; class ``n`` of a field of ``n`` values is "not said"."""

    def __init__(self, encoder: nn.Module, width: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.heads = nn.ModuleDict({name: nn.Linear(width, count + 1) for name, count in FIELDS.items()})

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        state = self.encoder(ids).pooler_output
        return {name: head(state) for name, head in self.heads.items()}


def labels_of(attributes: Attributes, named: frozenset[str], text: str, azimuth: float | None) -> list[int]:
    """What a text says of each of ``FIELDS``: the number of the value, or the number of values for "not said"."""
    labels = [
        values.index(getattr(attributes, name)) if name in named else len(values)
        for name, values in VALUES.items()
    ]
    view, side = len(VIEW_CLASSES), len(SIDES)
    if azimuth is not None:
        name, seen_from = view_class(azimuth)
        low = text.lower()
        said = [p for p in wording.VIEWS[name] if p.format(side=seen_from).lower() in low]
        if said:
            view = VIEW_CLASSES.index(name)
            if any("{side}" in phrase for phrase in said):
                side = SIDES.index(seen_from)
    return [*labels, view, side]


def labelled_texts(count: int, rng: np.random.Generator) -> tuple[list[str], np.ndarray]:
    """Captions and, among them, edit instructions, whose labels are the values that the edit asks for.

    Returns:
        texts, and labels ``(count, len(FIELDS))`` int64.
    """
    texts, labels = [], []
    for _ in range(count):
        person = sample_attributes(rng)
        if rng.random() < INSTRUCTION_SHARE:
            after, text = sample_edit(person, rng)
            changed = frozenset(name for name in VALUES if getattr(after, name) != getattr(person, name))
            texts.append(text)
            labels.append(labels_of(after, changed, text, None))
            continue
        azimuth, elevation = float(rng.uniform(-180, 180)), float(rng.uniform(-15, 35))
        half = float(rng.uniform(0.5, 1.05))
        said = caption(person, rng, azimuth_deg=azimuth, elevation_deg=elevation, half_height=half)
        texts.append(said.text)
        labels.append(labels_of(person, said.named, said.text, azimuth))
    return texts, np.asarray(labels, np.int64)


def corpus(count: int, seed: int) -> list[str]:
    """Texts for the tokenizer: captions and instructions."""
    return labelled_texts(count, np.random.default_rng([seed, 1]))[0]


def text_stage(
    work: Path, device: torch.device | str, seed: int, *, config: dict = mini.TEXT, batch: int = 64,
    corpus_size: int = 20_000,
) -> Stage:  # fmt: skip
    """Stage "text": makes ``modules/tokenizer`` at once if it is not there, and trains the encoder."""
    from transformers import CLIPTokenizer

    modules = work / "modules"
    if not (modules / "tokenizer" / "tokenizer.json").exists():
        mini.save_tokenizer(mini.make_tokenizer(corpus(corpus_size, seed)), modules / "tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(modules / "tokenizer")
    torch.manual_seed(seed)
    reader = Reader(mini.make_text_encoder(tokenizer, config), config["hidden_size"]).to(device)

    pool: dict[int, list[tuple[Tensor, Tensor]]] = {}

    def batches(group: int) -> list[tuple[Tensor, Tensor]]:
        """:data:`POOL` batches, each of texts of like length: half of the padding, twice the speed."""
        if group not in pool:
            rng = np.random.default_rng([seed, 2, group])
            texts, labels = labelled_texts(POOL * batch, rng)
            ids = mini.tokenise(tokenizer, texts)
            lengths = (ids != tokenizer.eos_token_id).sum(1) + 1
            order = torch.argsort(lengths, stable=True).reshape(POOL, batch)
            pool.clear()
            # Attention is causal: cutting the padding after the longest text leaves every end state as it is.
            pool[group] = [
                (ids[order[i], : int(lengths[order[i]].max())], torch.from_numpy(labels)[order[i]])
                for i in rng.permutation(POOL)
            ]
        return pool[group]

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        ids, target = (part.to(device) for part in batches(step // POOL)[step % POOL])
        with mixed(device):
            scores = reader(ids)
        losses, right = [], []
        for column, name in enumerate(FIELDS):
            losses.append(F.cross_entropy(scores[name].float(), target[:, column]))
            right.append((scores[name].argmax(-1) == target[:, column]).float().mean())
        return torch.stack(losses).sum(), {"right": float(torch.stack(right).mean())}

    def export(model: Reader) -> None:
        save_module(model.encoder, modules / "text_encoder")

    return Stage(
        "text", reader, loss, export, batch, learning_rate=1e-3, ema_decay=0.99, weight_decay=0.01,
        betas=(0.9, 0.98),
    )  # fmt: skip


def save_module(module: Any, folder: Path) -> None:
    """Write a diffusers or transformers model as float16 safetensors, leaving ``module`` as it is."""
    from copy import deepcopy

    copied = deepcopy(module).cpu()
    for parameter in copied.parameters():  # module.to(dtype) has diffusers warn about layers it has not
        parameter.data = parameter.data.to(torch.float16)
    copied.save_pretrained(folder, safe_serialization=True)
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    if config.pop("_name_or_path", None) is not None:  # the trainer's own folder, where the weights came from
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

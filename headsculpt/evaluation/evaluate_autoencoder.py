"""What a prior's autoencoder keeps of portraits that it has never seen.

``python -m headsculpt.evaluation.evaluate_autoencoder --prior mini --count 128 --out DIR`` prints the figures.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

if TYPE_CHECKING:
    from headsculpt.priors.prior import Prior

FRONT_DEG = 40.0  # of the table by family: views within this of the front, where all families show
BUST = 0.65  # half height in scene units from which a view is a bust, and below it a close-up


@torch.no_grad()
def evaluate_autoencoder(
    count: int = 128, *, prior: Prior | str = "mini", seed: int = 10_007, out: str | Path | None = None
) -> dict[str, Any]:
    """Decoded encodings of fresh renders of the portrait world: their error, and what is read off them.

    Args:
        count: number of images; four of each random figure.
        prior: loaded, or a name or folder for ``load_prior``.
        seed: of the figures; far from the training set's shards, which are ``(seed, shard number)``.
        out: folder for ``autoencoder.json`` and a sheet, renders above and reconstructions below.

    Returns:
        Peak signal-to-noise ratio ``psnr_db`` over all pixels and ``face_psnr_db`` over the box of the visible
        landmarks, ``count``, and the per cent of visible attributes that the package's judge reads right: ``read``
        off the renders, ``read_back`` off what comes back of them. What the prior draws can hardly be read better.
        ``families``: of each family, from the front, ``bust`` and ``close_up``, each the counts [read right, read back
        right, visible].

    Raises:
        ValueError: count below 1.
    """
    from headsculpt.devices import mixed
    from headsculpt.evaluation.judge import load_judge
    from headsculpt.priors.catalogue import load_prior
    from headsculpt.priors.dataset import render_portraits
    from headsculpt.priors.sampling import decode
    from headsculpt.priors.train_vae import to_tensor
    from headsculpt.synthesis.attributes import VALUES
    from headsculpt.synthesis.captions import sample_attributes
    from headsculpt.synthesis.visibility import IGNORED, visible_labels

    if count < 1:
        raise ValueError(f"count must be at least 1; got {count}")
    loaded: Any = load_prior(prior) if isinstance(prior, str) else prior
    rng = np.random.default_rng([seed, 1])
    errors: list[float] = []
    face_errors: list[float] = []
    shown: list[np.ndarray] = []
    judge = load_judge()
    hits: dict[str, list[bool]] = {"read": [], "read_back": []}
    families = {family: {"bust": [0, 0, 0], "close_up": [0, 0, 0]} for family in VALUES}
    while len(errors) < count:
        person = sample_attributes(rng)
        images, views, landmarks = render_portraits(person, rng, int(loaded.image_size))
        with mixed("cpu"):
            latents = loaded.vae.encode(to_tensor(images, "cpu")).latent_dist.mean.float()
        back = decode(loaded.vae, latents * loaded.vae.config.scaling_factor).numpy()
        labels = torch.tensor([visible_labels(person, *map(float, view)) for view in views])
        front, bust = np.abs(views[:, 0]) <= FRONT_DEG, views[:, 2] >= BUST
        for k, (name, pictures) in enumerate((("read", images / 255.0), ("read_back", back))):
            outputs = judge.outputs(torch.from_numpy(pictures).permute(0, 3, 1, 2))
            right = torch.stack([outputs[family].argmax(-1) for family in VALUES], 1) == labels
            hits[name] += right[labels != IGNORED].tolist()
            for family, correct, label in zip(VALUES, right.T.numpy(), labels.T.numpy(), strict=True):
                for framing, framed in (("bust", front & bust), ("close_up", front & ~bust)):
                    seen_here = framed & (label != IGNORED)
                    families[family][framing][k] += int((correct & seen_here).sum())
                    families[family][framing][2] += int(seen_here.sum()) if k == 0 else 0
        square = (back - images / 255.0) ** 2
        for error, points in zip(square, landmarks, strict=True):
            errors.append(float(error.mean()))
            seen = points[points[:, 2] > 0.5, :2]
            if len(seen) > 3:
                (left, top), (right, bottom) = (
                    np.floor(seen.min(0)).astype(int),
                    np.ceil(seen.max(0)).astype(int),
                )
                box = error[max(top, 0) : bottom + 1, max(left, 0) : right + 1]
                face_errors += [float(box.mean())] if box.size else []
        shown.append(np.concatenate([images[0], (back[0] * 255).round().astype(np.uint8)]))

    def psnr(values: list[float]) -> float | None:
        return round(float(-10 * np.log10(np.mean(values))), 2) if values else None

    result: dict[str, Any] = {"psnr_db": psnr(errors), "face_psnr_db": psnr(face_errors), "count": len(errors)}
    result |= {name: round(100 * float(np.mean(seen)), 2) for name, seen in hits.items()}
    result["families"] = families
    if out is not None:
        Path(out).mkdir(parents=True, exist_ok=True)
        (Path(out) / "autoencoder.json").write_text(json.dumps(result) + "\n", encoding="utf-8")
        Image.fromarray(np.concatenate(shown[:12], 1)).save(Path(out) / "autoencoder.png")
    return result


def autoencoder_table(result: dict[str, Any]) -> str:
    """Markdown of ``families``: per cent read right off portraits, and off what comes back of them."""
    lines = ["| family, from the front | busts | come back | close-ups | come back |", "|---|---|---|---|---|"]
    for family, framings in result["families"].items():
        cells = []
        for right, back, visible in framings.values():
            cells += [f"{100 * n / visible:.0f} %" if visible else "" for n in (right, back)]
        lines.append(f"| {family} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prior", default="mini")
    parser.add_argument("--count", type=int, default=128)
    parser.add_argument("--seed", type=int, default=10_007)
    parser.add_argument("--out", type=Path)
    measured = evaluate_autoencoder(**vars(parser.parse_args()))
    print(autoencoder_table(measured))
    print(json.dumps({name: figure for name, figure in measured.items() if name != "families"}))

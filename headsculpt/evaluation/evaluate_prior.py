"""What a prior draws by itself, before any sculpting: attributes and landmarks read off its samples.

``python -m headsculpt.evaluation.evaluate_prior --prior mini --count 500 --out DIR`` prints both tables.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from headsculpt.evaluation.contact_sheet import contact_sheet
from headsculpt.evaluation.judge import Judge, load_judge
from headsculpt.run_folder import write_atomically
from headsculpt.synthesis.attributes import VALUES, Attributes
from headsculpt.synthesis.visibility import visible_families

if TYPE_CHECKING:
    from headsculpt.priors.prior import Prior

log = logging.getLogger(__name__)

FRONT_DEG = 40.0  # captions ask for views within this of the front
NEEDED_TOTAL, NEEDED_FAMILY, NEEDED_LANDMARKS = 0.90, 0.75, 0.03


def sample_images(
    prior: Any,
    texts: list[str],
    *,
    seed: int = 0,
    steps: int = 25,
    guidance_scale: float = 7.5,
    conditions: Tensor | None = None,
    control_guided: bool = True,
    batch: int = 25,
) -> Iterator[Tensor]:
    """Batches ``(b, 3, H, W)`` float32 in [0, 1] of samples: DDIM with classifier-free guidance.

    Args:
        prior: a loaded ``Prior``; its ``landmarks`` ControlNet is used where ``conditions`` are given.
        texts: captions, one a sample.
        seed: of the initial noise.
        steps, guidance_scale, control_guided: as in :func:`headsculpt.priors.sampling.sample_latents`.
        conditions: ``(N, 3, H, W)`` landmark maps in [0, 1], or None.
        batch: samples at once.
    """
    from headsculpt.priors.sampling import decode, embed, sample_latents

    if conditions is not None and "landmarks" not in prior.controlnets:
        raise ValueError(
            f"prior {prior.name!r} has no landmark ControlNet; it has {sorted(prior.controlnets)}"
        )
    generator = torch.Generator().manual_seed(seed)
    empty = embed(prior.tokenizer, prior.text_encoder, [""])
    for start in range(0, len(texts), batch):
        text = embed(prior.tokenizer, prior.text_encoder, texts[start : start + batch])
        latents = sample_latents(
            prior.unet,
            prior.scheduler,
            text,
            empty,
            generator,
            steps=steps,
            guidance_scale=guidance_scale,
            controlnet=None if conditions is None else prior.controlnets["landmarks"],
            condition=None if conditions is None else conditions[start : start + batch],
            control_guided=control_guided,
        )
        yield decode(prior.vae, latents).permute(0, 3, 1, 2).cpu()


def evaluate_prior(
    count: int = 500,
    *,
    prior: Prior | str = "mini",
    judge: Judge | None = None,
    seed: int = 1,
    guidance_scale: float = 7.5,
    steps: int = 25,
    described: bool = False,
    out: str | Path | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Samples for random captions, and how many of the named attributes the judge reads as named.

    A family counts where the caption names it and the picture can show it: see
    :func:`headsculpt.synthesis.visibility.visible_families`, with the framing that the judge estimates, since a
    caption leaves the framing open.

    Args:
        count: number of captions.
        prior: loaded, or a name or folder for ``load_prior``.
        judge: None loads the one of the package.
        seed: of captions and noise.
        guidance_scale, steps: of the sampler.
        described: draw each sample under the landmarks of the head that its caption describes, as in sculpting.
        out: folder for ``prior.json``, ``prior.md`` and a sheet of the first samples; None writes nothing.
        device: for the prior.

    Returns:
        ``families`` (name to [right, asked]), ``right``, ``asked``, ``percent``, ``worst`` and ``passed``.
    """
    from headsculpt.synthesis.captions import caption, sample_attributes, view_phrase

    if count < 1:
        raise ValueError(f"count must be at least 1; got {count}")
    judge, prior = judge or load_judge(), _loaded(prior, device)
    rng = np.random.default_rng(seed)
    people, named, azimuths, texts = [], [], [], []
    for _ in range(count):
        person, azimuth = sample_attributes(rng), float(rng.uniform(-FRONT_DEG, FRONT_DEG))
        said = caption(person, rng)
        people.append(person)
        named.append(said.named)
        azimuths.append(azimuth)
        texts.append(f"{said.text.rstrip('.')}, {view_phrase(azimuth)}")
    families: dict[str, list[int]] = {name: [0, 0] for name in VALUES}
    sheet: list[tuple[str, list[Image.Image]]] = []
    place, started = 0, time.monotonic()
    conditions = described_landmarks(prior, texts, azimuths, rng) if described else None
    # Not guided towards them: hats would give way to the faces that landmarks most often come with.
    drawing: dict[str, Any] = dict(conditions=conditions, control_guided=False)
    for images in sample_images(prior, texts, seed=seed, steps=steps, guidance_scale=guidance_scale, **drawing):
        readings, framings = judge.read(images), judge.half_height(images).tolist()
        for row, image in enumerate(images):
            wrong = _count(
                families, readings, row, people[place], named[place], azimuths[place], framings[row]
            )
            if len(sheet) < 48:
                words = texts[place] + (f" [wrong: {', '.join(wrong)}]" if wrong else "")
                sheet.append((words, [_picture(image)]))
            place += 1
        log.info("%d of %d samples", place, count)
    result = _totals(families) | {
        "count": count, "prior": prior.name, "described": described, "guidance_scale": guidance_scale,
        "sampler_steps": steps,
        "seconds": round(time.monotonic() - started, 1), "judge_accuracy": judge.accuracy.get("all"),
    }  # fmt: skip
    if out is not None:
        _write(Path(out), "prior", result, prior_table(result))
        contact_sheet(sheet, Path(out) / "prior_samples.png", cell=192, columns=8)
    return result


def described_landmarks(prior: Prior, texts: list[str], azimuths: list[float], rng: np.random.Generator) -> Tensor:
    """Landmark maps ``(N, 3, size, size)`` of the heads that captions describe on average, in [0, 1].

    Args:
        prior: with ``text_to_head``.
        texts: N captions.
        azimuths: degrees, of the views.
        rng: of the framings, half heights of 0.5 to 0.8 scene units: a head, or a head with its shoulders.

    Raises:
        ValueError: the prior knows no heads.
    """
    from headsculpt.cameras import framed
    from headsculpt.guidance.landmark_control import LandmarkControl
    from headsculpt.heads.builtin import builtin_head
    from headsculpt.synthesis.reading import read_prompt

    if prior.text_to_head is None:
        raise ValueError(f"prior {prior.name!r} has no text_to_head.safetensors, so captions describe no head to it")
    head, size, maps = builtin_head(), int(prior.image_size), []
    for text, azimuth in zip(texts, azimuths, strict=True):
        vertices = head.vertices(*prior.text_to_head(prior, text))
        wears = map(str, read_prompt(text).values.values())
        control = LandmarkControl(vertices, head.faces, dict(head.landmarks), size=size, wears=wears)
        camera = framed([azimuth], 5.0, float(rng.uniform(0.5, 0.8)), height=size, width=size)
        maps.append(torch.from_numpy(control.maps(camera)[0]).permute(2, 0, 1))
    return torch.stack(maps).float() / 255


def _count(
    families: dict[str, list[int]],
    readings: dict[str, tuple[list, Tensor]],
    row: int,
    person: Attributes,
    named: frozenset[str],
    azimuth_deg: float,
    half_height: float,
) -> list[str]:
    """Adds one sample to the counts; gives what was wrong in words."""
    wrong = []
    for family in sorted(named & visible_families(person, azimuth_deg, half_height)):
        read, truth = readings[family][0][row], getattr(person, family)
        families[family][0] += read == truth
        families[family][1] += 1
        if read != truth:
            wrong.append(f"{read} for {truth}")
    return wrong


def _totals(families: dict[str, list[int]]) -> dict[str, Any]:
    asked = {name: entry for name, entry in families.items() if entry[1]}
    right, total = (sum(entry[i] for entry in asked.values()) for i in (0, 1))
    shares = {name: entry[0] / entry[1] for name, entry in asked.items()}
    worst = min(shares, key=lambda name: shares[name]) if shares else None
    share = right / total if total else 0.0
    passed = bool(shares) and share >= NEEDED_TOTAL and min(shares.values()) >= NEEDED_FAMILY
    return {
        "right": right, "asked": total, "percent": round(100 * share, 1), "worst": worst, "families": asked,
        "passed": passed,
    }  # fmt: skip


def evaluate_landmarks(
    count: int = 100,
    *,
    prior: Prior | str = "mini",
    judge: Judge | None = None,
    seed: int = 2,
    guidance_scale: float = 7.5,
    steps: int = 25,
    out: str | Path | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """How far the faces of samples lie from the landmark maps that they were drawn under.

    Conditions are the landmarks of random figures of the world within 60 degrees of the front, texts their
    captions. The judge re-reads the landmarks off the samples, and for comparison off the world's own
    renders of those figures: the second error is the judge's alone.

    Args:
        As in :func:`evaluate_prior`.

    Returns:
        ``error``, ``judge_error`` (means over seen points, fractions of the width), ``count``, ``passed``.
    """
    from headsculpt.heads.builtin import builtin_head
    from headsculpt.heads.landmarks import draw_landmarks
    from headsculpt.priors.dataset import render_portraits
    from headsculpt.synthesis.captions import caption, sample_attributes, view_phrase

    if count < 1:
        raise ValueError(f"count must be at least 1; got {count}")
    judge, prior = judge or load_judge(), _loaded(prior, device)
    size, rng = int(prior.image_size), np.random.default_rng(seed)
    lengths = {name: len(points) for name, points in builtin_head().landmarks.items()}
    ends = np.cumsum(list(lengths.values()))[:-1]
    renders: list[Tensor] = []
    targets: list[Tensor] = []
    maps: list[Tensor] = []
    texts: list[str] = []
    while len(texts) < count:
        person = sample_attributes(rng)
        images, views, landmarks = render_portraits(person, rng, size)
        row = int(np.abs(views[:, 0]).argmin())
        if abs(views[row, 0]) > 60 or not landmarks[row, :, 2].any():
            continue
        parts = dict(zip(lengths, np.split(landmarks[row], ends), strict=True))
        points = {name: part[:, :2] for name, part in parts.items()}
        seen = {name: part[:, 2] > 0.5 for name, part in parts.items()}
        maps.append(torch.from_numpy(draw_landmarks(points, size, size, visible=seen)).permute(2, 0, 1))
        renders.append(torch.from_numpy(images[row]).permute(2, 0, 1))
        targets.append(torch.from_numpy(landmarks[row]))
        texts.append(f"{caption(person, rng).text.rstrip('.')}, {view_phrase(float(views[row, 0]))}")
    conditions, target = torch.stack(maps).float() / 255, torch.stack(targets)
    samples = torch.cat(
        list(
            sample_images(
                prior, texts, seed=seed, steps=steps, guidance_scale=guidance_scale, conditions=conditions
            )
        )
    )
    result: dict[str, Any] = {
        "error": round(landmark_error(judge, samples, target, size), 4),
        "judge_error": round(landmark_error(judge, torch.stack(renders).float() / 255, target, size), 4),
        "count": count,
        "prior": prior.name,
    }
    result["passed"] = result["error"] < NEEDED_LANDMARKS
    if out is not None:
        _write(Path(out), "landmarks", result, landmark_table(result))
        triples = zip(conditions, samples, torch.maximum(samples, conditions), strict=True)
        entries = [
            (text, [_picture(p) for p in triple]) for text, triple in zip(texts[:18], triples, strict=False)
        ]
        contact_sheet(entries, Path(out) / "landmark_samples.png", columns=3)
    return result


def landmark_error(judge: Judge, images: Tensor, target: Tensor, size: int) -> float:
    """Mean distance of re-read from given points, over the seen ones, as a fraction of the picture's width.

    Args:
        judge: with landmarks.
        images: ``(B, 3, size, size)``.
        target: ``(B, K, 3)`` column and row in pixels, and 1 where seen.
        size: pixels.
    """
    points, _ = judge.landmarks(images)
    distance = (points.cpu() - target[..., :2] / size).norm(dim=-1)
    return float(distance[target[..., 2] > 0.5].mean())


def _loaded(prior: Prior | str, device: str) -> Prior:
    from headsculpt.priors.catalogue import load_prior

    return load_prior(prior, device=device) if isinstance(prior, str) else prior


def _picture(image: Tensor) -> Image.Image:
    return Image.fromarray((image.permute(1, 2, 0).clamp(0, 1) * 255).round().byte().cpu().numpy())


def _write(out: Path, name: str, result: dict[str, Any], table: str) -> None:
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / f"{name}.json", (json.dumps(result, indent=1) + "\n").encode())
    write_atomically(out / f"{name}.md", (table + "\n").encode())


def prior_table(result: dict[str, Any]) -> str:
    """Markdown of :func:`evaluate_prior`."""
    lines = ["| family | right | asked | % |", "|---|---|---|---|"]
    lines += [f"| {name} | {r} | {n} | {100 * r / n:.1f} |" for name, (r, n) in result["families"].items()]
    lines.append(f"| all named attributes | {result['right']} | {result['asked']} | {result['percent']} |")
    verdict = "passed" if result["passed"] else "not passed"
    lines += ["", f"{result['count']} captions; 90 % over all and 75 % in each family: {verdict}."]
    return "\n".join(lines)


def landmark_table(result: dict[str, Any]) -> str:
    """Markdown of :func:`evaluate_landmarks`."""
    verdict = "passed" if result["passed"] else "not passed"
    return (
        f"Landmarks re-read from {result['count']} samples: mean error {100 * result['error']:.2f} % of the width "
        f"(under 3 %: {verdict}); the judge's own error on the world's renders: {100 * result['judge_error']:.2f} %."
    )


def main(arguments: list[str] | None = None) -> int:
    """Command line; exit status 0 when measured, 1 when something is missing."""
    parser = argparse.ArgumentParser(
        prog="python -m headsculpt.evaluation.evaluate_prior", description=__doc__
    )
    parser.add_argument("--prior", default="mini", help="name or folder")
    parser.add_argument("--count", type=int, default=500, help="captions")
    parser.add_argument("--landmarks", type=int, default=100, help="landmark maps; 0 leaves them out")
    parser.add_argument("--described", action="store_true", help="under the landmarks of the heads described")
    parser.add_argument("--guidance-scale", type=float, default=7.5)
    parser.add_argument("--steps", type=int, default=25, help="of the sampler")
    parser.add_argument("--out", type=Path, help="folder for the tables and sheets")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if given.threads:
        torch.set_num_threads(given.threads)
    try:
        prior = _loaded(given.prior, given.device)
        common: dict[str, Any] = {
            "prior": prior, "guidance_scale": given.guidance_scale, "steps": given.steps, "out": given.out,
        }  # fmt: skip
        print(prior_table(evaluate_prior(given.count, described=given.described, **common)))
        if given.landmarks:
            print(landmark_table(evaluate_landmarks(given.landmarks, **common)))
    except (ValueError, OSError, RuntimeError) as error:
        print(f"evaluate_prior: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

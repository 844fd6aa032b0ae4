"""CLIP's figures of an evaluation: score and R-precision of its heads, direction of its edits (method A.12).

``python -m headsculpt.evaluation.evaluate_clip DIR --clip mini`` reads a folder that ``headsculpt evaluate`` wrote
and prints them; ``DIR/clip.json`` keeps them. CLIP never guides the sculpting.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from headsculpt.evaluation import metrics
from headsculpt.evaluation.evaluate import READ_VIEWS, views_of
from headsculpt.run_folder import write_atomically

if TYPE_CHECKING:
    from headsculpt.avatar import Avatar

VIEWS = READ_VIEWS[:5]  # front, three-quarter and side, both ways
Clip = tuple[Any, Any]  # model and tokenizer, of :func:`.metrics.load_clip`


def head_figures(clip: Clip, avatar: Avatar, prompt: str, others: Sequence[str]) -> dict[str, float]:
    """CLIP score and R-precision of one head, means over five views.

    Args:
        clip: model and tokenizer.
        avatar: the head.
        prompt: its own.
        others: prompts that its views must not be nearer to.
    """
    images, texts = views_of(avatar, VIEWS), [prompt] * len(VIEWS)
    return {
        "clip_s": metrics.clip_score(*clip, images, texts),
        "clip_r": metrics.r_precision(*clip, images, texts, others),
    }


def edit_figures(clip: Clip, source: Avatar, avatar: Avatar) -> dict[str, float]:
    """Directional similarity of one edit, mean over five views.

    Args:
        clip: model and tokenizer.
        source, avatar: the head before and after; where the edit left the prompt as it was, the instruction is
            added to it.
    """
    before, after = source.info.prompt, avatar.info.prompt
    if after == before:
        after = f"{before}, {avatar.info.instruction}"
    value = metrics.directional_similarity(
        *clip, views_of(source, VIEWS), views_of(avatar, VIEWS), [before] * len(VIEWS), [after] * len(VIEWS)
    )
    return {"clip_ds": value}


def evaluate_clip(folder: str | Path, *, clip: Clip | str | Path = "mini") -> dict[str, Any]:
    """CLIP's figures of all heads and edits of an evaluation that are there.

    Args:
        folder: that ``headsculpt evaluate`` wrote.
        clip: loaded, or what ``load_clip`` takes.

    Returns:
        ``clip_s``, ``clip_r`` and ``clip_ds`` (means; None where there is nothing), ``heads`` and ``edits`` (counts),
        and ``each``, folder to its figures. Written to ``clip.json`` as well.

    Raises:
        FileNotFoundError: the folder holds no results, or the CLIP is missing.
    """
    from headsculpt.avatar import Avatar

    folder = Path(folder)
    path = folder / "results.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing; sculpt first: headsculpt evaluate prompts.json --preset mini --out {folder}"
        )
    results = json.loads(path.read_text(encoding="utf-8"))
    loaded = metrics.load_clip(clip) if isinstance(clip, str | Path) else clip
    heads = [h for h in results["prompts"]["heads"] if not h["error"]]
    prompts, place = [h["text"] for h in heads], {h["text"]: h["folder"] for h in heads}
    each: dict[str, dict[str, float]] = {}
    with torch.no_grad():
        for head in heads:
            each[head["folder"]] = head_figures(
                loaded, Avatar.load(folder / head["folder"]), head["text"], prompts
            )
        edits = [e for e in results["edits"]["heads"] if not e["error"]]
        for edit in edits:
            prompt = edit["text"].split(" -> ")[0]
            if prompt in place:
                source, after = (Avatar.load(folder / name) for name in (place[prompt], edit["folder"]))
                each[edit["folder"]] = edit_figures(loaded, source, after)

    def mean(name: str) -> float | None:
        values = [figures[name] for figures in each.values() if name in figures]
        return round(sum(values) / len(values), 3) if values else None

    result = {name: mean(name) for name in ("clip_s", "clip_r", "clip_ds")}
    counts = {"heads": len(heads), "edits": sum("clip_ds" in figures for figures in each.values())}
    found = {**result, **counts, "each": each}
    write_atomically(folder / "clip.json", (json.dumps(found, indent=1) + "\n").encode())
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m headsculpt.evaluation.evaluate_clip``."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="that headsculpt evaluate wrote")
    parser.add_argument("--clip", default="mini", help="mini, a folder, or an id of the hub's cache")
    given = parser.parse_args(arguments)
    try:
        found = evaluate_clip(given.folder, clip=given.clip)
    except (FileNotFoundError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    shown = {key: "-" if found[key] is None else f"{found[key]:.3f}" for key in ("clip_s", "clip_r", "clip_ds")}
    print(f"{found['heads']} heads: CLIP score {shown['clip_s']}, R-precision {shown['clip_r']} over five views")
    print(f"{found['edits']} edits: directional similarity {shown['clip_ds']}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

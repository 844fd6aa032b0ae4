"""The mini family: tokenizer, resumable training of every stage, export, loading, and messages."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from headsculpt.priors import mini, stages
from headsculpt.priors.catalogue import PriorError, load_prior, random_prior
from headsculpt.priors.dataset import FIGURES_PER_SHARD, open_dataset, render_dataset, sample_views
from headsculpt.priors.sampling import decode, embed, sample_latents
from headsculpt.priors.train_decoder import decoder_stage
from headsculpt.priors.train_text import FIELDS, labelled_texts, text_stage
from headsculpt.priors.train_unet import Denoiser, stratified_timesteps, unet_stage, velocity_loss
from headsculpt.priors.train_upscaler import upscaler_stage
from headsculpt.priors.train_vae import face_boxes, face_weights, standardised, vae_stage
from headsculpt.priors.training import Budget, Stage, export_unfinished, loss_curve, start_from, train

FIGURES = 3


def write_portraits(folder: Path) -> None:
    """A data set in the right format: coloured discs with random landmarks and true captions."""
    from headsculpt.heads.builtin import builtin_head
    from headsculpt.synthesis.captions import caption, sample_attributes

    rng = np.random.default_rng(0)
    contours = {name: len(points) for name, points in builtin_head().landmarks.items()}
    people = [sample_attributes(rng) for _ in range(FIGURES)]
    views = np.concatenate([sample_views(4, rng)[1] for _ in people])
    images = np.full((len(views), 128, 128, 3), 220, np.uint8)
    yy, xx = np.mgrid[:128, :128]
    for image in images:
        image[(yy - 64) ** 2 + (xx - 64) ** 2 < 40**2] = rng.integers(0, 255, 3)
    landmarks = rng.uniform(40, 90, (len(views), sum(contours.values()), 3)).astype(np.float32)
    landmarks[..., 2] = np.arange(len(views))[:, None] % 4 != 3
    captions = [[caption(people[i // 4], rng).text for _ in range(2)] for i in range(len(views))]
    shard = folder / "00000"
    shard.mkdir(parents=True)
    np.save(shard / "images.npy", images)
    np.save(shard / "views.npy", views)
    np.save(shard / "landmarks.npy", landmarks)
    notes = {
        "seed": 0,
        "contours": contours,
        "attributes": [asdict(person) for person in people],
        "captions": captions,
    }
    (shard / "figures.json").write_text(json.dumps(notes))


def tiny_stage(name: str, work: Path) -> Stage:
    if name == "text":
        return text_stage(work, "cpu", 0, config=mini.TINY_TEXT, batch=4, corpus_size=200)
    if name == "vae":
        return vae_stage(work, "cpu", 0, config=mini.TINY_VAE, batch=2)
    if name == "decoder":
        return decoder_stage(work, "cpu", 0, batch=2)
    if name == "upscaler":
        return upscaler_stage(work, "cpu", 0, batch=2)
    return unet_stage(work, "cpu", 0, config=mini.TINY_UNET, batch=4)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder in which every stage of a tiny family was trained for four steps."""
    folder = tmp_path_factory.mktemp("work")
    write_portraits(folder / "data")
    shutil.copytree(folder / "data", folder / "large")
    for name in ("text", "vae", "decoder", "unet", "upscaler"):
        stage = tiny_stage(name, folder)
        stage.sheet = None
        assert train(stage, folder, Budget(steps=4), log_every=1)
    return folder


@pytest.fixture(scope="module")
def family(work: Path) -> Path:
    stages.train_prior("export", work, out=work / "mini")
    return work / "mini"


@pytest.fixture
def broken(family: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(family, tmp_path / "broken"))


# --- tokenizer


def test_tokenizer_reads_any_text_and_survives_a_round_trip(tmp_path: Path) -> None:
    tokenizer = mini.make_tokenizer(["an old man with round glasses", "a woman with red hair"] * 10)
    mini.save_tokenizer(tokenizer, tmp_path)
    from transformers import CLIPTokenizer

    again = CLIPTokenizer.from_pretrained(tmp_path)
    for text in ("An OLD man", "née 漢字 🎩 {}", "", "a " * 500):
        assert torch.equal(mini.tokenise(again, [text]), mini.tokenise(tokenizer, [text]))
    assert again.tokenize("Round GLASSES") == ["round</w>", "glasses</w>"]
    assert again.eos_token_id == len(again) - 1 and again.bos_token_id == len(again) - 2
    assert {"vocab.json", "merges.txt"} <= {path.name for path in tmp_path.iterdir()}


def test_text_encoder_pools_at_the_first_end_token() -> None:
    prior = random_prior("tiny")
    ids = mini.tokenise(prior.tokenizer, ["an old man"])
    output = prior.text_encoder(ids)
    end = (ids[0] == prior.tokenizer.eos_token_id).nonzero()[0, 0]
    assert torch.equal(output.pooler_output[0], output.last_hidden_state[0, end])


def test_labels_are_in_range_and_say_when_nothing_was_said() -> None:
    texts, labels = labelled_texts(200, np.random.default_rng(0))
    counts = np.array(list(FIELDS.values()))
    assert labels.shape == (200, len(FIELDS)) and len(texts) == 200
    assert (labels >= 0).all() and (labels <= counts).all()
    said = (labels < counts).mean(0)
    assert (said > 0).all() and (said < 1).all()


# --- the pieces of the losses


def test_timesteps_cover_the_schedule() -> None:
    t = stratified_timesteps(10, 1000, torch.Generator().manual_seed(0))
    assert (t // 100).tolist() == list(range(10))


def test_velocity_loss_is_zero_for_the_true_velocity() -> None:
    latents, noise = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)
    alphas = torch.tensor([0.9, 1e-9])
    a = alphas[:, None, None, None]
    v = a.sqrt() * noise - (1 - a).sqrt() * latents
    assert velocity_loss(v, latents, noise, alphas) == 0
    assert torch.isfinite(velocity_loss(v + 1, latents, noise, alphas))


def test_velocity_loss_counts_an_error_by_the_weight_of_its_place() -> None:
    latents, noise = torch.randn(2, 4, 4, 4), torch.randn(2, 4, 4, 4)
    alphas = torch.tensor([0.4, 0.6])
    a = alphas[:, None, None, None]
    v = a.sqrt() * noise - (1 - a).sqrt() * latents
    places = torch.ones(2, 1, 4, 4)
    places[:, :, :2] = 4.0
    heavy, light = v.clone(), v.clone()
    heavy[:, :, 0, 0] += 1.0
    light[:, :, 3, 3] += 1.0

    losses = [float(velocity_loss(out, latents, noise, alphas, places)) for out in (heavy, light)]
    assert losses[0] == pytest.approx(4 * losses[1], rel=1e-5)
    plain = [float(velocity_loss(v + 1, latents, noise, alphas, of)) for of in (places, None)]
    assert plain[0] == pytest.approx(plain[1], rel=1e-5)  # the same everywhere: weights change nothing


def test_standardising_latents_keeps_the_images() -> None:
    torch.manual_seed(0)
    vae, pictures = mini.make_vae(mini.TINY_VAE), torch.rand(6, 3, 32, 32) * 2 - 1
    changed = standardised(vae, pictures)
    with torch.no_grad():
        before, after = vae.encode(pictures).latent_dist, changed.encode(pictures).latent_dist
        images, again = vae.decode(before.mean).sample, changed.decode(after.mean).sample
    torch.testing.assert_close(images, again, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(after.mean.mean((0, 2, 3)), torch.zeros(mini.LATENT_CHANNELS), atol=1e-3, rtol=0)
    torch.testing.assert_close(after.mean.std((0, 2, 3)), torch.ones(mini.LATENT_CHANNELS), atol=1e-3, rtol=0)
    ratio, spread = before.std / after.std, before.mean.std((0, 2, 3))
    torch.testing.assert_close(ratio.mean((0, 2, 3)), spread, rtol=1e-3, atol=1e-5)


# --- training


@pytest.mark.parametrize("name", ["text", "vae", "decoder", "unet", "upscaler"])
def test_an_interrupted_stage_ends_where_an_undisturbed_one_does(
    name: str, work: Path, tmp_path: Path
) -> None:
    shutil.copytree(work, tmp_path / "work")
    again = tmp_path / "work"
    shutil.rmtree(again / name)
    if name == "decoder":  # starts from the VAE that it replaced in the end
        export_unfinished(tiny_stage("vae", again), again)
    for finished in (False, True):
        stage = tiny_stage(name, again)
        stage.sheet = None
        assert train(stage, again, Budget(steps=4), pause_after=2, log_every=1) is finished
    one = torch.load(work / name / "state.pt", weights_only=True)
    two = torch.load(again / name / "state.pt", weights_only=True)
    assert one["step"] == two["step"] == 4
    for part in ("parameters", "ema"):
        assert all(torch.equal(a, b) for a, b in zip(one[part], two[part], strict=True))
    log = [json.loads(line) for line in (again / name / "losses.jsonl").read_text().splitlines()]
    assert [record["step"] for record in log] == [1, 2, 3, 4]


def test_the_learned_maps_and_weights_follow_the_landmarks(work: Path) -> None:
    portraits = open_dataset(work / "data")
    maps = portraits.landmark_maps(np.array([0, 3]), 128)
    weights = face_weights(face_boxes(portraits)[[0, 3]], 128)
    assert maps[0].any() and not maps[1].any()
    assert weights[0].max() > 1 and weights[1].max() == 1
    assert loss_curve(work / "vae" / "losses.jsonl") is not None


def test_a_sheet_is_drawn(work: Path, tmp_path: Path) -> None:
    for name in ("vae", "decoder", "unet", "upscaler"):
        stage = tiny_stage(name, work)
        assert stage.sheet is not None
        assert stage.sheet(stage.model).size[0] >= 1024


def test_a_further_training_of_the_decoder_leaves_the_latents_as_they_are(work: Path, tmp_path: Path) -> None:
    shutil.copytree(work, tmp_path / "work")
    again = tmp_path / "work"
    shutil.rmtree(again / "decoder")
    folder = again / "modules" / "vae"
    before, latents = load_file(folder / "diffusion_pytorch_model.safetensors"), again / "latents" / "latents.npy"
    made = latents.stat().st_mtime_ns
    stage = tiny_stage("decoder", again)
    stage.sheet = None
    assert train(stage, again, Budget(steps=3))
    after = load_file(folder / "diffusion_pytorch_model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith(("decoder.", "post_quant_conv.")) for name in changed)
    assert "_name_or_path" not in json.loads((folder / "config.json").read_text())  # that would be the trainer's own
    tiny_stage("unet", again)  # would make them anew, had the encoder changed
    assert latents.stat().st_mtime_ns == made

    tensors = after | {"encoder.conv_in.bias": after["encoder.conv_in.bias"] + 1}
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors")
    tiny_stage("unet", again)
    assert latents.stat().st_mtime_ns > made
    shutil.rmtree(folder)
    with pytest.raises(FileNotFoundError, match="vae is missing; train it first: headsculpt train-prior vae"):
        tiny_stage("decoder", again)


def test_what_is_upscaled_is_decoded_once_and_again_for_another_vae(work: Path, tmp_path: Path) -> None:
    shutil.copytree(work, tmp_path / "work")
    again = tmp_path / "work"
    decoded = again / "decoded" / "decoded.npy"
    made, before = decoded.stat().st_mtime_ns, np.load(decoded)
    portraits = open_dataset(again / "large").images(np.arange(len(before)))
    assert before.shape == (len(portraits), portraits.shape[1] // 2, portraits.shape[2] // 2, 3)
    tiny_stage("upscaler", again)
    assert decoded.stat().st_mtime_ns == made
    file = again / "modules" / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    save_file(tensors | {"encoder.conv_in.bias": tensors["encoder.conv_in.bias"] + 1}, file)
    tiny_stage("upscaler", again)
    assert decoded.stat().st_mtime_ns > made
    shutil.rmtree(again / "modules" / "unet")
    with pytest.raises(FileNotFoundError, match="unet is missing; train it first: headsculpt train-prior unet"):
        tiny_stage("upscaler", again)


def test_a_stage_starts_from_a_family(family: Path, work: Path, tmp_path: Path) -> None:
    stage = tiny_stage("unet", work)
    assert start_from(stage, family) > 100
    there = load_file(family / "unet" / "diffusion_pytorch_model.safetensors")
    own = stage.modules["unet"].state_dict()
    assert all(torch.equal(own[name], tensor.float()) for name, tensor in there.items())
    with pytest.raises(FileNotFoundError, match="no weights to start stage 'unet' from; expected .*unet"):
        start_from(stage, tmp_path)


def test_rows_without_a_map_are_the_plain_unet(work: Path) -> None:
    torch.manual_seed(0)
    unet = mini.make_unet(mini.TINY_UNET)
    both = Denoiser(unet, mini.make_controlnet(unet)).eval()
    for parameter in both.controlnet.parameters():  # a fresh ControlNet adds nothing at all
        torch.nn.init.normal_(parameter, std=0.1)
    noisy, t, text = torch.randn(3, mini.LATENT_CHANNELS, 16, 16), torch.tensor([5, 500, 900]), torch.randn(3, 64, 256)
    maps = torch.rand(1, 3, 128, 128)
    with torch.no_grad():
        plain = both(noisy, t, text, torch.zeros(0), torch.zeros(0, dtype=torch.long))
        some = both(noisy, t, text, maps, torch.tensor([1]))
    torch.testing.assert_close(some[[0, 2]], plain[[0, 2]], atol=1e-5, rtol=1e-4)
    assert (some[1] - plain[1]).abs().max() > 1e-3


def test_a_stage_refuses_the_state_of_another_model(work: Path) -> None:
    stage = tiny_stage("vae", work)
    stage.model = mini.make_vae(mini.TINY_VAE | dict(block_out_channels=(16, 16, 16, 32)))
    with pytest.raises(ValueError, match="holds another model"):
        train(stage, work, Budget(steps=4))


def test_a_loss_that_is_not_finite_stops_with_a_reason(tmp_path: Path) -> None:
    model = torch.nn.Linear(1, 1)
    stage = Stage("bad", model, lambda s, g: (model.weight.sum() * float("nan"), {}), lambda m: None, 1)
    with pytest.raises(FloatingPointError, match="'bad' became nan at step 0"):
        train(stage, tmp_path, Budget(steps=1))


@pytest.mark.parametrize(("bad", "step"), [(0, 5), (1, 6), (2, 7)])
def test_a_loss_that_is_read_later_names_its_own_step(bad: int, step: int, tmp_path: Path) -> None:
    from headsculpt.priors.training import _check_finite

    window = [torch.tensor(1.0) for _ in range(3)]
    stage = Stage("bad", torch.nn.Linear(1, 1), lambda s, g: (window[0], {}), lambda m: None, 1)
    _check_finite(window, 7, stage, tmp_path)
    window[bad] = torch.tensor(float("inf"))
    with pytest.raises(FloatingPointError, match=f"'bad' became inf at step {step}"):
        _check_finite(window, 7, stage, tmp_path)


def test_stages_name_what_must_come_before(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="train-prior text"):
        stages.train_prior("unet", tmp_path)
    with pytest.raises(FileNotFoundError, match="family is incomplete"):
        stages.train_prior("export", tmp_path)
    with pytest.raises(ValueError, match="unknown stage 'vea'"):
        stages.train_prior("vea", tmp_path)
    with pytest.raises(ValueError, match="minutes must be positive"):
        stages.train_prior("vae", tmp_path, minutes=0)
    with pytest.raises(ValueError, match="batch must be positive; got 0"):
        stages.train_prior("vae", tmp_path, batch=0)


# --- data set


def test_rendering_goes_on_with_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("headsculpt.synthesis.figure")
    monkeypatch.setattr("headsculpt.priors.dataset.FIGURES_PER_SHARD", 1)
    assert FIGURES_PER_SHARD > 1
    render_dataset(tmp_path / "a", 8, seed=3)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    shutil.rmtree(tmp_path / "b" / "00001")
    render_dataset(tmp_path / "b", 8, seed=3)
    one, two = open_dataset(tmp_path / "a"), open_dataset(tmp_path / "b")
    assert len(one) == 8 and one.captions == two.captions and one.attributes == two.attributes
    every = np.arange(8)
    assert np.array_equal(one.images(every), two.images(every))
    assert np.array_equal(one.landmarks, two.landmarks)
    assert one.images(every).std() > 10
    with pytest.raises(ValueError, match="seed 3, not 4"):
        render_dataset(tmp_path / "b", 8, seed=4)


def test_the_data_set_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no portraits in"):
        open_dataset(tmp_path)
    with pytest.raises(ValueError, match="count=0"):
        render_dataset(tmp_path, 0)


# --- loading


def test_an_exported_family_loads_and_samples(family: Path) -> None:
    prior = load_prior(family)
    assert (prior.image_size, prior.latent_size) == (128, 16)
    assert prior.upscaler is not None and prior.upscaler in prior.modules()
    assert not any(p.requires_grad for module in prior.modules() for p in module.parameters())
    assert all(p.dtype == torch.float32 for module in prior.modules() for p in module.parameters())
    text = embed(prior.tokenizer, prior.text_encoder, ["an old man", "an elf"])
    empty = embed(prior.tokenizer, prior.text_encoder, [""])
    pictures = []
    for _ in range(2):
        latents = sample_latents(
            prior.unet, prior.scheduler, text, empty, torch.Generator().manual_seed(1), steps=2,
            controlnet=prior.controlnets["landmarks"], condition=torch.rand(2, 3, 128, 128),
            control_scale=0.0,
        )  # fmt: skip
        pictures.append(decode(prior.vae, latents))
    assert pictures[0].shape == (2, 128, 128, 3)
    assert torch.equal(*pictures)


def test_the_weights_on_disk_are_half_and_the_averaged_ones(work: Path, family: Path) -> None:
    from safetensors.torch import load_file

    tensors = load_file(family / "unet" / "diffusion_pytorch_model.safetensors")
    assert all(tensor.dtype == torch.float16 for tensor in tensors.values())
    state = torch.load(work / "unet" / "state.pt", weights_only=True)
    names = [name for name, _ in mini.make_unet(mini.TINY_UNET).named_parameters()]
    for name, average in zip(names, state["ema"], strict=False):  # the ControlNet's come after
        assert torch.equal(tensors[name], average.half())


def test_a_loaded_prior_in_half_precision(family: Path) -> None:
    prior = load_prior(family, dtype=torch.bfloat16, controls=())
    assert next(prior.unet.parameters()).dtype == torch.bfloat16 and not prior.controlnets


@pytest.mark.parametrize(
    "file",
    [
        "model_index.json",
        "tokenizer",
        "scheduler/scheduler_config.json",
        "unet/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "controlnet_landmarks/diffusion_pytorch_model.safetensors",
    ],
)
def test_a_missing_file_is_named(broken: Path, file: str) -> None:
    path = broken / file
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(PriorError, match="is incomplete: .* is missing; expected a folder") as caught:
        load_prior(broken)
    assert str(path) in str(caught.value)


def test_a_truncated_file_is_named(broken: Path) -> None:
    path = broken / "unet" / "diffusion_pytorch_model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-10])
    with pytest.raises(PriorError, match=f"{path} has {len(content) - 10} bytes .* promises {len(content)}"):
        load_prior(broken)
    for damaged in (b"", b"12345", b"\xff" * 200, content[:100]):
        path.write_bytes(damaged)
        with pytest.raises(PriorError, match="no readable safetensors header"):
            load_prior(broken)


@pytest.mark.parametrize("name", ["text_to_head.safetensors", "upscaler.safetensors"])
def test_a_truncated_file_beside_the_models_is_named(name: str, broken: Path) -> None:
    path = broken / name
    path.write_bytes(path.read_bytes()[:-10] if path.exists() else b"12345")
    with pytest.raises(PriorError, match=f"is damaged: {path} .*fetch or export it again"):
        load_prior(broken)


def test_damaged_json_and_pickles_are_refused(broken: Path) -> None:
    weights = broken / "vae" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(PriorError, match="pickle, which is never loaded"):
        load_prior(broken)
    (broken / "model_index.json").write_text("{")
    with pytest.raises(PriorError, match="model_index.json is no JSON"):
        load_prior(broken)


def test_weights_that_do_not_fit_their_configuration(broken: Path) -> None:
    config = broken / "unet" / "config.json"
    config.write_text(config.read_text().replace(f'"out_channels": {mini.LATENT_CHANNELS}', '"out_channels": 6'))
    with pytest.raises(PriorError, match="does not fit its configuration"):
        load_prior(broken)


def test_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, family: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(PriorError, match="unknown prior 'mni' .did you mean 'mini'"):
        load_prior("mni")
    with pytest.raises(PriorError, match="hf download stable-diffusion-v1-5/stable-diffusion-v1-5"):
        load_prior("sd15", controls=())
    with pytest.raises(PriorError, match="hf download CrucibleAI/ControlNetMediaPipeFace"):
        load_prior("sd15")
    with pytest.raises(PriorError, match="has no control 'hands'; it has landmarks, instruction"):
        load_prior("sd15", controls=("hands",))
    with pytest.raises(PriorError, match="has no control 'instruction'.*it has landmarks"):
        load_prior(family, controls=("instruction",))
    monkeypatch.setattr("headsculpt.priors.catalogue.MINI_FOLDER", tmp_path / "none")
    with pytest.raises(PriorError, match="mini prior is missing from the package"):
        load_prior("mini")
    with pytest.raises(PriorError, match="unknown shape 'huge'"):
        random_prior("huge")  # type: ignore[arg-type]


def test_random_priors_repeat_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, two = random_prior("tiny", seed=1), random_prior("tiny", seed=1)
    assert torch.equal(before, torch.get_rng_state())
    pairs = zip(one.unet.parameters(), two.unet.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert (one.image_size, one.latent_size) == (128, 16)

"""Learned tokens: learning, resuming, diffusers' own reading, loading with a prior, and messages."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from headsculpt import cli
from headsculpt.priors.catalogue import load_prior, random_prior
from headsculpt.priors.textual_inversion import Examples, learn_token, read_images, world_images
from headsculpt.priors.tokens import TokenError, add_token, check_token, read_token, save_token


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole prior folder of tiny random networks."""
    path = tmp_path_factory.mktemp("prior")
    prior = random_prior("tiny", controls=())
    for name in ("tokenizer", "text_encoder", "vae", "unet", "scheduler"):
        getattr(prior, name).save_pretrained(path / name)
    (path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    return path


@pytest.fixture
def examples() -> Examples:
    pictures = np.random.default_rng(0).integers(0, 255, (3, 128, 128, 3), dtype=np.uint8)
    return Examples(pictures, [["a head", "a person"]] * 3)


def learned(folder: Path, examples: Examples, out: Path, work: Path, **keywords):
    prior = load_prior(folder, controls=(), tokens=None)
    return prior, learn_token(prior, examples, out, work, steps=4, batch=2, **keywords)


def test_only_the_new_word_is_learned(folder: Path, examples: Examples, tmp_path: Path) -> None:
    before = random_prior("tiny", controls=()).text_encoder.state_dict()
    out = tmp_path / "tokens" / "back-view.safetensors"
    prior, figures = learned(folder, examples, out, tmp_path / "work")
    assert set(figures) == {"without", "initial", "learned"} and all(np.isfinite(list(figures.values())))
    assert len(prior.tokenizer) == 545 and "<back-view>" not in prior.tokenizer.get_vocab()
    after = prior.text_encoder.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    token, embedding = read_token(out)
    assert token == "<back-view>" and embedding.shape == (1, 256)
    ids = prior.tokenizer("back", add_special_tokens=False).input_ids
    start = after["embeddings.token_embedding.weight"][ids].mean(0)
    assert 0 < (embedding[0] - start).abs().max() < 0.05


def test_an_interrupted_learning_ends_bit_for_bit_where_an_undisturbed_one_does(
    folder: Path, examples: Examples, tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    learned(folder, examples, whole, tmp_path / "a")
    assert learned(folder, examples, parts, tmp_path / "b", pause_after=2)[1] is None
    assert not parts.exists()
    learned(folder, examples, parts, tmp_path / "b")
    assert whole.read_bytes() == parts.read_bytes()
    with pytest.raises(ValueError, match=r"unfinished learning of another token \(its initial differ\)"):
        learned(folder, examples, parts, tmp_path / "b", initial="head")


def test_learning_lowers_the_loss_that_it_is_about(folder: Path, tmp_path: Path) -> None:
    # A UNet whose text pathway is turned up, so that one word can matter within a few steps.
    prior = load_prior(folder, controls=(), tokens=None)
    with torch.no_grad():
        for name, parameter in prior.unet.named_parameters():
            if "attn2.to_v" in name or "attn2.to_out" in name:
                parameter.mul_(8.0)
    flat = Examples(np.full((2, 128, 128, 3), 40, np.uint8), [["a head"]] * 2)
    figures = learn_token(prior, flat, tmp_path / "t.safetensors", tmp_path / "w", steps=40, learning_rate=2e-2)
    assert figures["learned"] < figures["initial"]


def test_diffusers_reads_the_file(folder: Path, tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    prior = load_prior(folder, controls=())
    save_token(tmp_path / "learned_embeds.safetensors", "<back-view>", torch.full((256,), 0.25), "4 steps")
    pipeline = StableDiffusionPipeline(
        prior.vae, prior.text_encoder, prior.tokenizer, prior.unet, prior.scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.load_textual_inversion(str(tmp_path))
    number = pipeline.tokenizer.convert_tokens_to_ids("<back-view>")
    assert torch.equal(pipeline.text_encoder.get_input_embeddings().weight[number].float(), torch.full((256,), 0.25))
    assert list(load_file(tmp_path / "learned_embeds.safetensors")) == ["<back-view>"]


def test_a_prior_has_the_tokens_of_its_folder_and_ours_reads_as_diffusers_does(folder: Path, tmp_path: Path) -> None:
    import shutil

    copied = Path(shutil.copytree(folder, tmp_path / "prior"))
    vector = torch.linspace(-1, 1, 256)
    save_token(copied / "tokens" / "back-view.safetensors", "<back-view>", vector)
    state = torch.random.get_rng_state()
    prior = load_prior(copied, controls=())
    assert torch.equal(state, torch.random.get_rng_state())
    assert prior.tokens == {"back-view": "<back-view>"}
    number = prior.tokenizer.convert_tokens_to_ids("<back-view>")
    assert number in prior.tokenizer("an elf, back view, <back-view>, without eyes").input_ids
    assert torch.equal(prior.text_encoder.get_input_embeddings().weight[number], vector)
    assert not prior.text_encoder.get_input_embeddings().weight.requires_grad
    assert load_prior(copied, controls=(), tokens=None).tokens == {}
    # A file of the user's own takes the place of the one in the folder.
    save_file({"<back-view>": torch.zeros(2, 256)}, str(tmp_path / "learned_embeds.safetensors"))
    own = load_prior(copied, controls=(), tokens=[tmp_path])
    assert own.tokens == {"back-view": "<back-view> <back-view>_1"}


def test_the_loop_says_the_token_behind_the_head_alone() -> None:
    from headsculpt.cameras import orbit
    from headsculpt.config import load_config
    from headsculpt.sculpting import diffusion_guides, starting_head

    prior = random_prior("tiny", controls=())
    prior.tokens["back-view"] = add_token(prior.tokenizer, prior.text_encoder, "<bv>", torch.ones(1, 256), "it")
    said: list[str] = []
    for settings in ([], ["guidance.back_token=false"]):
        config = load_config("draft", ["prior.controls=[]", *settings], prompt="an elf")
        guide = diffusion_guides(config, prior, *starting_head(config, None))["coarse"]
        guide.backbone.embed = lambda texts: said.extend(texts) or torch.zeros(len(texts), 4, 256)
        guide.texts(orbit([0.0, 90.0, 180.0]))
    assert ["<bv>" in text for text in said if "elf" in text] == [False, False, True, False, False, False]


@pytest.mark.parametrize("token", ["portrait", "Portrait", "<|endoftext|>", "a</w>"])
def test_a_token_that_the_tokenizer_knows_is_refused(token: str) -> None:
    with pytest.raises(TokenError, match="knows .* already, and learning it would change what it means; choose"):
        check_token(token, random_prior("tiny", controls=()).tokenizer, "prior 'tiny'")


def test_a_token_is_one_word() -> None:
    for token in ("", "back view", "a\tb"):
        with pytest.raises(TokenError, match='a token is one word, such as "<back-view>"; got'):
            check_token(token, None, "it")


def test_files_that_are_no_tokens_are_named(tmp_path: Path) -> None:
    prior = random_prior("tiny", controls=())
    with pytest.raises(TokenError, match="there is no learned token .*x.safetensors; learn one"):
        read_token(tmp_path / "x.safetensors")
    (tmp_path / "t.bin").write_bytes(pickle.dumps({"<t>": [1.0]}))
    with pytest.raises(TokenError, match="never from a pickle"):
        read_token(tmp_path / "t.bin")
    (tmp_path / "broken.safetensors").write_bytes(b"12345")
    with pytest.raises(TokenError, match="broken.safetensors is damaged"):
        read_token(tmp_path / "broken.safetensors")
    save_file({"a": torch.zeros(4), "b": torch.zeros(4)}, str(tmp_path / "two.safetensors"))
    with pytest.raises(TokenError, match="holds 2 tensors; a learned token is a file of one"):
        read_token(tmp_path / "two.safetensors")
    save_file({"<t>": torch.full((4,), torch.nan)}, str(tmp_path / "nan.safetensors"))
    with pytest.raises(TokenError, match=r"holds \(4,\) torch.float32; expected finite vectors"):
        read_token(tmp_path / "nan.safetensors")
    with pytest.raises(TokenError, match="vectors of width 768 where the text encoder of it has 256"):
        add_token(prior.tokenizer, prior.text_encoder, "<t>", torch.zeros(1, 768), "it")


def test_pictures_of_the_user(tmp_path: Path) -> None:
    Image.new("RGB", (40, 60), "red").save(tmp_path / "a.png")
    Image.new("L", (90, 60)).save(tmp_path / "b.jpg")
    (tmp_path / "a.txt").write_text("a bald man\n\n a man in red \n", encoding="utf-8")
    found = read_images(tmp_path, 32)
    assert found.images.shape == (4, 32, 32, 3) and (found.images[0] == (255, 0, 0)).all()
    assert found.texts[0] == found.texts[1] == ["a bald man", "a man in red"] and "a head" in found.texts[2]
    (tmp_path / "c.png").write_text("no picture")
    with pytest.raises(ValueError, match="c.png is no readable picture; remove it"):
        read_images(tmp_path, 32)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        read_images(tmp_path / "none", 32)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no picture"):
        read_images(tmp_path / "empty", 32)


def test_back_views_of_the_world_repeat() -> None:
    first, again = world_images(2, 48, 3), world_images(2, 48, 3)
    assert first.images.shape == (2, 48, 48, 3) and first.images.std() > 10
    assert (first.images == again.images).all() and first.texts == again.texts
    assert not any("view" in text for texts in first.texts for text in texts)


def test_the_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    Image.new("RGB", (40, 60), "red").save(tmp_path / "a.png")
    out = tmp_path / "t" / "back-view.safetensors"
    arguments = ["learn-token", "--prior", str(folder), "--images", str(tmp_path), "--out", str(out), "--device", "cpu"]

    def run(*more: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as caught:
            cli.main([*arguments, *more])
        output = capsys.readouterr()
        return caught.value.code or 0, " ".join((output.out + output.err).split())

    status, text = run("--steps", "2", "--batch", "1")
    assert status == 0 and "loss on pictures held out: without" in text and out.is_file()
    assert run() == (2, f"error: {out} exists; give --out another file, or --overwrite to replace it")
    status, text = run("portrait", "--overwrite")
    assert status == 2 and "knows 'portrait' already" in text
    assert run("--overwrite", "--style", "my")[1].endswith("--style is 'my'; expected auto, mini or headsculpt")
    assert "more than 0" in run("--overwrite", "--steps", "0")[1]
    assert run("--out", "t.bin")[1] == "error: a learned token is written as .safetensors; got 't.bin'"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("prior.tokens=[none.safetensors]", "there is no learned token none.safetensors; learn one"),
        ("guidance.head=none.npz", "there is no FLAME file none.npz; make it: headsculpt convert-flame"),
    ],
)
def test_files_that_are_missing_are_named_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, setting: str, message: str
) -> None:
    monkeypatch.setattr("headsculpt.doctor.check_prior", lambda name, controls: None)
    with pytest.raises(SystemExit) as caught:
        cli.main(["generate", "an elf", setting, "--out", str(tmp_path / "run"), "--device", "cpu"])
    assert caught.value.code == 1 and message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()

"""The mini family: the shapes of its models, and the tokenizer made from captions.

All are standard diffusers / transformers classes, so that whatever runs on Stable Diffusion runs on them.
The shapes are ours, chosen so that two CPU cores train the family in about eighty minutes and sample an
image in under two seconds; each number's reason stands beside it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

# The makers return Any: diffusers' classes are lazy, and type checkers see no methods on them.

IMAGE_SIZE = 128
LATENT_SIZE = 16
LATENT_CHANNELS = 16  # four (Stable Diffusion's number) lose pupils and spectacle rims at 128 pixels; eight blur eyes
TEXT_WIDTH = 256
TEXT_LENGTH = 64  # tokens, with start and end; of 4,000 captions the longest takes 51
VOCABULARY = 2560

VAE: dict[str, Any] = dict(
    in_channels=3,
    out_channels=3,
    block_out_channels=(16, 32, 64, 128),
    layers_per_block=1,
    norm_num_groups=4,  # wide groups: narrow ones take the colour of plain areas away
    latent_channels=LATENT_CHANNELS,
    mid_block_add_attention=False,  # no detail to win at 16x16, and a fifth of the time
    sample_size=IMAGE_SIZE,
)
# Word by word, text reaches the image at 8x8 and 4x4 only: a transformer block at 16x16 halves the training
# speed. As a whole it reaches every layer through the time embedding, for a hundredth of the time.
UNET: dict[str, Any] = dict(
    sample_size=LATENT_SIZE,
    in_channels=LATENT_CHANNELS,
    out_channels=LATENT_CHANNELS,
    block_out_channels=(128, 192, 192),
    layers_per_block=1,
    attention_head_dim=6,  # diffusers reads this as the number of heads (its documented misnomer)
    cross_attention_dim=TEXT_WIDTH,
    addition_embed_type="text",
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
)
TEXT: dict[str, Any] = dict(
    hidden_size=TEXT_WIDTH,
    intermediate_size=1024,
    num_hidden_layers=4,
    num_attention_heads=4,
    max_position_embeddings=TEXT_LENGTH,
    hidden_act="quick_gelu",
)
# v-prediction and a cosine schedule: at 16x16 latents the linear schedule of Stable Diffusion destroys
# the image too early (Nichol & Dhariwal 2021, section 3.2), and v stays defined at zero signal.
SCHEDULE: dict[str, Any] = dict(
    num_train_timesteps=1000,
    beta_schedule="squaredcos_cap_v2",
    prediction_type="v_prediction",
    clip_sample=False,
    set_alpha_to_one=True,
    timestep_spacing="trailing",
    steps_offset=1,  # without effect on trailing steps; pipelines ask for it
)
CONDITIONING_CHANNELS = (16, 32, 64, 96)  # three halvings: a 128-pixel map to 16x16

# The same classes at the smallest size that still has every kind of block; tests train these.
TINY_VAE = VAE | dict(block_out_channels=(16, 16, 16, 16))
TINY_UNET = UNET | dict(block_out_channels=(16, 16, 32), norm_num_groups=8, attention_head_dim=2)
TINY_TEXT = TEXT | dict(num_hidden_layers=1, intermediate_size=64)


def make_vae(config: Mapping[str, Any] = VAE) -> Any:
    """A fresh autoencoder with as many levels as ``config["block_out_channels"]``."""
    from diffusers import AutoencoderKL

    levels = len(config["block_out_channels"])
    return AutoencoderKL(
        **config,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
    )


def make_unet(config: Mapping[str, Any] = UNET) -> Any:
    """A fresh noise predictor; what it adds of the text to the time embedding starts at zero."""
    from diffusers import UNet2DConditionModel

    unet: Any = UNet2DConditionModel(**config)
    if unet.config.addition_embed_type == "text":
        for parameter in unet.add_embedding.norm2.parameters():
            parameter.detach().zero_()
    return unet


def make_scheduler() -> Any:
    """The noise schedule that the mini family is trained and sampled with."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(**SCHEDULE)


def make_controlnet(unet: Any, conditioning_channels: int = 3) -> Any:
    """A ControlNet that starts as a copy of the UNet's encoder and adds nothing at first."""
    from diffusers import ControlNetModel

    return ControlNetModel.from_unet(
        unet,
        conditioning_embedding_out_channels=CONDITIONING_CHANNELS,
        conditioning_channels=conditioning_channels,
    )


def make_text_encoder(tokenizer: CLIPTokenizer, config: Mapping[str, Any] = TEXT) -> Any:
    """A fresh text encoder for this tokenizer's vocabulary."""
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            **config,
            vocab_size=len(tokenizer),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def make_tokenizer(texts: Iterable[str], vocabulary: int = VOCABULARY) -> CLIPTokenizer:
    """A CLIP byte-pair tokenizer learnt from ``texts``; any other text still tokenises, byte by byte.

    As in CLIP the vocabulary is: 256 bytes, 256 bytes that end a word, the merges, start, end.

    Args:
        texts: captions; case is ignored.
        vocabulary: number of tokens, at most; at least 514.
    """
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel
    from tokenizers.trainers import BpeTrainer
    from transformers import CLIPTokenizer

    plain = CLIPTokenizer().backend_tokenizer  # only for its normaliser and its way to split words
    learner = Tokenizer(BPE(end_of_word_suffix="</w>", continuing_subword_prefix=""))
    learner.normalizer, learner.pre_tokenizer = plain.normalizer, plain.pre_tokenizer
    alphabet = sorted(ByteLevel.alphabet())
    symbols = alphabet + [byte + "</w>" for byte in alphabet]
    trainer = BpeTrainer(
        vocab_size=max(vocabulary - 2, len(symbols)),
        min_frequency=2,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    merges = merges[: max(vocabulary - 2 - len(symbols), 0)]
    words = [*dict.fromkeys([*symbols, *(a + b for a, b in merges)]), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={word: index for index, word in enumerate(words)},
        merges=merges,  # type: ignore[arg-type]  # pairs are what it takes; its annotation lags
        model_max_length=TEXT_LENGTH,
    )


def save_tokenizer(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write ``tokenizer.json`` and, for other readers, CLIP's ``vocab.json`` and ``merges.txt``."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False), encoding="utf-8")
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")


def tokenise(tokenizer: CLIPTokenizer, texts: list[str]):  # noqa: ANN201 - a Tensor; torch stays lazy here
    """Token ids ``(B, model_max_length)`` int64, cut or padded with the end token."""
    return tokenizer(
        texts,
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids

"""The modules of `mini`, in the diffusers StableDiffusion layout.

Sizes are chosen for two things at once: at most 16 MB in float16, and most of the arithmetic in wide
convolutions and matrix products at 8x8 and 4x4, where a CPU runs nearest to its peak.
"""

from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from fglfast.base.config import Settings
from fglfast.generator.tokens import BOS, CLIP_WORDS, EOS, SPECIAL

Size = Literal["tiny", "small", "base"]
LARGE = 96  # pixels a side from which on the VAE halves an image once more


class MiniSettings(Settings):
    """Sizes of a small text-to-image model; channels must be multiples of 16.

    Attributes:
        image_size: side in pixels.
        latent_channels: of the VAE.
        vae_channels: of its levels; between two of them it halves the image.
        unet_channels: of the UNet's levels.
        text_width: of the text encoder.
        text_layers: likewise.
        max_tokens: of a prompt; what is longer is cut.
    """

    image_size: int = 32
    latent_channels: int = 8
    vae_channels: tuple[int, ...] = (16, 32, 64)
    unet_channels: tuple[int, ...] = (128, 160)
    text_width: int = 64
    text_layers: int = 2
    max_tokens: int = 16

    @classmethod
    def of(cls, size: Size, image_size: int) -> "MiniSettings":
        """A model of one of three sizes."""
        first, *later = {"tiny": (16, 32, 64), "small": (32, 64, 96), "base": (48, 96, 128)}[size]
        widths = {"tiny": (128, 160), "small": (160, 256), "base": (192, 320, 448)}[size]
        text_width, text_layers = {"tiny": (64, 2), "small": (128, 3), "base": (192, 4)}[size]
        return cls(
            image_size=image_size,
            vae_channels=(first, *((first,) if image_size >= LARGE else ()), *later),
            unet_channels=widths,
            text_width=text_width,
            text_layers=text_layers,
        )

    @property
    def latent_size(self) -> int:
        """Height and width of the latents."""
        return int(self.image_size // 2 ** (len(self.vae_channels) - 1))


def build_vae(settings: MiniSettings) -> AutoencoderKL:
    """A KL autoencoder: [B,3,S,S] in [-1,1] <-> [B,C,S/F,S/F]; F is 4, and 8 for large images."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(settings.vae_channels),
        up_block_types=("UpDecoderBlock2D",) * len(settings.vae_channels),
        block_out_channels=settings.vae_channels,
        layers_per_block=1,
        latent_channels=settings.latent_channels,
        norm_num_groups=8,
        sample_size=settings.image_size,
        mid_block_add_attention=False,
    ).to(memory_format=torch.channels_last)


def build_unet(settings: MiniSettings) -> UNet2DConditionModel:
    """The velocity network: cross-attention at the latents' full size, plain residual blocks below."""

    def plain(kind: str) -> tuple[str, ...]:
        return (kind,) * (len(settings.unet_channels) - 1)

    return UNet2DConditionModel(
        sample_size=settings.latent_size,
        in_channels=settings.latent_channels,
        out_channels=settings.latent_channels,
        down_block_types=("CrossAttnDownBlock2D", *plain("DownBlock2D")),
        up_block_types=(*plain("UpBlock2D"), "CrossAttnUpBlock2D"),
        block_out_channels=settings.unet_channels,
        layers_per_block=1,
        cross_attention_dim=settings.text_width,
        attention_head_dim=4,  # diffusers reads it as the number of heads
        norm_num_groups=16,
    ).to(memory_format=torch.channels_last)


def build_text_encoder(settings: MiniSettings, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A small CLIP text transformer, trained together with the UNet."""
    sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": settings.max_tokens}
    return CLIPTextModel(text_config(tokenizer, settings.text_width, settings.text_layers, heads=4, **sizes))


def text_config(tokenizer: CLIPTokenizer, width: int, layers: int, heads: int, **others: Any) -> CLIPTextConfig:
    """The config of a CLIP text transformer that reads a tokenizer's special tokens."""
    return CLIPTextConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        projection_dim=width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **others,
    )


def build_tokenizer(captions: Iterable[str], max_tokens: int) -> CLIPTokenizer:
    """Learn CLIP's byte-pair encoding from captions: their words become one token each.

    Every byte is in the vocabulary, so any other text still encodes, in more tokens.
    """
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=EOS))
    bpe.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(CLIP_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        special_tokens=[BOS, EOS] + [f"{letter}</w>" for letter in alphabet],
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    bpe.train_from_iterator(captions, trainer)
    with TemporaryDirectory() as folder:
        vocabulary, merges = bpe.model.save(folder)
        return CLIPTokenizer(vocab=vocabulary, merges=merges, **SPECIAL, model_max_length=max_tokens)


def build_scheduler() -> DPMSolverMultistepScheduler:
    """DPM-Solver++(2M) over the linear flow path x_t = (1-t) x0 + t e, timesteps 1000 t."""
    return DPMSolverMultistepScheduler(
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=1.0,
        num_train_timesteps=1000,
        steps_offset=1,
    )


def save_pipeline(
    folder: Path, vae: AutoencoderKL, unet: UNet2DConditionModel, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer
) -> None:
    """Write the float16 weights as a folder that `StableDiffusionPipeline.from_pretrained` loads."""
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    vae.to(torch.float16)
    unet.to(torch.float16)  # the text encoder stays float32: transformers would load it as it was saved
    pipeline.save_pretrained(folder, safe_serialization=True)

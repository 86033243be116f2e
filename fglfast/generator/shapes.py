"""Sizes of a generator's tensors. What is said of them here needs no network: see `load.read_shapes` for the rest."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import PositiveInt

from fglfast.generator.configs import read_config
from fglfast.generator.kinds import XL, check_kind, pipeline_name
from fglfast.generator.parts import part
from fglfast.generator.tokens import text_positions


@dataclass(frozen=True)
class Shapes:
    """The fixed sizes of a generator's tensors.

    Attributes:
        latent: channels, height and width of the latents at the asked image size.
        tokens: tokens of a prompt (T).
        text_length: rows of a text embedding (L): T, and one more for SDXL's pooled embedding.
        text_width: channels of a text embedding (D).
        projected_width: channels of the keys and values that are made of it (E).
    """

    latent: tuple[PositiveInt, PositiveInt, PositiveInt]
    tokens: PositiveInt
    text_length: PositiveInt
    text_width: PositiveInt
    projected_width: PositiveInt


def text_shape(folder: Path) -> tuple[int, int]:
    """Rows and channels [L,D] of a text embedding as a model's UNet takes it, by its configs.

    Raises:
        BadInputError: a config is missing, or the model is of a kind that cannot be used.
    """
    check_kind(folder)
    width = read_config(part(folder, "unet") / "config.json").get("cross_attention_dim", 1280)
    return text_positions(folder) + (pipeline_name(folder) == XL), int(width)

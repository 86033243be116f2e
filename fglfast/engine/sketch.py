"""A few images of prompts, for a look; and the first and last step of drawing, which synthesis has too."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from fglfast.engine.networks import Networks, sent
from fglfast.generator.kinds import zeros_for_empty
from fglfast.generator.shapes import Shapes
from fglfast.generator.text import load_prompts
from fglfast.generator.tokens import load_tokenizer
from fglfast.sampler.sample import sample
from fglfast.sampler.schedule import Sampling, Schedule


def sketch(
    networks: Networks, shapes: Shapes, model: Path, prompts: str | Sequence[str], n: int, sampling: Sampling, seed: int
) -> list[Image.Image]:
    """See `Engine.draw`."""
    schedule, each = Schedule.of_model(model, sampling), [prompts] if isinstance(prompts, str) else list(prompts)
    if not each or n < 1:
        return []
    text_PLE = networks.project(_encoded(networks, model, each))
    negative = negative_embedding(networks, shapes, model, load_prompts(model).negative)
    negative_1LE = networks.project(negative.unsqueeze(0))

    def fresh(number: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed + number)
        return sent(torch.randn(n * len(each), *shapes.latent, generator=generator), networks.device)

    text_NLE = text_PLE.repeat_interleave(n, 0)
    latents = sample(networks.denoise, fresh(0), text_NLE, negative_1LE[0], schedule, fresh)
    return [Image.fromarray(pixels) for pixels in to_pixels(networks.decode(latents)).cpu().numpy()]


def negative_embedding(networks: Networks, shapes: Shapes, model: Path, prompt: str) -> Tensor:
    """Embedding [L,D] of a negative prompt, where the engine computes.

    Zeros for an empty one where the model was trained so (SDXL).
    """
    if not prompt and zeros_for_empty(model):
        return torch.zeros(shapes.text_length, shapes.text_width, device=networks.device)
    return _encoded(networks, model, [prompt]).squeeze(0)


def _encoded(networks: Networks, model: Path, prompts: Sequence[str]) -> Tensor:
    """Embeddings [P,L,D] of prompts, where the engine computes."""
    tokens_PT = torch.from_numpy(load_tokenizer(model).tokenize(prompts)).long()
    return networks.encode(sent(tokens_PT, networks.device))


def to_pixels(images_BCHW: Tensor) -> Tensor:
    """Decoded images [B,3,S,S] in [-1,1] as bytes [B,S,S,3], where they lie; black what is not a number somewhere."""
    finite_B111 = torch.isfinite(images_BCHW).flatten(1).all(1).view(-1, 1, 1, 1)
    pixels_BCHW = images_BCHW.where(finite_B111, -1.0).clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)
    return pixels_BCHW.permute(0, 2, 3, 1).contiguous()

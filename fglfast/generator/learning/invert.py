"""Textual inversion: a few vectors of a class's text embedding, fitted to its images through a frozen generator.

The loss is the generator's own (Gal et al., arXiv 2208.01618). What is fitted is not the text encoder's input, as
there, but what comes out of it, as in Imagic (Kawar et al., arXiv 2210.09276): it reaches further from what words say.
Knows latents, classes and text embeddings; no data set, no prompt and no payload.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fglfast.base.errors import UsageError
from fglfast.generator.encoder import encoded
from fglfast.generator.learning.fitting import Fit, FitSettings
from fglfast.generator.learning.student import Task
from fglfast.generator.load import Generator
from fglfast.generator.shapes import Shapes

JUDGED = 256  # draws of a loss that is shown

TextOf = Callable[[Tensor], Tensor]  # classes [U] to their text embeddings [U,L,D]


class LearnedText(nn.Module):
    """Text embeddings of class prompts, some of whose vectors are learned; they begin as the prompt's own.

    Args:
        prompts: text embeddings of the class prompts [K,L,D].
        vectors: how many of a prompt are learned, those after the first: that one is the same for all prompts.
    """

    def __init__(self, prompts: Tensor, vectors: int) -> None:
        super().__init__()
        self.register_buffer("prompts", prompts, persistent=False)
        self.prompts: Tensor
        self.vectors = nn.Parameter(prompts[:, 1 : 1 + vectors].clone())

    def forward(self, classes: Tensor) -> Tensor:
        """Text embeddings [U,L,D] of some classes [U]."""
        fixed = self.prompts[classes]
        learned = self.vectors[classes]
        return torch.cat([fixed[:, :1], learned, fixed[:, 1 + learned.shape[1] :]], dim=1)


@dataclass(frozen=True)
class Examples:
    """What is learned from.

    Attributes:
        latents: of images [N,C,H,W], as the UNet is trained on them.
        classes: the class of each [N], from 0 to K-1, none without an image.
    """

    latents: Tensor
    classes: Tensor

    def draw(self, count: int, draws: torch.Generator) -> Tensor:
        """Rows [count]; every class is as likely as the others, however many images it has."""
        held_K = self.classes.bincount()
        class_B = torch.randint(len(held_K), (count,), generator=draws)
        place_B = (torch.rand(count, generator=draws) * held_K[class_B]).long()
        return self.classes.argsort(stable=True)[(held_K.cumsum(0) - held_K)[class_B] + place_B]


def check_generator(shapes: Shapes, vectors: int) -> None:
    """Refuse generators that this was not made for, and more vectors than a text embedding has.

    Raises:
        UsageError: the model is SDXL, or there are too many vectors.
    """
    if shapes.text_length > shapes.tokens:
        raise UsageError("no embeddings can be learned for SDXL", "use Stable Diffusion 1.x or 2.x, or mini")
    if vectors >= shapes.text_length:
        raise UsageError(
            f"{vectors} vectors are too many for embeddings of {shapes.text_length}, whose first stays as it is",
            "give fewer --vectors",
        )


@torch.no_grad()
def encode_images(generator: Generator, images: Iterable[NDArray[np.uint8]]) -> Tensor:
    """Latents [N,C,H,W] of batches of images [B,S,S,3], as the UNet is trained on them."""
    decoder = generator.decoder
    return torch.cat([encoded(decoder.vae, decoder.space, batch_BSS3).cpu() for batch_BSS3 in images])


def invert(
    generator: Generator, task: Task, examples: Examples, text: LearnedText, settings: FitSettings, state: Path
) -> Tensor:
    """Learn the vectors of every class from its own images, as `fit_text` does; returns text embeddings [K,L,D].

    The `learning_rate` of the settings is in units of the vectors' root mean square at the start.
    """
    scale = float(text.vectors.detach().square().mean().sqrt())
    scaled = settings.model_copy(update={"learning_rate": settings.learning_rate * scale})
    fit_text(generator, task, examples, text, scaled, state)
    with torch.no_grad():
        learned_KLD: Tensor = text(torch.arange(len(text.vectors)))
    return learned_KLD


def fit_text(
    generator: Generator, task: Task, examples: Examples, text: nn.Module, settings: FitSettings, state: Path
) -> None:
    """Learn whatever a module makes text embeddings by, in place, from images of those texts; resumes from `state`.

    Args:
        generator: frozen.
        task: what its UNet was trained to predict.
        examples: of K classes.
        text: the text embeddings [U,L,D] of some classes [U], by parameters that are learned.
        settings: how long and how fast.
        state: folder of the checkpoint and the logged loss.
    """
    fit = Fit("learn", nn.ModuleDict({"text": text}), settings, state)
    fit.run(lambda size, draws: loss(generator, task, text, examples, size, draws))


def loss(
    generator: Generator, task: Task, text: TextOf, examples: Examples, batch_size: int, draws: torch.Generator
) -> Tensor:
    """The generator's training loss on a batch of examples, each under its class's text.

    Times lie towards the noise, with density 2t: there the text decides what is drawn, later the image itself does.
    """
    rows_B, device = examples.draw(batch_size, draws), generator.projection.linear.weight.device
    data_BCHW, classes_B = examples.latents[rows_B], examples.classes[rows_B]
    noise_BCHW = torch.randn(data_BCHW.shape, generator=draws)
    t_B = torch.rand(batch_size, generator=draws).sqrt()
    data_BCHW, noise_BCHW, t_B, classes_B = (part.to(device) for part in (data_BCHW, noise_BCHW, t_B, classes_B))
    classes_U, of_B = classes_B.unique(return_inverse=True)
    text_BLE = generator.projection(text(classes_U))[of_B]
    return squared_errors(generator, task, text_BLE, data_BCHW, noise_BCHW, t_B).mean()


def squared_errors(
    generator: Generator, task: Task, text_BLE: Tensor, data_BCHW: Tensor, noise_BCHW: Tensor, t_B: Tensor
) -> Tensor:
    """Of what the UNet predicts [B,C,H,W], given projected text: their mean is the generator's training loss."""
    x_BCHW = task.path.at(data_BCHW, noise_BCHW, t_B).contiguous(memory_format=torch.channels_last)
    prediction_BCHW: Tensor = generator.unet(x_BCHW, task.clock(t_B), text_BLE)
    return (prediction_BCHW - task.target(data_BCHW, noise_BCHW, t_B)).square()


@torch.no_grad()
def judge(generator: Generator, task: Task, text: TextOf, examples: Examples, batch_size: int) -> float:
    """Mean loss over draws that are the same for every text."""
    draws = torch.Generator().manual_seed(2**32)
    losses = [loss(generator, task, text, examples, batch_size, draws) for _ in range(-(-JUDGED // batch_size))]
    return float(torch.stack(losses).mean())

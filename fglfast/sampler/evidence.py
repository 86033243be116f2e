"""How much an image speaks for each of some texts, by a generator's denoising losses (arXiv 2303.16203).

The text under which an image is denoised best is the likeliest. With a denoiser that knows each text's images this is
exact: -log p(x|text) is, but for a constant, half the mean squared error of the predicted noise, integrated over the
logarithm of the signal-to-noise ratio (information-theoretic diffusion, arXiv 2302.03792). Here a sum over a few
levels stands for it, and one noise a level for the mean: the same for all texts, so that most of what it does cancels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fglfast.generator.learning.student import Task
from fglfast.sampler.sample import Denoiser


@dataclass(frozen=True)
class Level:
    """A noise level at which a network is asked.

    Attributes:
        t: where on the path, in (0,1).
        weight: of its squared error summed over an image, in nats.
    """

    t: float
    weight: float


def levels_between(task: Task, low: float, high: float, count: int) -> list[Level]:
    """Levels at the middles of equal parts of a range, most noise first.

    Args:
        task: what the network predicts, on which path.
        low: the range's lowest logarithm of the signal-to-noise ratio, (a/s)^2 of x = a x0 + s e.
        high: its highest.
        count: of levels.
    """
    ts = torch.tensor([task.moment(timestep) for timestep in range(1, task.levels)], dtype=torch.float64)
    data, noise = task.path.data(ts), task.path.noise(ts)
    ratios = 2 * (data.clamp(min=1e-12).log() - noise.log())
    width = (high - low) / count
    places = [int((ratios - (low + width * (part + 0.5))).abs().argmin()) for part in range(count)]
    return [Level(float(ts[place]), 0.5 * width * _of_noise(task, data[place], noise[place])) for place in places]


def _of_noise(task: Task, data: Tensor, noise: Tensor) -> float:
    """What a squared error of the task's prediction is multiplied by to be one of the noise."""
    shares = {"noise": torch.ones(()), "data": data / noise}
    return float(shares.get(task.kind, data).square())  # of a velocity on the linear path, and of v, the data's share


@torch.inference_mode()
def misfits(
    denoiser: Denoiser,
    task: Task,
    latents_BCHW: Tensor,
    texts_MBLE: Sequence[Tensor],
    levels: Sequence[Level],
    noises_NCHW: Tensor,
) -> Tensor:
    """-log p(latents | text) in nats [B,M], but for a constant of each image.

    Args:
        denoiser: the network; it is asked once a level and text, B rows at a time.
        task: what it predicts.
        latents_BCHW: the images, as it is trained on them.
        texts_MBLE: M texts of each image [B,L,E], as the denoiser takes them.
        levels: where it is asked.
        noises_NCHW: the noise of each level, the same for all images and texts.
    """
    found_BM = latents_BCHW.new_zeros(len(latents_BCHW), len(texts_MBLE))
    for level, noise_CHW in zip(levels, noises_NCHW, strict=True):
        noise_BCHW, t_B = noise_CHW.expand_as(latents_BCHW), latents_BCHW.new_full((len(latents_BCHW),), level.t)
        x_BCHW, right_BCHW = task.path.at(latents_BCHW, noise_BCHW, t_B), task.target(latents_BCHW, noise_BCHW, t_B)
        for text, text_BLE in enumerate(texts_MBLE):
            error_BCHW = denoiser(x_BCHW, task.clock(t_B), text_BLE) - right_BCHW
            found_BM[:, text] += level.weight * error_BCHW.square().flatten(1).sum(1)
    return found_BM

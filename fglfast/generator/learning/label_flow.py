"""A flow of labels beside the generator's flow of images: one pass says which class an image is of.

Image and label flow in opposite directions (Symmetrical Flow Matching, 2025): at time t, where the image is
(1-t) x0 + t e, the label is t y + (1-t) n, with y one-hot and n noise. A network learns the label's velocity y - n from
both. At t=0 the label is noise alone, so what is best to say is the mean of y given the image, less that noise: one
step from there gives the probability of each class.

The network is one of its own, on latents: the UNet's features will not do, as the prompt tells them the label. So the
generator is the same with it and without.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.resnet import ResnetBlock2D
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fglfast.base.config import Settings
from fglfast.base.errors import BadInputError
from fglfast.base.untrusted import loading
from fglfast.generator.configs import read_optional
from fglfast.generator.learning.fitting import Fit, FitSettings
from fglfast.generator.learning.flow import TIMESTEPS
from fglfast.generator.learning.paths import LINEAR
from fglfast.generator.parts import part

FOLDER, CONFIG, WEIGHTS = "label_flow", "config.json", "model.safetensors"
WIDTH, GROUPS, CLOCK = 48, 8, 32
SMALLEST = 4  # side of the latents at which they are averaged
FIT = FitSettings(steps=2000, batch_size=64, learning_rate=2e-3, ema_decay=0.99, warmup_steps=50, seed=3)
HINT = "give a model that fglfast pretrain --label-flow made"


class LabelFlowConfig(Settings):
    """What a label flow is of: the names of its classes, and channels and side of the latents."""

    class_names: tuple[str, ...] = Field((), min_length=1)
    channels: int = Field(1, ge=1, le=256)
    side: int = Field(1, ge=1, le=512)


class LabelFlow(nn.Module):
    """(latents [B,C,H,W], labels [B,K], t [B]) -> velocity of the labels [B,K]."""

    def __init__(self, channels: int, side: int, classes: int) -> None:
        super().__init__()
        self.classes, told = classes, 2 * WIDTH
        self.clock, self.time = Timesteps(CLOCK, True, 0.0), TimestepEmbedding(CLOCK, told)
        self.label, self.enter = nn.Linear(classes, told), nn.Conv2d(channels, WIDTH, 3, padding=1)
        self.blocks, width = nn.ModuleList(), WIDTH
        while True:
            self.blocks.append(_block(width, width, told))
            if side <= SMALLEST:
                break
            self.blocks.append(_block(width, wide := min(2 * width, 4 * WIDTH), told, down=True))
            side, width = side // 2, wide
        self.leave = nn.Sequential(nn.GroupNorm(GROUPS, width), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.answer = nn.Sequential(nn.Linear(width + told, width), nn.SiLU(), nn.Linear(width, classes))

    def forward(self, latents: Tensor, labels: Tensor, t: Tensor) -> Tensor:
        """Return the velocity."""
        told = self.time(self.clock(TIMESTEPS * t)) + self.label(labels)
        features = self.enter(latents)
        for block in self.blocks:
            features = block(features, told)
        velocity: Tensor = self.answer(torch.cat([self.leave(features), told], dim=1))
        return velocity


def _block(inner: int, outer: int, told: int, down: bool = False) -> ResnetBlock2D:
    return ResnetBlock2D(in_channels=inner, out_channels=outer, temb_channels=told, groups=GROUPS, down=down)


@torch.no_grad()
def probabilities(flow: nn.Module, latents_BCHW: Tensor, classes: int) -> Tensor:
    """What a label flow says of images [B,K], in one pass: a step from no noise in the image and all in the label.

    The noise is its own mean, 0, for all images; what leaves [0,1] is cut off.
    """
    labels_BK, t_B = latents_BCHW.new_zeros(len(latents_BCHW), classes), latents_BCHW.new_zeros(len(latents_BCHW))
    said_BK = (labels_BK + flow(latents_BCHW, labels_BK, t_B)).double().clamp(1e-6, 1.0)
    chances_BK: Tensor = said_BK / said_BK.sum(1, keepdim=True)
    return chances_BK


def loss(flow: nn.Module, x0_BCHW: Tensor, label_B: Tensor, classes: int, generator: torch.Generator) -> Tensor:
    """Mean squared error of the label's velocity; times lie towards the image, where the flow will be asked."""
    device = x0_BCHW.device
    t_B = torch.rand(len(x0_BCHW), generator=generator).square().to(device)
    noise_BCHW = torch.randn(x0_BCHW.shape, generator=generator).to(device)
    noise_BK = torch.randn(len(x0_BCHW), classes, generator=generator).to(device)
    right_BK = torch.nn.functional.one_hot(label_B.to(device), classes).float()
    x_BCHW, y_BK = LINEAR.at(x0_BCHW, noise_BCHW, t_B), LINEAR.at(noise_BK, right_BK, t_B)
    error_BK: Tensor = flow(x_BCHW, y_BK, t_B) - (right_BK - noise_BK)
    return error_BK.square().mean()


@dataclass(frozen=True)
class LabelledLatents:
    """What a label flow learns from.

    Attributes:
        moments_N2CHW: posterior mean and deviation of every image's latents, as the VAE has them.
        labels_N: their classes.
        scale: of the latents, for the UNet.
        class_names: by label.
    """

    moments_N2CHW: Tensor
    labels_N: Tensor
    scale: float
    class_names: tuple[str, ...]


def train_label_flow(given: LabelledLatents, settings: FitSettings, state: Path, device: str = "cpu") -> LabelFlow:
    """Train one; killed, it goes on from its last checkpoint in `state`."""
    _, _, channels, side, _ = given.moments_N2CHW.shape
    classes = len(given.class_names)
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        flow = LabelFlow(channels, side, classes).to(device)
    fit = Fit("labels", nn.ModuleDict({"labels": flow}), settings, state)

    def loss_function(batch_size: int, generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(given.labels_N), (batch_size,), generator=generator)
        mean_BCHW, std_BCHW = given.moments_N2CHW[rows].unbind(dim=1)
        x0_BCHW = given.scale * (mean_BCHW + std_BCHW * torch.randn(mean_BCHW.shape, generator=generator))
        return loss(flow, x0_BCHW.to(device), given.labels_N[rows], classes, generator)

    fit.run(loss_function)
    return flow


def save_label_flow(flow: LabelFlow, class_names: Sequence[str], shape: Sequence[int], model: Path) -> None:
    """Write one for latents of a shape [C,H,W] into a model folder, beside what diffusers reads there; float16."""
    folder = model / FOLDER
    folder.mkdir()
    known = LabelFlowConfig(class_names=tuple(class_names), channels=shape[0], side=shape[1])
    known.save(folder / CONFIG)
    halves = {name: weights.detach().cpu().half().contiguous() for name, weights in flow.state_dict().items()}
    save_file(halves, folder / WEIGHTS)


def load_label_flow(model: Path, device: str = "cpu") -> tuple[LabelFlow, tuple[str, ...]]:
    """The label flow of a model folder, and the names of its classes.

    Raises:
        BadInputError: it has none, or one that is damaged.
    """
    folder = part(model, FOLDER)
    if not folder.is_dir():
        raise BadInputError(f"{model}: this generator has no label flow", HINT)
    known = read_optional(folder / CONFIG, LabelFlowConfig)
    with loading(folder):
        flow = LabelFlow(known.channels, known.side, len(known.class_names))
        flow.load_state_dict({name: weights.float() for name, weights in load_file(folder / WEIGHTS).items()})
    return flow.eval().requires_grad_(False).to(device), known.class_names

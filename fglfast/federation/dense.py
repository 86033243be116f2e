"""An ensemble distilled without data: DENSE (Zhang et al., NeurIPS 2022, arXiv 2112.12371).

Two stages in turn. A generator learns images that the ensemble names as it is told (cross-entropy), on which the
features of each client's model are distributed as its batch normalisation remembers (statistics), and of which ensemble
and model say different things (boundary). Then the model learns, on all images drawn so far, what the ensemble says of
them: the mean of the logits. As in the authors' code, the generator begins anew each epoch, its noise is learned with
it, and the images of its best step are kept.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate, kl_div

from fglfast.base.console import Progress
from fglfast.federation.experiment import Dense
from fglfast.training.augment import Augmentation
from fglfast.training.batches import step_seed
from fglfast.training.predict import logits_of

NOISE = 256  # numbers that an image is drawn from
CROP, FIT, LEARN = range(3)  # what draws of an epoch are for


class DenseGenerator(nn.Module):
    """Draws images [B,3,S,S] in -1 to 1 from noise [B,`NOISE`]: two convolutions, each at twice the size.

    Args:
        size: S, in pixels.
        width: channels of the last convolution; the first has twice as many.
    """

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.size, self.side, self.width = size, -(-size // 4), width
        self.first = nn.Linear(NOISE, 2 * width * self.side**2)
        self.norm = nn.BatchNorm2d(2 * width)
        self.blocks = nn.ModuleList(_block(2 * width, channels) for channels in (2 * width, width))
        self.last = nn.Conv2d(width, 3, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.normal_(module.weight, 0.0, 0.02)

    def forward(self, noise_BZ: Tensor) -> Tensor:
        """Images of a batch."""
        drawn = self.norm(self.first(noise_BZ).view(len(noise_BZ), 2 * self.width, self.side, self.side))
        for block in self.blocks:
            drawn = block(interpolate(drawn, scale_factor=2.0))
        images_B3SS: Tensor = self.last(drawn).tanh()
        return images_B3SS[..., : self.size, : self.size]


def _block(inner: int, outer: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inner, outer, 3, padding=1, bias=False), nn.BatchNorm2d(outer), nn.LeakyReLU(0.2, inplace=True)
    )


def distill_ensemble(
    models: Sequence[nn.Module], student: nn.Module, classes: int, augment: Augmentation, settings: Dense, seed: int
) -> None:
    """Train a classifier in place on nothing but what others say; PyTorch's global generator is left as it was.

    Args:
        models: the ensemble, with batch statistics of their own if they have such layers; they stay as they are.
        student: what learns, where they all are.
        classes: how many.
        augment: of the images that are drawn; its size is theirs.
        settings: how.
        seed: of noise, weights, labels, order and augmentation.
    """
    for model in models:
        model.eval().requires_grad_(False)
    optimizer = torch.optim.SGD(student.parameters(), settings.learning_rate, momentum=0.9)
    drawn: list[Tensor] = []
    device = next(student.parameters()).device
    forked = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
    with forked, Progress("dense", settings.epochs, unit="epoch") as progress:
        for epoch in range(settings.epochs):
            torch.manual_seed(step_seed(seed, epoch, FIT, 0))
            drawn.append(_draw(models, student, classes, augment, settings, step_seed(seed, epoch, CROP, 0)))
            torch.manual_seed(step_seed(seed, epoch, LEARN, 0))
            _learn(models, student, optimizer, torch.cat(drawn), augment, settings.batch_size)
            progress.advance(1)


def _draw(
    models: Sequence[nn.Module],
    student: nn.Module,
    classes: int,
    augment: Augmentation,
    settings: Dense,
    seed: int,
) -> Tensor:
    """A batch of images [B,3,S,S] by a generator that is fitted for them."""
    device = next(student.parameters()).device  # what is drawn is the same on any
    labels_B = torch.randint(classes, (settings.batch_size,)).to(device)
    noise_BZ = torch.randn(settings.batch_size, NOISE).to(device).requires_grad_()
    drawer = DenseGenerator(augment.image_size, settings.width).to(device)
    optimizer = torch.optim.Adam([*drawer.parameters(), noise_BZ], settings.generator_rate, betas=(0.5, 0.999))
    student.eval().requires_grad_(False)
    best_B3SS, lowest = torch.empty(0), float("inf")
    with watched(models) as gaps:
        for step in range(settings.generator_steps):
            gaps.clear()
            images_B3SS = drawer(noise_BZ)
            shown_B3SS = augment(images_B3SS, seed + step)
            wanted_BK, said_BK = together(models, shown_B3SS), together([student], shown_B3SS)
            loss = cross_entropy(wanted_BK, labels_B) - settings.boundary * disagreement(wanted_BK, said_BK)
            if gaps:
                loss = loss + settings.statistics * torch.stack(gaps).sum() / len(models)
            if loss.item() < lowest or not len(best_B3SS):
                best_B3SS, lowest = images_B3SS.detach(), loss.item()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    student.requires_grad_(True)
    return best_B3SS


def _learn(
    models: Sequence[nn.Module],
    student: nn.Module,
    optimizer: torch.optim.Optimizer,
    images_N3SS: Tensor,
    augment: Augmentation,
    batch_size: int,
) -> None:
    """One pass over images, each in a crop of its own."""
    student.train()
    for rows in torch.randperm(len(images_N3SS)).split(batch_size):
        shown_B3SS = augment(images_N3SS[rows], int(torch.randint(2**31, ())))
        with torch.no_grad():
            wanted_BK = together(models, shown_B3SS)
        loss = divergence(wanted_BK, together([student], shown_B3SS)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def together(models: Sequence[nn.Module], images_B3SS: Tensor) -> Tensor:
    """The mean of the models' logits [B,K]."""
    images_B3SS = images_B3SS.contiguous(memory_format=torch.channels_last)
    return torch.stack([logits_of(model(pixel_values=images_B3SS)) for model in models]).mean(0)


def divergence(wanted_BK: Tensor, said_BK: Tensor) -> Tensor:
    """Kullback-Leibler divergence [B] of what is said from what is wanted, both logits."""
    return kl_div(said_BK.log_softmax(1), wanted_BK.log_softmax(1), reduction="none", log_target=True).sum(1)


def disagreement(wanted_BK: Tensor, said_BK: Tensor) -> Tensor:
    """The mean divergence, counted as nothing where both name the same class."""
    differ_B = wanted_BK.argmax(1) != said_BK.argmax(1)
    return (divergence(wanted_BK, said_BK) * differ_B).mean()


@contextmanager
def watched(models: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Collects, layer by layer, how far the mean and the variance of a batch are from those of batch normalisation."""
    gaps: list[Tensor] = []

    def look(norm: Any, inputs: tuple[Tensor, ...]) -> None:
        variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3), correction=0)
        gaps.append((mean - norm.running_mean).norm() + (variance - norm.running_var).norm())

    with ExitStack() as hooks:
        for module in (module for model in models for module in model.modules()):
            if isinstance(module, nn.BatchNorm2d):
                hooks.callback(module.register_forward_pre_hook(look).remove)
        yield gaps

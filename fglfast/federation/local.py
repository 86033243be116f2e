"""How a client trains the global model on its own images in one round.

Training is plain PyTorch: a client is somebody's laptop. Every draw depends on (seed, epoch, step), so a round that is
run again gives the same weights.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor, nn

from fglfast.federation.experiment import LocalSettings
from fglfast.training.batches import TrainingData
from fglfast.training.fit import PlainEngine, fit
from fglfast.training.settings import TrainSettings


def train_locally(
    model: nn.Module,
    images: TrainingData,
    settings: LocalSettings,
    seed: int,
    proximal_mu: float = 0.0,
    number: int = 1,
) -> float:
    """Train a model in place for one round; returns the mean loss of its last epoch, NaN if it saw no image.

    Args:
        model: the global model, where it computes.
        images: the client's; those that are held out are not looked at.
        settings: how.
        seed: of order and augmentation.
        proximal_mu: FedProx's weight of the distance to the weights it began with; 0 is FedAvg.
        number: of the round, from 1, which decides the rate where that decays.
    """
    batch_size = min(settings.batch_size, len(images.train))  # fewer images than a batch are one batch
    if batch_size < 2:  # batch normalisation refuses one
        return float("nan")
    start = [weight.detach().clone() for weight in model.parameters()]

    def proximal_term() -> Tensor:
        squares = [(now - then).square().sum() for now, then in zip(model.parameters(), start, strict=True)]
        return 0.5 * proximal_mu * torch.stack(squares).sum()

    shared = settings.model_dump(include={"epochs", "crop_padding", "flip", "erasing"})
    asked = TrainSettings(batch_size=batch_size, label_smoothing=0.0, seed=seed, **shared)
    rate = settings.learning_rate * settings.rate_decay ** (number - 1)
    optimizer = torch.optim.SGD(model.parameters(), rate, momentum=0.9, weight_decay=settings.weight_decay)
    shown = replace(images, held_out=images.held_out[:0])
    with _fixed_statistics(model) if settings.statistics == "fixed" else nullcontext():
        history = fit(PlainEngine(model, optimizer), shown, asked, penalty=proximal_term if proximal_mu else None)
    loss: float = history[-1]["train_loss"]
    return loss


@contextmanager
def _fixed_statistics(model: nn.Module) -> Iterator[None]:
    """Batch normalisation by the statistics that came with the weights, which stay as they are.

    Each client's own statistics differ where its classes do, and their average is nobody's (Hsieh et al., arXiv
    1910.00189).
    """
    with ExitStack() as hooks:
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                hooks.callback(module.register_forward_pre_hook(_frozen).remove)
        yield


def _frozen(module: nn.Module, _: object) -> None:
    module.train(False)

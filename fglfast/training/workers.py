"""The processes of one training run and DeepSpeed's engine in each of them. Knows no files and no epochs."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fglfast.base.errors import UsageError
from fglfast.training.model import build_model, decay_groups, load_weights
from fglfast.training.settings import TrainSettings, deepspeed_config

NO_PICKLES = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"  # PyTorch's: whatever a caller of torch.load says


@dataclass(frozen=True)
class World:
    """This process among its peers."""

    rank: int
    size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this process writes the files and speaks."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum of a tensor over all processes, in every process."""
        total = values.clone()
        torch.distributed.all_reduce(total)
        return total


def join_world() -> World:
    """Start the process group through DeepSpeed: gloo between CPU processes, NCCL between GPUs."""
    cuda = torch.cuda.is_available()
    local_rank, local_size = int(os.environ["LOCAL_RANK"]), os.environ.get("LOCAL_WORLD_SIZE", "1")
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if cuda else "cpu")
    os.environ.setdefault("LOCAL_SIZE", local_size)
    import deepspeed

    deepspeed.utils.logger.setLevel("ERROR")
    # Compiled on first use, for inference only: training needs neither it nor a compiler.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    device = torch.device("cuda", local_rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    deepspeed.init_distributed(verbose=False)
    return World(torch.distributed.get_rank(), torch.distributed.get_world_size(), device)


def start_engine(
    settings: TrainSettings, class_names: tuple[str, ...], image_size: int, world: World, steps: int
) -> Any:
    """Build the model and hand it to DeepSpeed with its optimiser and schedule."""
    import deepspeed

    torch.manual_seed(settings.seed)
    model: Any = build_model(settings.arch, class_names)
    if settings.initial is not None:
        load_weights(model, settings.initial)
    wanted = getattr(model.config, "image_size", None)
    if isinstance(wanted, int) and wanted != image_size:
        raise UsageError(
            f"{settings.arch} takes images of {wanted} pixels, not {image_size}",
            f"Set image_size to {wanted}, or change the config.",
        )
    bf16 = world.device.type == "cuda" and torch.cuda.is_bf16_supported()
    config = deepspeed_config(settings, world.size, bf16)
    schedule = partial(
        torch.optim.lr_scheduler.LambdaLR, lr_lambda=lambda step: settings.rate_factor(step, max(1, steps))
    )
    groups = decay_groups(model, settings.weight_decay)
    ours: dict[str, Any] = {"model_parameters": model.parameters()}
    if "optimizer" not in config:
        ours["optimizer"] = (
            torch.optim.AdamW(groups, lr=settings.learning_rate)
            if settings.optimizer == "adamw"
            else torch.optim.SGD(groups, lr=settings.learning_rate, momentum=0.9, nesterov=True)
        )
    if "scheduler" not in config:
        ours["lr_scheduler"] = schedule
    engine, *_ = deepspeed.initialize(model=model, config=config, **ours)
    return engine


@contextmanager
def without_pickles() -> Iterator[None]:
    """Have DeepSpeed read checkpoints by PyTorch's restricted reader: it unpickles them, which would run their code."""
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    before = os.environ.get(NO_PICKLES)
    os.environ[NO_PICKLES] = "1"
    try:
        with torch.serialization.safe_globals([LossScaler, ZeroStageEnum, fragment_address]):
            yield
    finally:
        os.environ.pop(NO_PICKLES)
        if before is not None:
            os.environ[NO_PICKLES] = before

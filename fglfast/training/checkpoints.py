"""The checkpoints of a training run: when they are due, written and read through DeepSpeed's engine."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from fglfast.base.untrusted import loading
from fglfast.training.run_folder import RunFolder
from fglfast.training.world import World, environment

# Several processes agree on a checkpoint through a broadcast: not at every step.
AGREE_EVERY = 16


@dataclass
class Position:
    """How far a run has come; with the engine's own state, all that a checkpoint holds."""

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    epoch_seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Checkpoints:
    """What a run needs to go on after a kill, in its folder.

    Attributes:
        engine: DeepSpeed's.
        folder: of the run.
        world: this process among its peers.
        every: seconds between two checkpoints, beside those that are asked for.
        saved: when the last was, by the monotonic clock.
    """

    engine: Any
    folder: RunFolder
    world: World
    every: float
    saved: float = field(default_factory=time.monotonic)

    def due(self, step: int) -> bool:
        """Whether the time for one has come; rank 0's clock decides for all."""
        late = time.monotonic() - self.saved > self.every
        if self.world.size == 1:
            return late
        if step % AGREE_EVERY:
            return False
        answer = torch.tensor([late], dtype=torch.uint8, device=self.world.device)
        self.world.follow(answer)
        return bool(answer.item())

    def save(self, at: Position) -> None:
        """Write the engine's state and the position under a temporary tag, then make it the latest."""
        tag = f"epoch{at.epoch:05d}-step{at.step:07d}"
        self.engine.save_checkpoint(
            str(self.folder.checkpoints), tag=f"{tag}.tmp", client_state={"position": vars(at)}, save_latest=False
        )
        if self.world.leads:
            self.folder.publish(f"{tag}.tmp", tag)
            self.folder.write_history(at.history)  # last: what a kill could take back is not told
        self.world.wait()
        self.saved = time.monotonic()

    def restore(self) -> Position:
        """Put the newest checkpoint into the engine; the beginning if there is none.

        Raises:
            BadInputError: it cannot be read.
        """
        tag = self.folder.newest_tag()
        if tag is None:
            return Position()
        hint = "use as many processes as before, or delete the checkpoint folder to start anew"
        with loading(f"the checkpoint {self.folder.checkpoints / tag}", hint), without_pickles():
            _, state = self.engine.load_checkpoint(str(self.folder.checkpoints), tag=tag)
            at = Position(**state["position"])
        if self.world.leads:
            self.folder.write_history(at.history)
        return at


@contextmanager
def without_pickles() -> Iterator[None]:
    """Have DeepSpeed read checkpoints by PyTorch's restricted reader: it unpickles them, which would run their code."""
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    allowed: list[Any] = [LossScaler, ZeroStageEnum, fragment_address]
    # PyTorch's variable holds whatever a caller of torch.load says.
    with environment(TORCH_FORCE_WEIGHTS_ONLY_LOAD="1"), torch.serialization.safe_globals(allowed):
        yield

"""One resumable optimisation: warmup-stable-decay, EMA, atomic checkpoints.

Every random draw of step k comes from a generator keyed by (seed, k), so a run that was killed and
resumed makes the same draws as one that was not, and nothing but the weights need be saved.
"""

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from fglfast.base.config import Settings
from fglfast.base.console import Progress, note
from fglfast.base.files import replacing, write_atomic

LOG_EVERY = 50  # steps
PATIENCE = 3  # grids in a row without a gain, after which the rate begins to fall
GAIN = 2e-3  # of the held-out loss, as a share of it: less is none

LossFunction = Callable[[int, torch.Generator], Tensor]


class FitSettings(Settings):
    """How long and how fast one network is trained."""

    steps: int
    batch_size: int
    learning_rate: float
    ema_decay: float = 0.999
    weight_decay: float = 0.01
    warmup_steps: int = 200
    decay_share: float = 0.25
    checkpoint_seconds: float = 60.0
    seed: int = 0

    def rate_at(self, step: int, end: int | None = None) -> float:
        """Learning rate of a step: linear warm-up, constant, then 1-sqrt decay (arXiv 2405.18392).

        The decay is a share of `steps`, so a finished run is made longer by asking for more steps; or of another `end`.
        """
        end = self.steps if end is None else end
        decay_steps = max(1, round(self.decay_share * end))
        into_decay, warm = step - (end - decay_steps), min(1.0, (step + 1) / self.warmup_steps)
        if into_decay > 0:
            return self.learning_rate * min(warm, 1.0 - math.sqrt(into_decay / decay_steps)) + 1e-8
        return self.learning_rate * warm


class Fit:
    """The state of one optimisation: modules, optimiser, EMA and the step reached."""

    def __init__(self, name: str, modules: nn.ModuleDict, settings: FitSettings, folder: Path) -> None:
        self.name, self.modules, self.settings = name, modules, settings
        self.checkpoint, self.metrics = folder / f"{name}.pt", folder / f"{name}-metrics.jsonl"
        self.parameters = [p for p in modules.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=settings.learning_rate, betas=(0.9, 0.99), weight_decay=settings.weight_decay
        )
        on_gpu = self.parameters[0].is_cuda  # there each launch counts; on a CPU the sums would be others, no faster
        self.ema = EMAModel(self.parameters, decay=settings.ema_decay, foreach=on_gpu)
        self.step, self.end = 0, settings.steps
        self.best: tuple[int, float] | None = None  # grids without a gain since, and the lowest held-out loss
        self.seconds = 0.0
        self.noted: dict[str, float] = {}  # what a loss function wants logged beside its loss
        if self.checkpoint.exists():
            self._restore()

    def run(
        self,
        loss_function: LossFunction,
        on_grid: Callable[[int], None] = lambda _: None,
        grid_every: int = 1000,
        held_out: Callable[[], float] | None = None,
    ) -> None:
        """Train up to `settings.steps`, saving as it goes; leaves the EMA weights in the modules.

        Args:
            loss_function: of a batch of some size, with a step's generator.
            on_grid: shows what the averaged weights do, every `grid_every` steps.
            grid_every: steps.
            held_out: a loss on data that is not learned from, under the averaged weights. When it no longer falls, the
                rate begins to, and the training ends early.
        """
        self.modules.train()
        started, saved = time.monotonic() - self.seconds, time.monotonic()
        smoothed: float | None = None
        with Progress(self.name, total=self.end, start=self.step, unit="step") as progress:
            while self.step < self.end:
                loss = self._one_step(loss_function)
                smoothed = loss if smoothed is None else 0.98 * smoothed + 0.02 * loss
                progress.advance(1, loss=f"{smoothed:.4f}")
                self.seconds = time.monotonic() - started
                grid = self.step % grid_every == 0 or self.step == self.end
                if grid:
                    with self.averaged():
                        on_grid(self.step)
                        if held_out:
                            self._weigh(held_out())
                            progress.total = self.end
                if grid or self.step % LOG_EVERY == 0:
                    self._log(smoothed)
                    self.noted.pop("held_out", None)
                if time.monotonic() - saved > self.settings.checkpoint_seconds:
                    self.save()
                    saved = time.monotonic()
        self.save()
        self.ema.copy_to(self.parameters)
        self.modules.eval()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Hold the EMA weights in the modules, in evaluation mode."""
        self.ema.store(self.parameters)
        self.ema.copy_to(self.parameters)
        self.modules.eval()
        try:
            yield
        finally:
            self.ema.restore(self.parameters)
            self.modules.train()

    def save(self) -> None:
        """Write the checkpoint; a kill leaves the last one whole."""
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "asked": self.settings.steps,
            "end": self.end,
            "best": self.best,
            "modules": self.modules.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict(),
        }
        with replacing(self.checkpoint) as stream:
            torch.save(state, stream)

    def _one_step(self, loss_function: LossFunction) -> float:
        generator = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.rate_at(self.step, self.end)
        loss = loss_function(self.settings.batch_size, generator)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.ema.step(self.parameters)
        self.step += 1
        return float(loss.detach())

    def _weigh(self, loss: float) -> None:
        """Let the rate fall from here on if the held-out loss has not fallen for `PATIENCE` grids."""
        self.noted["held_out"] = round(loss, 6)
        since, lowest = self.best or (0, math.inf)
        self.best = (0, loss) if loss < (1 - GAIN) * lowest else (since + 1, lowest)
        early = math.ceil(self.step / (1 - self.settings.decay_share))  # such that the rate begins to fall now
        if self.best[0] == PATIENCE and early < self.end:
            note(
                f"{self.name}: the loss on held-out images, {loss:.4f}, no longer falls: the rate does from step "
                f"{self.step} on, and the training ends at {early} of {self.end} steps"
            )
            self.end = early

    def _restore(self) -> None:
        # AdamW counts its steps on the CPU: on a GPU, each step would wait for each parameter's count.
        state: dict[str, Any] = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        self.step, self.seconds = state["step"], state["seconds"]
        if state.get("asked") == self.settings.steps:  # asked for other steps, it is not held to an early end
            self.end, self.best = state["end"], state["best"]
        self.modules.load_state_dict(state["modules"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema.load_state_dict(state["ema"])
        self.ema.to(self.parameters[0].device)
        if self.metrics.exists():
            lines = self.metrics.read_text(encoding="utf-8").splitlines(keepends=True)
            write_atomic(self.metrics, "".join(line for line in lines if self._is_done(line)))

    def _is_done(self, line: str) -> bool:
        """Whether a logged row is of a step until the checkpoint; a killed run's later ones are written again."""
        try:
            return bool(json.loads(line)["step"] <= self.step)
        except (ValueError, KeyError, TypeError):  # cut off by the kill
            return False

    def _log(self, loss: float) -> None:
        row = {
            "step": self.step,
            "loss": round(loss, 6),
            "rate": self.settings.rate_at(self.step, self.end),
            "seconds": round(self.seconds, 1),
            **self.noted,
        }
        with self.metrics.open("a") as stream:
            stream.write(json.dumps(row) + "\n")

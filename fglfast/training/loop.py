"""The DeepSpeed worker: one process of a training run, from the index of the shards to the saved model.

It does not know how it was started (see launch.py): RANK, WORLD_SIZE and LOCAL_RANK are in the environment.
Order, augmentation and dropout of a step depend on (seed, epoch, step, rank) alone, so a killed run goes on
from its checkpoint to the very weights it would have had; bit for bit on a CPU at the same world size.
"""

import os
import sys
import threading
import time
import traceback
from contextlib import nullcontext, redirect_stdout, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fglfast.base.console import Progress, note
from fglfast.base.errors import BadInputError, ExitCode, FglError
from fglfast.base.limits import as_limit
from fglfast.shards.description import read_description
from fglfast.training.augment import Augmentation
from fglfast.training.batches import TrainingData, epoch_rows, load_data, step_seed
from fglfast.training.model import save_model
from fglfast.training.run_folder import RunFolder, identity
from fglfast.training.settings import Job, TrainResult, WorkerError
from fglfast.training.workers import World, join_world, start_engine, without_pickles

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


class Training:
    """One run in one process: the engine, the data and the position reached."""

    def __init__(self, job: Job, folder: RunFolder, data: TrainingData, world: World) -> None:
        self.settings, self.folder, self.data, self.world = job.settings, folder, data, world
        self.epoch_steps = len(data.train) // self.settings.batch_size
        self.steps = self.settings.epochs * self.epoch_steps
        self.engine = start_engine(
            self.settings, data.description.class_names, data.images.image_size, world, self.steps
        )
        size, settings = data.images.image_size, self.settings
        self.augmentation = Augmentation(size, settings.crop_padding, settings.flip, settings.erasing)
        self.at = Position()
        self.saved = time.monotonic()

    def run(self) -> None:
        """Train from the newest checkpoint, if there is one, to the last epoch."""
        self._restore()
        batch = self.settings.batch_size
        done = (self.at.epoch * self.epoch_steps + self.at.step) * batch
        progress = Progress("train", total=self.steps * batch, start=done) if self.world.leads else None
        with progress or nullcontext():
            while self.at.epoch < self.settings.epochs:
                self._epoch(progress)

    def _epoch(self, progress: Progress | None) -> None:
        """The rest of the current epoch, its validation, its row of the history and its checkpoint."""
        at, settings, world = self.at, self.settings, self.world
        begun, before = time.monotonic(), at.epoch_seconds
        # Summed on the device: reading a loss at every step would make a GPU wait for it.
        loss_sum = torch.zeros((), dtype=torch.float64, device=world.device)
        rows = epoch_rows(
            self.data.train, settings.batch_size, settings.seed, at.epoch, world.rank, world.size, at.step
        )
        self.engine.train()
        for images, labels in self.data.batches(rows, world.device):
            loss_sum += self._step(images, labels)
            at.step += 1
            if progress:
                progress.advance(settings.batch_size, epoch=f"{at.epoch + 1}/{settings.epochs}", **self._last_row())
            if at.step < self.epoch_steps and self._checkpoint_due():
                at.epoch_seconds = before + time.monotonic() - begun
                self._save(loss_sum)
        at.loss_sum += world.sum(loss_sum).item() / world.size
        loss, accuracy = self._validate()
        at.epoch_seconds = before + time.monotonic() - begun
        at.history.append(self._row(loss, accuracy))
        at.epoch, at.step, at.loss_sum, at.epoch_seconds = at.epoch + 1, 0, 0.0, 0.0
        if world.leads:
            self.folder.write_history(at.history)
        self._save(torch.zeros_like(loss_sum))

    def _step(self, images: Tensor, labels: Tensor) -> Tensor:
        """One optimiser step; returns the mean loss of this process's images."""
        seed = step_seed(self.settings.seed, self.at.epoch, self.at.step, self.world.rank)
        images = self.augmentation(images, seed)
        torch.manual_seed(seed)
        parts = self.engine.gradient_accumulation_steps()
        mean = torch.zeros((), dtype=torch.float64, device=self.world.device)
        for part, target in zip(images.chunk(parts), labels.chunk(parts), strict=True):
            loss = cross_entropy(self._logits(part), target, label_smoothing=self.settings.label_smoothing)
            self.engine.backward(loss)
            self.engine.step()
            mean += loss.detach() / parts
        return mean

    def _logits(self, images: Tensor) -> Tensor:
        layout = torch.channels_last if self.settings.channels_last else torch.contiguous_format
        logits: Tensor = self.engine(pixel_values=images.contiguous(memory_format=layout)).logits
        return logits.float()

    @torch.no_grad()
    def _validate(self) -> tuple[float | None, float | None]:
        """Mean loss and accuracy on the held-out synthetic images, each process judging its part of them."""
        if not len(self.data.held_out):
            return None, None
        if self.world.size > 1:
            for buffer in self.engine.module.buffers():  # batch statistics: one set for all, rank 0's
                torch.distributed.broadcast(buffer, 0)
        self.engine.eval()
        mine = self.data.held_out[self.world.rank :: self.world.size]
        size = self.settings.batch_size
        sums = torch.zeros(2, dtype=torch.float64, device=self.world.device)
        parts = (mine[start : start + size] for start in range(0, len(mine), size))
        for images, labels in self.data.batches(parts, self.world.device):
            logits = self._logits(images)
            sums[0] += cross_entropy(logits, labels, reduction="sum")
            sums[1] += (logits.argmax(1) == labels).sum()
        loss, correct = (self.world.sum(sums) / len(self.data.held_out)).tolist()
        return round(loss, 6), round(correct, 6)

    def _row(self, loss: float | None, accuracy: float | None) -> dict[str, Any]:
        images = self.epoch_steps * self.settings.batch_size
        return {
            "epoch": self.at.epoch + 1,
            "step": (self.at.epoch + 1) * self.epoch_steps,
            "train_loss": round(self.at.loss_sum / self.epoch_steps, 6),
            "val_loss": loss,
            "val_accuracy": accuracy,
            "seconds": round(self.at.epoch_seconds, 3),
            "images_per_second": round(images / max(self.at.epoch_seconds, 1e-9), 2),
        }

    def _last_row(self) -> dict[str, str]:
        if not self.at.history:
            return {}
        row = self.at.history[-1]
        facts = {"loss": f"{row['train_loss']:.4f}"}
        return facts | ({"accuracy": f"{row['val_accuracy']:.4f}"} if row["val_accuracy"] is not None else {})

    def _checkpoint_due(self) -> bool:
        """Whether the time for a checkpoint has come; rank 0's clock decides for all."""
        late = time.monotonic() - self.saved > self.settings.checkpoint_seconds
        if self.world.size == 1:
            return late
        if self.at.step % AGREE_EVERY:
            return False
        answer = torch.tensor([late], dtype=torch.uint8, device=self.world.device)
        torch.distributed.broadcast(answer, 0)
        return bool(answer.item())

    def _save(self, loss_sum: Tensor) -> None:
        """Write a checkpoint under a temporary tag, then make it the latest."""
        loss = self.at.loss_sum + self.world.sum(loss_sum).item() / self.world.size
        tag = f"epoch{self.at.epoch:05d}-step{self.at.step:07d}"
        state = {"position": {**vars(self.at), "loss_sum": loss}}
        self.engine.save_checkpoint(
            str(self.folder.checkpoints), tag=f"{tag}.tmp", client_state=state, save_latest=False
        )
        if self.world.leads:
            self.folder.publish(f"{tag}.tmp", tag)
        torch.distributed.barrier()
        self.saved = time.monotonic()

    def _restore(self) -> None:
        tag = self.folder.newest_tag()
        if tag is None:
            return
        try:
            with without_pickles():
                _, state = self.engine.load_checkpoint(str(self.folder.checkpoints), tag=tag)
            self.at = Position(**state["position"])
        except Exception as error:  # DeepSpeed raises what each of its readers raises
            reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
            raise BadInputError(
                f"the checkpoint {self.folder.checkpoints / tag} cannot be resumed: {reason}",
                "Use as many processes as before, or delete the checkpoint folder to start anew.",
            ) from error
        if self.world.leads:
            self.folder.write_history(self.at.history)
            note(f"train: goes on at epoch {self.at.epoch + 1} of {self.settings.epochs}, step {self.at.step}")


def run_worker(job: Job) -> TrainResult:
    """Train in this process, one of WORLD_SIZE, and return the result.

    Raises:
        UsageError: the folder belongs to another run, or the settings contradict each other.
        BadInputError, IncompleteError: the synthetic data set cannot be used as it is.
    """
    run = identity(job, read_description(job.synthetic))
    folder = RunFolder(job.out)
    done = folder.result_of(run)
    if done:
        return done
    data = load_data(job)
    world = join_world()
    with folder.locked() if world.leads else nullcontext():
        if world.leads:
            folder.write_record(run, None)
        training = Training(job, folder, data, world)
        training.run()
        result = _result(job, training)
        if world.leads:
            save_model(training.engine.module, job.out, data.images.image_size)
            folder.write_record(run, result)
            folder.discard_checkpoints()
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
    return result


def _result(job: Job, training: Training) -> TrainResult:
    history, data = training.at.history, training.data
    seconds = sum(row["seconds"] for row in history)
    return TrainResult(
        model=job.out,
        images=len(data.train),
        validation_images=len(data.held_out),
        epochs=len(history),
        steps=training.steps,
        processes=training.world.size,
        parameters=sum(p.numel() for p in training.engine.module.parameters()),
        train_loss=history[-1]["train_loss"],
        val_loss=history[-1]["val_loss"],
        val_accuracy=history[-1]["val_accuracy"],
        seconds=round(seconds, 3),
        images_per_second=round(training.steps * job.settings.batch_size / max(seconds, 1e-9), 2),
        history=tuple(history),
    )


def main(job_file: Path) -> int:
    """Run one worker for launch.py: errors go to `error.json` beside the job file, the first one counts."""
    threading.Thread(target=_end_with_launcher, daemon=True).start()
    job = Job.model_validate_json(job_file.read_bytes())
    try:
        with redirect_stdout(sys.stderr):
            run_worker(job)
    except FglError as error:
        return _report(job_file, error)
    except Exception as error:
        traceback.print_exc()
        if limit := as_limit(error, str(job.out)):
            return _report(job_file, limit)
        last = (str(error).strip().splitlines() or ["no message"])[-1]
        return _report(job_file, FglError(f"training failed: {type(error).__name__}: {last}"))
    return ExitCode.DONE


def _report(job_file: Path, error: FglError) -> int:
    answer = WorkerError(kind=type(error).__name__, message=error.message.splitlines()[-1], hint=error.hint)
    with suppress(FileExistsError), job_file.with_name("error.json").open("x", encoding="utf-8") as stream:
        stream.write(answer.model_dump_json())
    return error.exit_code


def _end_with_launcher() -> None:
    """End when standard input closes: the launcher holds its other end, and may be killed without a word."""
    while os.read(0, 1):  # not sys.stdin: its lock would be in the way of a normal end
        pass
    os._exit(ExitCode.FAILURE)

"""A training run in one of its processes: from the index of the shards to the saved model."""

from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

from fglfast.base.config import first_problem
from fglfast.base.console import note
from fglfast.base.errors import UsageError
from fglfast.base.files import write_atomic
from fglfast.base.limits import as_limit
from fglfast.base.wording import first_line
from fglfast.base.writable import CARD
from fglfast.shards.description import Description, read_description
from fglfast.shards.index import SyntheticImages, read_images
from fglfast.shards.keep import places_left_out
from fglfast.training.arch_trial import check_takes
from fglfast.training.batches import TrainingData, split
from fglfast.training.card import card
from fglfast.training.checkpoints import Checkpoints
from fglfast.training.decoded import share_decoded
from fglfast.training.deepspeed_file import deepspeed_config
from fglfast.training.fit import fit, optimizer_of, schedule_of
from fglfast.training.half import computes_half
from fglfast.training.model import build_model, linear_head, load_weights, save_model
from fglfast.training.prototypes import prototypes_of, save_prototypes
from fglfast.training.results import TrainResult
from fglfast.training.run_folder import RunFolder, identity
from fglfast.training.settings import Job
from fglfast.training.tracking import monitor_section, offline, tracked
from fglfast.training.world import Join, World, environment


def run_job(job: Job, join: Join) -> TrainResult:
    """Train in this process and return the result.

    Raises:
        UsageError: the folder belongs to another run, the settings contradict each other, or the architecture cannot
            take the images.
        BadInputError, IncompleteError: the synthetic data set cannot be used as it is.
    """
    description = read_description(job.synthetic)
    run, folder = identity(job, description), RunFolder(job.out)
    done = folder.result_of(run)
    if done:
        return done
    images, data = load_data(job, description)
    check_takes(job.settings.arch, description.class_names, data.size)
    with join() as world, folder.locked() if world.leads else nullcontext():
        found = folder.result_of(run) if world.leads else None  # again: another may have had the lock until now
        if world.sum(torch.tensor(int(found is not None), device=world.device)):
            done = found or folder.result_of(run)
            assert done is not None
            return done
        with environment(**offline(job)):
            engine = start_engine(job, description.class_names, data, world)
            if world.leads:
                folder.write_record(run, None)  # now: a file that was refused may be mended and given again
                _tell_one_class(data, description)
            data = replace(data, pixels=share_decoded(images, world, job.out))
            checkpoints = Checkpoints(engine, folder, world, job.settings.checkpoint_seconds)
            with tracked(job, engine) if world.leads else nullcontext() as tell:
                history = fit(engine, data, job.settings, world, checkpoints, tell=tell, name=("train" if tell else ""))
        result = _result(job, data, engine.module, history, world)
        if world.leads:
            if linear_head(engine.module):
                save_prototypes(prototypes_of(engine.module, data.pixels, data.labels, data.train), job.out)
            save_model(engine.module, job.out, data.size)
            write_atomic(job.out / CARD, card(result, job.settings, description, data.size))
            folder.write_record(run, result)
            folder.discard_checkpoints()
        world.wait()
        engine.destroy()
    return result


def load_data(job: Job, description: Description) -> tuple[SyntheticImages, TrainingData]:
    """Index the shards and split their rows; no image is decoded yet.

    Raises:
        UsageError: there are fewer images to train on than one batch holds.
        BadInputError, IncompleteError: the folder is not a whole synthetic data set.
    """
    settings, images = job.settings, read_images(job.synthetic, description, job.settings.image_size)
    labels = images.index.labels
    kept = np.setdiff1d(np.arange(len(images)), places_left_out(job.synthetic, description, settings.keep))
    train, held_out = (kept[rows] for rows in split(labels[kept], settings.validation_share, settings.seed))
    if len(train) < settings.batch_size:
        raise UsageError(
            f"batch_size {settings.batch_size} is more than the {len(train)} images to train on",
            "choose a smaller batch_size, or synthesize more images",
        )
    return images, TrainingData(images, torch.from_numpy(labels), images.image_size, train, held_out)


def start_engine(job: Job, class_names: tuple[str, ...], data: TrainingData, world: World) -> Any:
    """Build the model and hand it to DeepSpeed with its optimiser and schedule.

    Raises:
        UsageError: DeepSpeed refuses what the user's file says.
    """
    settings = job.settings
    with torch.random.fork_rng(devices=[world.device] if world.device.type == "cuda" else []):
        torch.manual_seed(settings.seed)
        model: Any = build_model(settings.arch, class_names)
    if settings.initial is not None:
        load_weights(model, settings.initial)
    bf16 = computes_half(settings, model, data.size, world.device)
    config = monitor_section(job.track, job.out) | deepspeed_config(settings, world.size, bf16)
    ours: dict[str, Any] = {"model_parameters": model.parameters()}
    if "optimizer" not in config:
        ours["optimizer"] = optimizer_of(model, settings)
    if "scheduler" not in config:
        steps = settings.epochs * (len(data.train) // settings.batch_size)
        ours["lr_scheduler"] = partial(schedule_of, settings=settings, steps=steps)
    engine = _initialized(settings.deepspeed, model=model, config=config, **ours)
    if world.size == 1 and not config["zero_optimization"].get("stage"):
        engine.enable_backward_allreduce = False  # it copies all gradients twice, to sum them over one process
    return engine


def _initialized(theirs: Path | None, **given: Any) -> Any:
    """DeepSpeed's engine; what it raises of a user's file blames the file."""
    import deepspeed

    try:
        engine, *_ = deepspeed.initialize(**given)
    except Exception as error:  # each of its sections raises its own kind
        if theirs is None or as_limit(error) or _of_machine(error):
            raise
        reason = first_problem(error) if isinstance(error, ValidationError) else first_line(error)
        raise UsageError(
            f"{theirs}: DeepSpeed cannot use it ({reason})",
            "correct the section that this is about, or leave it out: https://www.deepspeed.ai/docs/config-json",
        ) from error
    return engine


def _of_machine(error: Exception) -> bool:
    """Whether an error comes from a device or from another process, which may be gone."""
    kinds = (torch.AcceleratorError, torch.distributed.DistError, ConnectionError)
    return isinstance(error, kinds) or any(word in str(error) for word in ("gloo", "NCCL", "Connection"))


def _tell_one_class(data: TrainingData, description: Description) -> None:
    present = torch.unique(data.labels[data.train]).tolist()
    if len(present) == 1:
        note(f"all images are of {description.class_names[present[0]]!r}: the model will call anything that")


def _result(
    job: Job, data: TrainingData, model: torch.nn.Module, history: list[dict[str, Any]], world: World
) -> TrainResult:
    seconds, steps = sum(row["seconds"] for row in history), history[-1]["step"]
    return TrainResult(
        model=job.out,
        images=len(data.train),
        validation_images=len(data.held_out),
        epochs=len(history),
        steps=steps,
        processes=world.size,
        parameters=sum(p.numel() for p in model.parameters()),
        train_loss=history[-1]["train_loss"],
        val_loss=history[-1]["val_loss"],
        val_accuracy=history[-1]["val_accuracy"],
        seconds=round(seconds, 3),
        images_per_second=round(steps * job.settings.batch_size / max(seconds, 1e-9), 2),
        history=tuple(history),
    )

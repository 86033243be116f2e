"""Verbs of a server that has its images: train the global model, and test it."""

from pathlib import Path
from typing import Annotated

import typer

from fglfast.base.console import emit_json, print_table, stdout
from fglfast.base.ranks import show_gpu
from fglfast.base.wording import many
from fglfast.training.settings import Tracker, TrainSettings
from fglfast.verbs.command import LOST, SERVER, tell, verb
from fglfast.verbs.documented import checked, option
from fglfast.verbs.options import AsJson, join_ranks
from fglfast.verbs.publishing import Private, PushToHub, pushed, repository
from fglfast.verbs.run_file import PrintConfig, check_printed, print_settings, run_file, without_option

TRAIN = TrainSettings()


@verb(SERVER)
def train(
    data: Annotated[Path, typer.Argument(help="Folder of synthetic images, as synthesize leaves it.")],
    out: Annotated[Path, typer.Option(help="Folder of the global model.")],
    arch: Annotated[str, option(TrainSettings, "arch")] = TRAIN.arch,
    epochs: Annotated[int, option(TrainSettings, "epochs")] = TRAIN.epochs,
    batch_size: Annotated[int, option(TrainSettings, "batch_size")] = TRAIN.batch_size,
    learning_rate: Annotated[float, option(TrainSettings, "learning_rate")] = TRAIN.learning_rate,
    image_size: Annotated[int | None, option(TrainSettings, "image_size")] = TRAIN.image_size,
    processes: Annotated[
        int, typer.Option(min=0, help="Training processes on this machine; 0 takes one a GPU, or one on the CPU.")
    ] = 0,
    deepspeed: Annotated[Path | None, option(TrainSettings, "deepspeed")] = TRAIN.deepspeed,
    seed: Annotated[int, option(TrainSettings, "seed")] = TRAIN.seed,
    keep: Annotated[str | None, option(TrainSettings, "keep")] = TRAIN.keep,
    push_to_hub: PushToHub = None,
    private: Private = False,
    track: Annotated[
        Tracker | None,
        typer.Option(help="Write each epoch's row there too, into the folder of the model: nothing is sent."),
    ] = None,
    config: Annotated[Path | None, run_file(TrainSettings)] = None,
    print_config: PrintConfig = False,
    as_json: AsJson = False,
) -> None:
    """Train the global model on synthetic images with DeepSpeed; a second call goes on where it stopped.

    Under torchrun or srun all processes train one model together, each on a GPU of its own.
    """
    check_printed(print_config, as_json)
    options = {
        "arch": arch,
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "image_size": image_size,
        "deepspeed": deepspeed,
        "seed": seed,
        "keep": keep,
    }
    settings = checked(TrainSettings, **(without_option() | options))
    if print_config:
        print_settings(settings, processes=processes, track=track)
        return
    rank = join_ranks(show_gpu)  # before PyTorch is imported
    hub = repository(push_to_hub, private, "model") if not rank.number else None
    from fglfast.training.launch import train as launch

    result = launch(data, out, settings, processes or "auto", track)
    if rank.number:
        return
    pushed(hub, out, ("checkpoint/*", "*.log", "*.sqlite"))
    accuracy = "" if result.val_accuracy is None else f", {result.val_accuracy:.1%} on held-out synthetic images"
    learned = f"{many(result.epochs, 'epoch')} of {many(result.images, 'image')}"
    line = f"{result.model}: {learned} in {result.seconds:.0f} s{accuracy}"
    tell(result.model_dump(mode="json"), as_json, line)


@verb(SERVER, LOST)
def evaluate(
    model: Annotated[Path, typer.Argument(help="Folder of a global model, as train leaves it.")],
    data: Annotated[str, typer.Argument(help="Real test images: PATH[:SPLIT].")],
    as_json: AsJson = False,
) -> None:
    """Test a global model on real images: its accuracy, also of each class, and its calibration."""
    from rich.table import Table

    from fglfast.images.dataset import read_dataset

    images = read_dataset(data)
    from fglfast.training.evaluate import evaluate as run

    found = run(model, images)
    if as_json:
        emit_json(found.model_dump(mode="json"))
        return
    worst = sorted(found.per_class.items(), key=lambda named: (named[1].accuracy is None, named[1].accuracy))
    rows = [(name, "–" if of.accuracy is None else f"{of.accuracy:.1%}", f"{of.n:,}") for name, of in worst]
    print_table(Table("class", "accuracy", "images", title="least accurate first"), rows)
    stdout.print(
        f"accuracy {found.accuracy:.2%} on {many(found.n, 'image')}, expected calibration error {found.ece:.3f}"
    )

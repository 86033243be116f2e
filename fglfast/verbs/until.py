"""The options of `synthesize` that stop it early, and what they stand for."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from fglfast.base.errors import UsageError
from fglfast.pipeline.settings import PILOT_IMAGES

UntilGain = Annotated[
    str | None,
    typer.Option(
        metavar="POINTS[/min]",
        help="Draw no more once 1,000 images (with /min: a minute of drawing) are foretold to bring fewer points of "
        "accuracy than this; --images-per-class is then the most.",
    ),
]
Validation = Annotated[
    str | None,
    typer.Option(
        metavar="PATH[:SPLIT]",
        help="Real images, never the test images, that judge the pilots of --until-gain; else synthetic ones do.",
    ),
]
PilotImages = Annotated[
    int, typer.Option(min=1, help="Images of each class that the pilots of --until-gain learn from.")
]


def stop_rule(
    until_gain: str | None,
    validation: str | None,
    sizes: tuple[int, int],
    update: bool,
    ranks: int,
    out: Path,
    class_names: tuple[str, ...],
) -> Callable[..., tuple[Any, Any]] | None:
    """What draws by `--until-gain`, if it is given; what does not go with it is refused before an engine is opened.

    The sizes are the images a class that may be drawn, and that pilots learn from.

    Raises:
        UsageError: options that do not go together, or a folder with a data set drawn otherwise.
        BadInputError: the validation images cannot be read, or have classes that no client knows.
    """
    if until_gain is None:
        if validation is not None:
            raise UsageError("--validation judges pilots, and none are asked for", "give --until-gain too")
        if sizes[1] != PILOT_IMAGES:
            raise UsageError("--pilot-images is of pilots, and none are asked for", "give --until-gain too")
        return None
    from fglfast.images.dataset import read_dataset
    from fglfast.pipeline.stopping import Until, check_asked, check_folder, synthesize_until

    until = Until.parse(until_gain)
    if update:
        raise UsageError("--until-gain decides how many images a new data set gets", "leave --update or it out")
    if ranks > 1:
        hint = "decide with one process; then all draw the number that it names, with --images-per-class and --update"
        raise UsageError(f"--until-gain decides in one process, and these are {ranks}", hint)
    check_asked(*sizes)
    check_folder(out)
    judges = read_dataset(validation) if validation else None
    if judges:
        judges.named(class_names)
    return partial(synthesize_until, until=until, pilot_images=sizes[1], validation=judges)

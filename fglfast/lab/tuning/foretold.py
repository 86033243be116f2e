"""What other numbers of the winner's images would bring, as pilots foretell it."""

from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from fglfast.base.config import first_problem
from fglfast.base.errors import BadInputError
from fglfast.base.files import write_atomic
from fglfast.engine.build import Engine
from fglfast.images.labelled import LabelledImages
from fglfast.lab.tuning.drawing import DataSets
from fglfast.lab.tuning.records import Tuned
from fglfast.payload.merge import Merged
from fglfast.pipeline.pilots import SIDE, Judges, Pool, run_pilots
from fglfast.pipeline.scaling import Law, Pilot
from fglfast.pipeline.settings import PILOT_IMAGES
from fglfast.pipeline.stopping import curve

FARTHEST = 5  # times the pilots' images that a curve reaches at least
PILOTS = TypeAdapter(tuple[Pilot, ...])


def foretold(
    tuned: Tuned, engine: Engine, merged: Merged, validation: LabelledImages, data: DataSets, folder: Path
) -> Tuned:
    """The record with pilots of the winner's sampling and the curve through them; a second call trains none.

    Raises:
        BadInputError: what an earlier call left cannot be read.
    """
    file = folder / f"{tuned.winner}.json"
    if not file.exists():
        made = data.make(tuned.best.candidate.model_copy(update={"images_per_class": PILOT_IMAGES}))
        side = min(SIDE, engine.build.image_size)
        judges = Judges.of(validation, merged.class_names, made.plan.present, side)
        folder.mkdir(exist_ok=True)
        write_atomic(file, PILOTS.dump_json(tuple(run_pilots(Pool.of(made.folder, PILOT_IMAGES, side), judges))))
    try:
        pilots = PILOTS.validate_json(file.read_bytes())
    except ValidationError as error:
        raise BadInputError(f"{file}: {first_problem(error)}", "delete it, and they are trained again") from error
    most = max(FARTHEST * PILOT_IMAGES, *(trial.candidate.images_per_class for trial in tuned.trials))
    least = min(pilot.images_per_class for pilot in pilots)
    return tuned.model_copy(update={"pilots": pilots, "curve": curve(Law.of(pilots), least, most)})

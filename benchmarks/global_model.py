"""From labelled images to the global model's accuracy: what many benchmarks do once for each of their points."""

from pathlib import Path

from fglfast.base.errors import BadInputError
from fglfast.engine.build import Engine
from fglfast.federation.alone import public_only
from fglfast.images.dataset import read_dataset
from fglfast.images.labelled import LabelledImages
from fglfast.payload.merge import Merged
from fglfast.pipeline.one_shot import draw_and_train
from fglfast.pipeline.stages import Stages
from fglfast.synthesis.settings import SynthesisSettings
from fglfast.training.evaluate import evaluate
from fglfast.training.settings import TrainSettings

SMALL = TrainSettings(arch="resnet10-tiny", epochs=30, image_size=28)


def accuracy(
    engine: Engine, merged: Merged, asked: SynthesisSettings, test: LabelledImages, folder: Path, batch_size: int = 128
) -> float:
    """Draw, train a `resnet10-tiny` for 30 epochs on nothing else, judge; the folder holds both, resumably."""
    chosen = SMALL.model_copy(update={"batch_size": batch_size})
    _, trained = draw_and_train(engine, merged, asked, chosen, folder, Stages(folder))
    return evaluate(trained.model, test).accuracy


def public_accuracy(public: LabelledImages, test: LabelledImages, folder: Path, training: TrainSettings) -> float:
    """A server's training on labelled images that it has itself: what it reaches without any client."""
    trained = public_only(public, training, training.seed, folder, Stages(folder))
    return evaluate(trained.model, test).accuracy


def public_split(data: str) -> str:
    """`DATA:public`, or nothing where there is no such split, as in the bundled sample."""
    try:
        return read_dataset(f"{data}:public").source
    except BadInputError:
        return ""

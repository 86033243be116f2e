"""From labelled images to the global model's accuracy: what many benchmarks do once for each of their points."""

from pathlib import Path

from fglfast.base.errors import BadInputError
from fglfast.engine.build import Engine
from fglfast.images.dataset import read_dataset
from fglfast.images.labelled import LabelledImages
from fglfast.payload.merge import Merged
from fglfast.shards.pack import pack
from fglfast.synthesis.settings import SynthesisSettings
from fglfast.synthesis.synthesize import synthesize
from fglfast.training.evaluate import evaluate
from fglfast.training.launch import train
from fglfast.training.settings import TrainSettings

SMALL = TrainSettings(arch="resnet10-tiny", epochs=30, image_size=28)


def accuracy(
    engine: Engine, merged: Merged, asked: SynthesisSettings, test: LabelledImages, folder: Path, batch_size: int = 128
) -> float:
    """Draw, train a `resnet10-tiny` for 30 epochs on nothing else, judge; the folder holds both, resumably."""
    synthesize(engine, merged, asked, folder / "synthetic")
    chosen = SMALL.model_copy(update={"batch_size": batch_size, "seed": asked.seed})
    return trained_accuracy(folder / "synthetic", test, folder, chosen)


def public_accuracy(public: LabelledImages, test: LabelledImages, folder: Path, training: TrainSettings) -> float:
    """A server's training on labelled images that it has itself: what it reaches without any client."""
    assert training.image_size is not None
    pack(public, training.image_size, folder / "images")
    return trained_accuracy(folder / "images", test, folder, training)


def trained_accuracy(images: Path, test: LabelledImages, folder: Path, training: TrainSettings) -> float:
    """Train on shards, judge on real images."""
    return evaluate(train(images, folder / "model", training, "auto").model, test).accuracy


def public_split(data: str) -> str:
    """`DATA:public`, or nothing where there is no such split, as in the bundled sample."""
    try:
        return read_dataset(f"{data}:public").source
    except BadInputError:
        return ""

"""From payloads to the global model's accuracy: what every benchmark of payloads does once for each of its points."""

from pathlib import Path

from fglfast.engine.build import Engine
from fglfast.images.labelled import LabelledImages
from fglfast.payload.merge import Merged
from fglfast.synthesis.synthesize import SynthesisSettings, synthesize
from fglfast.training.evaluate import evaluate
from fglfast.training.launch import train
from fglfast.training.settings import TrainSettings


def accuracy(
    engine: Engine, merged: Merged, asked: SynthesisSettings, test: LabelledImages, folder: Path, batch_size: int = 128
) -> float:
    """Draw, train a `resnet10-tiny` for 30 epochs on nothing else, judge; the folder holds both, resumably."""
    synthesize(engine, merged, asked, folder / "synthetic")
    chosen = TrainSettings(arch="resnet10-tiny", epochs=30, image_size=28, batch_size=batch_size, seed=asked.seed)
    trained = train(folder / "synthetic", folder / "model", chosen, "auto")
    return evaluate(trained.model, test).accuracy

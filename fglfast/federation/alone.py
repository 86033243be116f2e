"""What the server reaches without any client, trained as the one-shot model is. Knows no transport.

Beside these two a result of a federation shows what its clients added.
"""

import shutil
from pathlib import Path

from fglfast.client.embed import class_list, embed
from fglfast.engine.recipe import find_recipe
from fglfast.federation.collect import draw_and_train, train_model
from fglfast.federation.experiment import Experiment
from fglfast.federation.wire import Weights
from fglfast.images.labelled import LabelledImages
from fglfast.payload.merge import merge_payloads
from fglfast.shards.pack import pack


def server_only(
    experiment: Experiment, class_names: tuple[str, ...], seed: int, folder: Path, engines: Path
) -> tuple[Weights, float]:
    """A model trained on images drawn from the list of classes, and the server's seconds; resumes in `folder`."""
    payload = embed(class_list(class_names), "server", find_recipe(experiment.recipe).model_folder())
    return draw_and_train(merge_payloads([payload]), experiment, seed, folder, engines)


def public_only(experiment: Experiment, public: LabelledImages, seed: int, folder: Path) -> tuple[Weights, float]:
    """A model trained on the server's labelled public images, and the server's seconds; resumes in `folder`."""
    images = folder / "images"
    pack(public, experiment.image_size, images)
    weights, seconds = train_model(images, experiment, seed, folder)
    shutil.rmtree(images)  # a copy
    return weights, seconds

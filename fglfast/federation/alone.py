"""What the server reaches without any client, trained as the one-shot model is.

Beside these two a result of a federation shows what its clients added.
"""

import shutil
from pathlib import Path

from fglfast.client.embed import class_list, embed
from fglfast.engine.recipe import find_recipe
from fglfast.images.labelled import LabelledImages
from fglfast.payload.merge import merge_payloads
from fglfast.pipeline.one_shot import one_shot, train_model
from fglfast.pipeline.settings import OneShot
from fglfast.pipeline.stages import Stages
from fglfast.shards.pack import pack
from fglfast.training.results import TrainResult
from fglfast.training.settings import TrainSettings


def server_only(
    asked: OneShot, class_names: tuple[str, ...], seed: int, folder: Path, engines: Path, stages: Stages
) -> TrainResult:
    """The model trained on images drawn from the list of classes; resumes in `folder`."""
    payload = embed(class_list(class_names), "server", find_recipe(asked.recipe).model_folder())
    return one_shot(merge_payloads([payload]), asked, seed, folder, engines, stages).trained


def public_only(
    public: LabelledImages, training: TrainSettings, seed: int, folder: Path, stages: Stages
) -> TrainResult:
    """The model trained on the server's labelled public images; resumes in `folder`."""
    assert training.image_size is not None
    images = folder / "images"
    pack(public, training.image_size, images)
    trained = train_model(images, training, seed, folder, stages)
    shutil.rmtree(images)  # a copy
    return trained

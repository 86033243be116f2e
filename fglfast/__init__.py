"""fglfast: Federated Generative Learning at the hardware's limit (arXiv 2306.16064).

What Python calls is listed here, and loaded when it is first used: `import fglfast` alone is quick.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

__version__ = version("fglfast")

if TYPE_CHECKING:
    from fglfast.base.errors import FglError
    from fglfast.client.embed import embed
    from fglfast.engine.build import Engine, build_engine
    from fglfast.engine.recipe import Recipe, find_recipe
    from fglfast.images.dataset import read_dataset
    from fglfast.images.labelled import LabelledImages
    from fglfast.payload import Payload, load_payload, save_payload
    from fglfast.payload.merge import merge_payloads
    from fglfast.pipeline.one_shot import Shot, run_one_shot
    from fglfast.pipeline.settings import OneShot
    from fglfast.synthesis.settings import SynthesisSettings
    from fglfast.synthesis.synthesize import SynthesisResult, synthesize
    from fglfast.training.evaluate import evaluate
    from fglfast.training.launch import train
    from fglfast.training.results import Evaluation, TrainResult
    from fglfast.training.settings import TrainSettings

_HOMES = {
    "Engine": "engine.build",
    "Evaluation": "training.results",
    "FglError": "base.errors",
    "LabelledImages": "images.labelled",
    "OneShot": "pipeline.settings",
    "Payload": "payload",
    "Recipe": "engine.recipe",
    "Shot": "pipeline.one_shot",
    "SynthesisResult": "synthesis.synthesize",
    "SynthesisSettings": "synthesis.settings",
    "TrainResult": "training.results",
    "TrainSettings": "training.settings",
    "build_engine": "engine.build",
    "embed": "client.embed",
    "evaluate": "training.evaluate",
    "find_recipe": "engine.recipe",
    "load_payload": "payload",
    "merge_payloads": "payload.merge",
    "read_dataset": "images.dataset",
    "run_one_shot": "pipeline.one_shot",
    "save_payload": "payload",
    "synthesize": "synthesis.synthesize",
    "train": "training.launch",
}

__all__ = [
    "Engine",
    "Evaluation",
    "FglError",
    "LabelledImages",
    "OneShot",
    "Payload",
    "Recipe",
    "Shot",
    "SynthesisResult",
    "SynthesisSettings",
    "TrainResult",
    "TrainSettings",
    "__version__",
    "build_engine",
    "embed",
    "evaluate",
    "find_recipe",
    "load_payload",
    "merge_payloads",
    "read_dataset",
    "run_one_shot",
    "save_payload",
    "synthesize",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fglfast' has no attribute {name!r}")
    return getattr(import_module(f"fglfast.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__

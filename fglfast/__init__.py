"""fglfast: Federated Generative Learning at the hardware's limit (arXiv 2306.16064).

What Python calls is listed here, and loaded when it is first used: `import fglfast` alone is quick.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

__version__ = version("fglfast")

if TYPE_CHECKING:
    from fglfast.base.errors import FglError as FglError
    from fglfast.client.embed import embed as embed
    from fglfast.engine.build import Engine as Engine
    from fglfast.engine.build import build_engine as build_engine
    from fglfast.engine.recipe import Recipe as Recipe
    from fglfast.engine.recipe import find_recipe as find_recipe
    from fglfast.images.dataset import read_dataset as read_dataset
    from fglfast.images.labelled import LabelledImages as LabelledImages
    from fglfast.payload import Payload as Payload
    from fglfast.payload import load_payload as load_payload
    from fglfast.payload import save_payload as save_payload
    from fglfast.payload.merge import merge_payloads as merge_payloads
    from fglfast.pipeline.one_shot import Shot as Shot
    from fglfast.pipeline.one_shot import run_one_shot as run_one_shot
    from fglfast.pipeline.settings import OneShot as OneShot
    from fglfast.synthesis.settings import SynthesisSettings as SynthesisSettings
    from fglfast.synthesis.synthesize import SynthesisResult as SynthesisResult
    from fglfast.synthesis.synthesize import synthesize as synthesize
    from fglfast.training.evaluate import evaluate as evaluate
    from fglfast.training.launch import train as train
    from fglfast.training.results import Evaluation as Evaluation
    from fglfast.training.results import TrainResult as TrainResult
    from fglfast.training.settings import TrainSettings as TrainSettings

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

__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fglfast' has no attribute {name!r}")
    return getattr(import_module(f"fglfast.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__

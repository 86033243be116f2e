"""The scheduler of a model folder: its class in diffusers, its config, and what its network is told of the noise."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fglfast.base.errors import BadInputError
from fglfast.generator.configs import read_config
from fglfast.generator.kinds import INDEX
from fglfast.generator.parts import part

CONFIG = "scheduler/scheduler_config.json"
EULER = "EulerDiscreteScheduler"
# Elucidated diffusion (arXiv 2206.00364): the network stands in a preconditioning, and is told 0.25 log(sigma).
EDM = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler", "CosineDPMSolverMultistepScheduler")


def scheduler_class(name: str) -> Any:
    """A scheduler's class in diffusers, or None; that takes seconds to import, and most readers need none of it."""
    import diffusers

    return getattr(diffusers, name, None)


def scheduler_config(model: Path) -> dict[str, Any]:
    """A scheduler's config, in it the class that diffusers' pipelines take: the index's, where that names one.

    Raises:
        BadInputError: the config is missing, or no scheduler of diffusers has that name.
    """
    name, where, key = _named(model)
    if not _is_scheduler(name):
        raise BadInputError(f"{where}: no diffusers scheduler is named {name!r}", f"mend {key}")
    return read_config(part(model, CONFIG)) | {"_class_name": name}


def scheduler_name(model: Path) -> str:
    """The class in that config, which diffusers may not have."""
    return _named(model)[0]


def _named(model: Path) -> tuple[str, Path, str]:
    """A scheduler's class, and the file and the key that name it."""
    path = part(model, CONFIG)
    config, index = read_config(path), path.parents[1] / INDEX
    entry = read_config(index).get("scheduler") if index.exists() else None
    if isinstance(entry, list) and len(entry) == 2 and entry[0] == "diffusers":
        return str(entry[1]), index, "scheduler"
    return str(config.get("_class_name")), path, "_class_name"


def lacks(name: str) -> list[str]:
    """The packages that a scheduler of diffusers needs and that are not installed."""
    return [package for package in getattr(scheduler_class(name), "_backends", ()) if find_spec(package) is None]


def noise_levels(config: dict[str, Any]) -> int:
    """How many a network was trained on, by the config of its scheduler: the unit of its timesteps."""
    return int(config.get("num_train_timesteps", 1000))


def own_clock(config: dict[str, Any]) -> bool:
    """Whether a network is told the noise itself, and not its place in a table of noise levels.

    Only the scheduler that it came with, whose config is given, knows how to ask it.
    """
    name = config.get("_class_name")
    if name == EULER:  # it takes its table's timesteps for all other predictions
        return config.get("timestep_type") == "continuous" and config.get("prediction_type") == "v_prediction"
    return name in EDM


def _is_scheduler(name: str) -> bool:
    kind = scheduler_class(name) if name.endswith("Scheduler") else None
    if not isinstance(kind, type):
        return False
    return issubclass(kind, scheduler_class("SchedulerMixin")) or bool(lacks(name))

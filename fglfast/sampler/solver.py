"""Which solver of diffusers a recipe asks for, with which config: whether it fits what the model was trained to do."""

from inspect import signature
from pathlib import Path
from typing import Any

from fglfast.base.errors import BadInputError, UsageError
from fglfast.generator.kinds import STABLE_DIFFUSION, pipeline_name
from fglfast.generator.parts import part
from fglfast.generator.scheduler import CONFIG, EULER, lacks, noise_levels, own_clock, scheduler_class, scheduler_config

SOLVERS = {
    "ddim": "DDIMScheduler",
    "dpmsolver++": "DPMSolverMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
    "euler": EULER,
    "euler-ancestral": "EulerAncestralDiscreteScheduler",
    "lcm": "LCMScheduler",
    "flow-euler": "FlowMatchEulerDiscreteScheduler",
}
SOLVE_FLOW = ("dpmsolver++", "unipc", "flow-euler")
ORIGINAL = "original_inference_steps"  # of which consistency models' solvers take some


def find_solver(model: Path, asked: str) -> tuple[str, dict[str, Any]]:
    """Class and config of the solver of a model; its own if "model" is asked for.

    Raises:
        BadInputError: the folder's scheduler is none of diffusers', or needs a package that is not installed.
        UsageError: the solver does not fit the model.
    """
    config = scheduler_config(model)
    if asked == "model" and (missing := lacks(config["_class_name"])):
        what = f"{config['_class_name']} needs {' and '.join(missing)}, which is not installed"
        raise BadInputError(f"{part(model, CONFIG)}: {what}", other_solver(config))
    name, config = _fitted(config, asked)
    return name, config | _of_pipeline(model, name)


def predicts_flow(config: dict[str, Any]) -> bool:
    """Whether a scheduler's config is that of a flow-matching model."""
    named = str(config.get("_class_name", "")).startswith("FlowMatch")
    return named or config.get("prediction_type") == "flow_prediction"


def check_steps(name: str, config: dict[str, Any], steps: int) -> None:
    """Refuse more steps than a model has noise levels, or than its consistency was trained on.

    Raises:
        UsageError: naming how many there are.
    """
    levels = noise_levels(config)
    if not predicts_flow(config) and steps > levels:
        raise UsageError(f"{steps} steps of a model of {levels} noise levels", f"ask for {levels} at most")
    original = signature(scheduler_class(name)).parameters.get(ORIGINAL)
    if original and steps > (most := int(config.get(ORIGINAL, original.default))):
        raise UsageError(
            f"{steps} steps by {name}, which takes some of {most} ({ORIGINAL})", f"ask for {most} steps at most"
        )


def other_solver(config: dict[str, Any]) -> str:
    """How a recipe names a solver that fits a model whatever its folder's is, in words."""
    if own_clock(config):
        return "no other solver fits it: use another model"
    return f'write scheduler = "{"flow-euler" if predicts_flow(config) else "ddim"}" under [sampling] in the recipe'


def _fitted(config: dict[str, Any], asked: str) -> tuple[str, dict[str, Any]]:
    """Class and config of the solver, before what a pipeline sets."""
    if asked == "model":
        return str(config["_class_name"]), config
    _check_fits(config, asked)
    flow = predicts_flow(config)
    config = {key: value for key, value in config.items() if not key.startswith("_")}
    if flow:
        shift = config.get("flow_shift", config.get("shift", 1.0))
        config |= {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": shift, "shift": shift}
    if asked in ("ddim", "lcm"):
        config["clip_sample"] = False  # latents reach beyond [-1,1]
    cls = scheduler_class(SOLVERS[asked])
    known = set(cls().config)
    return SOLVERS[asked], {key: value for key, value in config.items() if key in known}


def _check_fits(config: dict[str, Any], asked: str) -> None:
    flow = predicts_flow(config)
    if own_clock(config):
        what = f"{asked} does not solve a model of {config['_class_name']}, whose network is told the noise itself"
        raise UsageError(what, 'write scheduler = "model" under [sampling] in the recipe')
    if flow and asked not in SOLVE_FLOW:
        raise UsageError(f"{asked} does not solve a flow-matching model", f"choose one of: {', '.join(SOLVE_FLOW)}")
    if asked == "flow-euler" and not flow:
        raise UsageError("flow-euler solves flow-matching models only", "use euler for this one")


def _of_pipeline(model: Path, name: str) -> dict[str, Any]:
    """What `StableDiffusionPipeline` sets in its scheduler, whatever the folder says; SDXL's leaves it alone."""
    known = signature(scheduler_class(name)).parameters
    fixed = {"steps_offset": 1, "clip_sample": False} if pipeline_name(model) == STABLE_DIFFUSION else {}
    return {key: value for key, value in fixed.items() if key in known}

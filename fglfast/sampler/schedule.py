"""How time is stepped through: a solver of diffusers and its timesteps."""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, Field, ValidationError, model_validator

from fglfast.base.config import Settings, first_problem
from fglfast.base.errors import BadInputError, UsageError
from fglfast.base.untrusted import loading
from fglfast.generator.configs import read_config
from fglfast.generator.parts import part
from fglfast.generator.scheduler import CONFIG, noise_levels, own_clock, scheduler_class
from fglfast.sampler.solver import SOLVERS, check_steps, find_solver, other_solver, predicts_flow
from fglfast.sampler.spacing import align_your_steps, trailing

FLOW_EULER = SOLVERS["flow-euler"]
TAKE_TIMESTEPS = (SOLVERS["dpmsolver++"], SOLVERS["euler"])
TAKE_TRAILING = (SOLVERS["ddim"], SOLVERS["euler-ancestral"])  # by their config alone
PLACED = {  # in configs of those two, what else would say where the steps lie
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "use_lu_lambdas": False,
    "interpolation_type": "linear",
}
EVERYWHERE = (0.0, 1.0)

SchedulerName = Literal["model", "ddim", "dpmsolver++", "unipc", "euler", "euler-ancestral", "lcm", "flow-euler"]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


def _lowest_first(interval: tuple[float, float]) -> tuple[float, float]:
    if interval[0] > interval[1]:
        raise ValueError(f"guides no step: give the lower share first, as [{interval[1]:g}, {interval[0]:g}]")
    return interval


class Sampling(Settings):
    """How latents are sampled, as a recipe says it; part of a synthesis plan, not of an engine's key.

    Attributes:
        steps: solver steps.
        scheduler: the solver; "model" is the one in the model's folder. What "euler-ancestral" and "lcm" add on their
            way comes from each image's identity, as the noise it starts from.
        spacing: where the steps lie; "ays" is Align Your Steps, for Stable Diffusion; "trailing" begins at the last
            timestep, whatever the number of steps.
        timesteps: where they lie, one by one, descending; as `fglfast place-steps` finds them. Overrules `spacing`.
        guidance_scale: 1 is unguided, and half the work; so is less, as in diffusers.
        guidance_interval: lowest and highest noise level that is guided, as shares of the range of timesteps that the
            model was trained on: 0 is no noise, 1 the most.
    """

    steps: int = Field(default=25, ge=1, le=1000)
    scheduler: SchedulerName = "model"
    spacing: Literal["model", "ays", "trailing"] = "model"
    timesteps: tuple[float, ...] | None = None
    guidance_scale: Annotated[float, Field(ge=0.0, le=50.0), AfterValidator(lambda scale: max(1.0, scale))] = 2.0
    guidance_interval: Annotated[tuple[Share, Share], AfterValidator(_lowest_first)] = EVERYWHERE

    @model_validator(mode="after")
    def _one_a_step(self) -> "Sampling":
        if self.timesteps is not None:
            descending = all(later < earlier for earlier, later in pairwise(self.timesteps))
            if len(self.timesteps) != self.steps or not descending or min(self.timesteps) <= 0:
                raise ValueError(f"timesteps: give {self.steps}, descending and above 0")
        return self

    def changed(
        self,
        steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
    ) -> "Sampling":
        """The same with what is given; timesteps hold for their own number of steps only.

        Raises:
            UsageError: a value is out of range.
        """
        asked = {"steps": steps, "guidance_scale": guidance_scale, "guidance_interval": guidance_interval}
        changes: dict[str, Any] = {key: value for key, value in asked.items() if value is not None}
        if changes.get("steps", self.steps) != self.steps:
            changes["timesteps"] = None
        try:
            return Sampling(**(self.model_dump() | changes))
        except ValidationError as error:
            raise UsageError(first_problem(error), "mend that value") from error


@dataclass(frozen=True)
class Schedule:
    """A diffusers scheduler's class and config, its steps, and where guidance applies.

    Attributes:
        scheduler: class name in diffusers.
        config: its config.
        steps: number of solver steps.
        timesteps: the steps themselves, descending, or None for the scheduler's own.
        guidance_scale: w in v(empty) + w (v(text) - v(empty)); 1 is unguided.
        guidance_interval: lowest and highest noise level that is guided, as shares of `span`.
    """

    scheduler: str
    config: dict[str, Any]
    steps: int
    timesteps: tuple[float, ...] | None
    guidance_scale: float
    guidance_interval: tuple[float, float]

    @classmethod
    def of_model(cls, model: Path, sampling: Sampling) -> "Schedule":
        """The solver a recipe asks for, fitted to what the model was trained to predict.

        Raises:
            BadInputError: the model folder's scheduler config is missing, names no diffusers scheduler, or one that
                draws noise in a way of its own.
            UsageError: the solver, spacing or number of steps does not fit the model.
        """
        name, config = find_solver(model, sampling.scheduler)
        if sampling.spacing == "trailing" and name in TAKE_TRAILING:
            config |= {"timestep_spacing": "trailing"}
        with loading(model / CONFIG):
            timesteps = _placed(name, config, sampling, model)
        if timesteps:
            config |= {key: value for key, value in PLACED.items() if key in config}
        found = cls(name, config, sampling.steps, timesteps, sampling.guidance_scale, sampling.guidance_interval)
        path = part(model, CONFIG)
        with loading(path):
            scheduler = found.start()
        if name in SOLVERS.values():
            _check_taken(name, scheduler, sampling.steps)
        from fglfast.sampler.step_noise import draws_ungiven  # needs PyTorch

        hint = other_solver(config)
        with loading(path, hint):
            unrepeatable = draws_ungiven(found.start)
        if unrepeatable:
            what = f"{path}: {name} draws noise that cannot be given to it, so no image could be drawn again"
            raise BadInputError(what, hint)
        return found

    def start(self) -> Any:
        """A fresh scheduler at its first step: schedulers remember, so each batch gets its own."""
        placed = {"shift": 1.0} if self.timesteps and self.scheduler == FLOW_EULER else {}
        scheduler = scheduler_class(self.scheduler).from_config(self.config | placed)
        if self.scheduler == FLOW_EULER:
            # Left alone it puts its last step at the end of the path, where nothing is left to do (diffusers 0.38).
            timesteps = self.timesteps or np.linspace(self.levels, self.levels / self.steps, self.steps)
            scheduler.set_timesteps(sigmas=[float(timestep) / self.levels for timestep in timesteps])
        elif self.timesteps is None:
            scheduler.set_timesteps(self.steps)
        else:
            scheduler.set_timesteps(timesteps=[round(timestep) for timestep in self.timesteps])
        return scheduler

    @property
    def levels(self) -> float:
        """Noise levels that the model was trained on: the unit of its timesteps."""
        return float(noise_levels(self.config))

    @cached_property
    def span(self) -> tuple[float, float]:
        """Timesteps of no noise and of the most.

        Most schedulers count noise levels. The timesteps of others are functions of the noise, EDM's 0.25 log(sigma)
        (arXiv 2206.00364, table 1): theirs span what the scheduler lays its steps between.
        """
        scheduler = scheduler_class(self.scheduler).from_config(self.config)
        made = scheduler.timesteps  # all, until steps are set
        if made is None or (made.min() >= 0.0 and made.max() > 1.0):
            return (0.0, self.levels)
        scheduler.set_timesteps(int(self.levels))  # Euler's, where it has a sigma_max, begin above its table
        return (float(scheduler.timesteps.min()), float(scheduler.timesteps.max()))

    def guides(self, timestep: float) -> bool:
        """Whether the step at this timestep is guided, and so costs two rows an image."""
        if self.guidance_scale == 1.0 or self.guidance_interval == EVERYWHERE:
            return self.guidance_scale != 1.0
        (low, high), (least, most) = self.guidance_interval, self.span
        share = min(max((timestep - least) / (most - least), 0.0), 1.0)
        return low <= share <= high

    def rows(self) -> list[tuple[float, int]]:
        """Timestep and rows of the denoiser of every step of one image."""
        timesteps = (float(timestep) for timestep in self.start().timesteps)
        return [(timestep, 2 if self.guides(timestep) else 1) for timestep in timesteps]

    def passes(self) -> int:
        """Rows of the denoiser that one image costs."""
        return sum(rows for _, rows in self.rows())


def _placed(name: str, config: dict[str, Any], sampling: Sampling, model: Path) -> tuple[float, ...] | None:
    """Where the steps are told to lie; None leaves it to the scheduler."""
    levels = noise_levels(config)
    check_steps(name, config, sampling.steps)
    if sampling.timesteps:
        _check_timesteps(name, config, sampling.timesteps, levels)
        return sampling.timesteps
    if sampling.spacing == "model" or (sampling.spacing == "trailing" and name in TAKE_TRAILING):
        return None
    if name not in TAKE_TIMESTEPS or predicts_flow(config) or own_clock(config):
        hint = "use scheduler dpmsolver++ or euler on a noise model"
        raise UsageError(f"spacing {sampling.spacing!r} does not fit {name} on this model", hint)
    if sampling.spacing == "trailing":
        return trailing(levels, sampling.steps)
    return align_your_steps(config, sampling.steps, _is_xl(model))


def _check_timesteps(name: str, config: dict[str, Any], timesteps: tuple[float, ...], levels: int) -> None:
    lays_its_own = name != FLOW_EULER and predicts_flow(config)  # a diffusion solver on a flow model
    if name not in (*TAKE_TIMESTEPS, FLOW_EULER) or lays_its_own or own_clock(config):
        raise UsageError(f"{name} does not take timesteps on this model", "use flow-euler on a flow model")
    if name == FLOW_EULER and timesteps[0] != levels:
        what = f"timesteps begin at {timesteps[0]:g}, and what is drawn begins as noise alone"
        raise UsageError(what, f"let them begin at {levels}: whatever noise was skipped would stay in the image")
    if name != FLOW_EULER and round(timesteps[0]) >= levels:
        raise UsageError(f"timestep {timesteps[0]:g}: this model's last is {levels - 1}", "let them begin there")


def _check_taken(name: str, scheduler: Any, steps: int) -> None:
    """Refuse numbers of steps of which diffusers makes others: trailing ones one too many, too many equal ones."""
    places = scheduler.sigmas[:-1] if hasattr(scheduler, "sigmas") else scheduler.timesteps
    different = len(set(places.tolist()))
    if (len(places), different) != (steps, steps):
        what = f"asked for {steps} steps on this model, {name} takes {len(places)}, {different} of them different"
        raise UsageError(what, "ask for another number of steps")


def _is_xl(model: Path) -> bool:
    return bool(read_config(part(model, "unet") / "config.json").get("addition_embed_type") == "text_time")

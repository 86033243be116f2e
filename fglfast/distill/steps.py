"""Place the steps of a recipe by its engine's own trajectories."""

from itertools import pairwise

import torch
from torch import Tensor

from fglfast.base.config import Settings
from fglfast.base.errors import UsageError
from fglfast.distill.placement import place_steps, step_costs
from fglfast.engine.build import Engine
from fglfast.engine.networks import sent
from fglfast.engine.recipe import Recipe
from fglfast.generator.learning.solvers import Velocity, guided, uniform
from fglfast.payload.merge import Merged
from fglfast.sampler.schedule import Sampling, Schedule
from fglfast.synthesis.conditioning import Conditioning
from fglfast.synthesis.plan import make_plan
from fglfast.synthesis.starting_noise import starting_noises


class Placed(Settings):
    """Where steps lie, and what they miss.

    Attributes:
        timesteps: of the placed steps, descending.
        cost: sum over the placed steps of the mean squared distance to the fine trajectory.
        uniform_cost: that of equal steps.
    """

    timesteps: tuple[float, ...]
    cost: float
    uniform_cost: float


def place(engine: Engine, merged: Merged, recipe: Recipe, steps: int, grid: int, trajectories: int) -> Placed:
    """Find the best places of Euler steps for a flow model, guided as the recipe guides.

    Args:
        engine: the recipe's.
        merged: rows of prompts.
        recipe: whose guidance is kept.
        steps: to place.
        grid: equal steps of the fine trajectory; a multiple of `steps` makes the comparison with equal steps exact.
        trajectories: how many.

    Raises:
        UsageError: the model is no flow model.
    """
    guidance = recipe.sampling.model_dump(include={"guidance_scale", "guidance_interval"})
    schedule = Schedule.of_model(engine.model, Sampling(steps=steps, scheduler="flow-euler", **guidance))
    if grid % steps:
        raise UsageError(f"a grid of {grid} does not hold {steps} equal steps", f"give a multiple of {steps}")
    plan = make_plan(merged, -(-trajectories // max(1, len(merged.class_names))), seed=0, shard_size=4096, settings={})
    items = plan.shard(0)[:trajectories]
    conditioning = Conditioning(merged, engine)
    rows = [item.row for item in items]
    text_BLE = conditioning.rows(rows)

    def towards(text_BLE: Tensor) -> Velocity:
        return lambda x_BCHW, t_B: engine.networks.denoise(x_BCHW, schedule.levels * t_B, text_BLE)

    free = towards(conditioning.negatives(rows))
    alone, both = towards(text_BLE), guided(towards(text_BLE), free, schedule.guidance_scale)

    def velocity(x_BCHW: Tensor, t_B: Tensor) -> Tensor:
        return (both if schedule.guides(schedule.levels * float(t_B[0])) else alone)(x_BCHW, t_B)

    times = uniform(grid)
    noise_BCHW = torch.from_numpy(starting_noises(plan.seed, items, engine.shapes.latent))
    costs = step_costs(velocity, sent(noise_BCHW, engine.networks.device), times)
    places, equal = place_steps(costs, steps), range(0, grid + 1, grid // steps)
    return Placed(
        timesteps=tuple(round(float(times[place]) * schedule.levels, 3) for place in places[:-1]),
        cost=_total(costs, places),
        uniform_cost=_total(costs, equal),
    )


def _total(costs: Tensor, places: range | tuple[int, ...]) -> float:
    return float(torch.stack([costs[j, k] for j, k in pairwise(places)]).sum())

"""Place the steps of a recipe where they lie best by its engine's own trajectories (BOSS, arXiv 2312.16414)."""

from itertools import pairwise

import torch
from torch import Tensor

from fglfast.base.config import Settings
from fglfast.base.errors import UsageError
from fglfast.engine.build import Engine
from fglfast.engine.networks import sent
from fglfast.engine.recipe import Recipe
from fglfast.generator.learning.solvers import Velocity, follow, guided, uniform
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
    """Find the best places of Euler steps for a flow model among those of a finer grid, guided as the recipe guides.

    Raises:
        UsageError: the model is no flow model, or the grid is no multiple of as many equal steps.
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


@torch.inference_mode()
def step_costs(velocity: Velocity, noise: Tensor, grid: Tensor) -> Tensor:
    """What each Euler step between two times of a fine grid [N+1], from 1 down to 0, would miss.

    Returns:
        Mean squared distance [N+1,N+1] between the fine trajectory at k and one step from it at j, for j < k; else
        infinity.
    """
    points, velocities = follow(velocity, noise, grid)
    costs = torch.full((len(grid), len(grid)), torch.inf, dtype=torch.float64)
    for j, (point, along) in enumerate(zip(points, velocities, strict=False)):
        for k in range(j + 1, len(grid)):
            costs[j, k] = (points[k] - point - (grid[k] - grid[j]) * along).double().square().mean()
    return costs


def place_steps(costs: Tensor, steps: int) -> tuple[int, ...]:
    """The cheapest chain of steps from the grid's first time to its last, by dynamic programming.

    Args:
        costs: of a step from j to k [N+1,N+1].
        steps: at most N.

    Returns:
        The `steps + 1` places of the grid.
    """
    last = len(costs) - 1
    if not 1 <= steps <= last:
        raise ValueError(f"{steps} steps on a grid of {last}")
    best, origins = costs[0].clone(), []
    for _ in range(steps - 1):
        through = best[:, None] + costs
        best, origin = through.min(0)
        origins.append(origin)
    chain = [last]
    for origin in reversed(origins):
        chain.append(int(origin[chain[-1]]))
    return (0, *reversed(chain))

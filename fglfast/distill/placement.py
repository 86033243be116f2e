"""Where the steps of a few-step sampler lie best (BOSS, arXiv 2312.16414)."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor


@torch.inference_mode()
def step_costs(velocity: Callable[[Tensor, Tensor], Tensor], noise: Tensor, grid: Tensor) -> Tensor:
    """What each Euler step between two times of a fine grid would miss.

    Args:
        velocity: dx/dt of x [B,...] and t [B].
        noise: where a few trajectories begin [B,...].
        grid: times [N+1] from 1 down to 0; the trajectories are Euler's on all of them.

    Returns:
        Mean squared distance [N+1,N+1] between the fine trajectory at k and one step from it at j, for j < k; else
        infinity.
    """
    x, points, velocities = noise, [noise], []
    for now, after in pairwise(grid):
        velocities.append(velocity(x, now.expand(len(x))))
        x = x + (after - now) * velocities[-1]
        points.append(x)
    costs = torch.full((len(grid), len(grid)), torch.inf, dtype=torch.float64)
    for j, (point, along) in enumerate(zip(points, velocities, strict=False)):
        for k in range(j + 1, len(grid)):
            costs[j, k] = (points[k] - point - (grid[k] - grid[j]) * along).double().square().mean()
    return costs


def place_steps(costs: Tensor, steps: int) -> tuple[int, ...]:
    """The cheapest chain of `steps` steps from the grid's first time to its last, by dynamic programming.

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

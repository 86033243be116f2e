from itertools import combinations, pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fglfast.distill.steps import place_steps, step_costs


def total(costs, chain):
    return sum(costs[j, k].item() for j, k in pairwise(chain))


@given(grid=st.integers(2, 8), steps=st.integers(1, 8), seed=st.integers(0, 1000))
def test_no_other_chain_is_cheaper(grid, steps, seed):
    costs = torch.rand(grid + 1, grid + 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    costs[torch.ones_like(costs).tril().bool()] = torch.inf
    steps = min(steps, grid)
    found = place_steps(costs, steps)
    assert found[0] == 0 and found[-1] == grid and len(found) == steps + 1
    assert all(j < k for j, k in pairwise(found))
    others = ((0, *middle, grid) for middle in combinations(range(1, grid), steps - 1))
    assert total(costs, found) == pytest.approx(min(total(costs, chain) for chain in others))


def test_more_steps_than_the_grid_has_are_refused():
    with pytest.raises(ValueError, match="5 steps on a grid of 3"):
        place_steps(torch.zeros(4, 4), 5)


def curved(x, t):
    """A velocity that turns near the end of the path: dx/dt = c(t), steep below t = 0.2."""
    return (1 + 50 * (0.2 - t).clamp(min=0)).view(-1, 1, 1, 1).expand_as(x)


def test_steps_gather_where_the_path_bends():
    grid = torch.linspace(1, 0, 21)
    costs = step_costs(curved, torch.zeros(2, 1, 2, 2), grid)
    assert costs[0, 16] == pytest.approx(0.0, abs=1e-9)  # straight until t = 0.2
    placed = [float(grid[place]) for place in place_steps(costs, 4)]
    assert placed[1] <= 0.21 and all(time <= 0.21 for time in placed[1:])


def test_costs_are_those_of_one_step_from_the_fine_trajectory():
    costs = step_costs(lambda x, t: 2 * x, torch.full((1, 1, 1, 1), 8.0), torch.tensor([1.0, 0.5, 0.0]))
    # Fine: 8, then 8 - 0.5 * 16 = 0, then 0. One step from 1 to 0: 8 - 16 = -8.
    assert costs[0, 1] == 0 and costs[1, 2] == 0 and costs[0, 2] == 64
    assert torch.isinf(costs.tril()).logical_or(costs.tril() == 0).all()

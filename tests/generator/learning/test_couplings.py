import itertools
import sys
from contextlib import nullcontext

import pytest
import torch

from fglfast.generator.learning.couplings import COUPLINGS, immiscible, independent, minibatch_ot, sparse_ot, weighted


def batch(count=24, conditions=3, width=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    condition = torch.arange(count) % conditions
    x0 = torch.randn(count, width, generator=generator) + 3.0 * condition[:, None]
    return x0, torch.randn(count, width, generator=generator), condition


def generator(seed=1):
    return torch.Generator().manual_seed(seed)


def cost(x0, noise):
    return (x0 - noise).square().sum(1)


def test_minibatch_ot_is_optimal_by_brute_force():
    x0, noise, _ = batch(count=6, conditions=1)
    best = min(cost(x0, noise[list(order)]).sum() for order in itertools.permutations(range(6)))
    found = minibatch_ot(x0, noise, torch.zeros(6), generator())
    assert cost(x0, found.noise).sum() == pytest.approx(best.item(), rel=1e-6)


def test_ot_only_reorders_the_noises_of_one_condition():
    """So that noise tells nothing of the condition: each keeps exactly the noises it was given."""
    x0, noise, condition = batch()
    found = minibatch_ot(x0, noise, condition, generator()).noise
    for each in condition.unique():
        mine = condition == each
        assert torch.equal(found[mine].sort(0).values, noise[mine].sort(0).values)


def test_ot_without_conditions_would_bias_the_noise():
    """The trap that pairing within a condition avoids: data of a far condition draws the noises on its side."""
    x0, noise, condition = batch(count=300)
    blind = minibatch_ot(x0, noise, torch.zeros(300), generator()).noise
    held = minibatch_ot(x0, noise, condition, generator()).noise
    last = condition == 2
    assert blind[last].mean() > 0.3 and abs(held[last].mean() - noise[last].mean()) < 1e-5


@pytest.mark.parametrize("name", COUPLINGS)
def test_one_coupling_alone_needs_a_package(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "ot", None)
    with pytest.raises(ModuleNotFoundError) if name == "sparse-ot" else nullcontext():
        COUPLINGS[name]()


@pytest.mark.parametrize("name", COUPLINGS)
def test_every_coupling_is_unbiased_in_its_condition(name):
    """Over many batches the mean noise of a condition is zero, wherever its data lie at the centre."""
    sums, count = torch.zeros(2), 0
    for seed in range(60):
        draw = torch.Generator().manual_seed(seed)
        condition = torch.arange(32) % 2
        x0, noise = torch.randn(32, 2, generator=draw), torch.randn(32, 2, generator=draw)
        paired = COUPLINGS[name]()(x0, noise, condition, draw)
        mine = condition == 1
        sums += (paired.weight[mine, None] * paired.noise[mine]).sum(0)
        count += int(mine.sum())
    assert (sums / count).abs().max() < 0.12


@pytest.mark.parametrize("name", COUPLINGS)
def test_pairs_are_no_farther_than_independent_ones(name):
    x0, noise, condition = batch(count=96)
    paired = COUPLINGS[name]()(x0, noise, condition, generator())
    mean = (paired.weight * cost(x0, paired.noise)).mean()
    assert mean <= cost(x0, noise).mean() * (1.0 if name == "independent" else 0.99)
    assert paired.weight.mean() == pytest.approx(1.0) and 0 < paired.effective <= 1.0 + 1e-6


def test_a_sparse_plan_lies_between_exact_and_independent():
    x0, noise, condition = batch(count=60)
    exact = cost(x0, minibatch_ot(x0, noise, condition, generator()).noise).mean()
    sparse = cost(x0, sparse_ot()(x0, noise, condition, generator()).noise).mean()
    assert exact <= sparse + 1e-5 and sparse < cost(x0, noise).mean()


def test_a_row_of_a_sparse_plan_shares_few_noises():
    x0, noise, condition = batch(count=32, conditions=1)
    couple = sparse_ot(partners=2)
    paired = [couple(x0, noise, condition, generator(seed)).noise for seed in range(60)]
    assert max(len({tuple(each[row].tolist()) for each in paired}) for row in range(32)) <= 2


def test_wide_weights_are_independent_and_narrow_ones_few():
    x0, noise, condition = batch(count=200)
    assert weighted(1e4)(x0, noise, condition, generator()).effective > 0.99
    narrow, wide = (weighted(spread)(x0, noise, condition, generator()).effective for spread in (0.1, 2.0))
    assert narrow < 0.3 < wide


def test_immiscible_takes_the_nearest():
    x0, noise, condition = batch()
    assert torch.equal(immiscible(1)(x0, noise, condition, generator()).noise, noise)
    few, many = (cost(x0, immiscible(k)(x0, noise, condition, generator()).noise) for k in (2, 16))
    assert (few <= cost(x0, noise)).all() and many.mean() < few.mean()


def test_one_row_of_a_condition_keeps_its_noise():
    x0, noise, _ = batch(count=4)
    for couple in (minibatch_ot, sparse_ot(), independent):
        assert torch.equal(couple(x0, noise, torch.arange(4), generator()).noise, noise)

"""Robust strategies against their definitions: with few clients, with claims, and where honest steps are close."""

import pytest
import torch
from flwr.supercore.task_identity import TaskIdentity

from fglfast.federation.aggregation import Aggregation
from fglfast.federation.strategies import Aggregator

START = {"w": torch.full((3,), 1.0)}


@pytest.fixture(autouse=True)
def a_task(monkeypatch):
    """Flower makes messages within a task alone."""
    for part in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, part, 1)


def aggregated(strategy, values, images=None, **settings):
    """What a strategy makes of clients whose weights are some number everywhere."""
    counts = images or [10] * len(values)
    updates = [({"w": torch.full((3,), value)}, count) for value, count in zip(values, counts, strict=True)]
    return Aggregator(Aggregation(strategy=strategy, **settings), ("w",))(1, START, updates)["w"]


@pytest.mark.parametrize("clients", [3, 4, 5, 8])
def test_a_trimmed_mean_cuts_a_single_liar_among_few(clients):
    assert aggregated("trimmed-mean", [1.5] * (clients - 1) + [1000.0]).tolist() == [1.5] * 3


def test_a_trimmed_mean_that_shall_cut_none_cuts_none():
    assert aggregated("trimmed-mean", [1.0, 2.0, 6.0], trim=0.0).tolist() == [3.0] * 3


@pytest.mark.parametrize("strategy", ["trimmed-mean", "median", "krum", "multi-krum"])
def test_robust_strategies_count_no_images(strategy):
    values = [1.0, 1.1, 1.5, 1.6, 9.0]
    plain = aggregated(strategy, values)
    assert torch.equal(aggregated(strategy, values, images=[10, 990, 10, 10, 10]), plain)
    if strategy == "multi-krum":  # the mean of two that have most neighbours
        assert plain[0] == pytest.approx((1.1 + 1.5) / 2)


def test_krum_finds_the_middle_of_steps_that_are_close_to_one_another():
    """Of 20,000 weights, with steps of a millionth part: products of float32 weights are rounded by more."""
    draws = torch.Generator().manual_seed(0)
    start = {"w": 0.05 * torch.randn(20_000, generator=draws)}
    step = torch.randn(20_000, generator=draws)
    updates = [({"w": start["w"] + 1e-6 * scale * step}, 1) for scale in (1.0, 1.2, 0.8, 2.0, 30.0)]
    found = Aggregator(Aggregation(strategy="krum"), ("w",))(1, start, updates)["w"]
    assert torch.allclose(found, updates[0][0]["w"], rtol=0, atol=1e-9)

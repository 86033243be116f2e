"""Which round's weights lead away from all others': cases whose answer is known."""

import pytest
import torch

from fglfast.federation.guard import away

BODY = ("conv", "norm")


def clients(directions, head=0.0, alike=0.5):
    """Weights before, and of clients whose body moved along a common direction, times a sign, and one of its own."""
    draw = torch.Generator().manual_seed(0)
    before = {name: torch.randn(60, 50, generator=draw) for name in (*BODY, "head")}
    common = {name: torch.randn(60, 50, generator=draw) for name in BODY}
    updates = {}
    for number, sign in enumerate(directions):
        own = {name: torch.randn(60, 50, generator=draw) for name in BODY}
        step = {name: sign * (alike * common[name] + own[name]) for name in BODY}
        step["head"] = head * (-1.0) ** number * torch.ones(60, 50)
        updates[f"client{number}"] = {name: before[name] + 0.01 * step[name] for name in before}
    return before, updates


@pytest.mark.parametrize(
    ("directions", "found"),
    [
        ((1, 1, 1, -1), ("client3",)),
        ((-1, 1, 1, 1, 1), ("client0",)),
        ((1, 1, 1, 1), ()),
        ((1, 1, 1, -50), ("client3",)),
        ((1, 1, 1, 1, -1, -1), ()),  # two that agree: nobody is away from all others
        ((1, 1, -1), ()),  # of three nobody can tell who turned
    ],
)
def test_who_turned(directions, found):
    before, updates = clients(directions)
    assert away(before, updates, BODY) == found


def test_clients_with_nothing_in_common_are_not_away():
    before, updates = clients((1, 1, 1, 1), alike=0.0)
    assert away(before, updates, BODY) == ()


def test_one_that_is_away_from_clients_that_are_not_together_may_be_so_by_right():
    before, updates = clients((1, 1, 1, -1), alike=0.0)
    own = {name: updates["client3"][name] - before[name] for name in BODY}
    for who in ("client0", "client1", "client2"):
        updates[who] = {name: step - 0.4 * own[name] if name in BODY else step for name, step in updates[who].items()}
    assert away(before, updates, BODY) == ("client3",)  # alike: each has a part of the same
    for number, who in enumerate(("client0", "client1", "client2")):
        updates[who] = {name: before[name] - 0.12 * own[name] if name in BODY else before[name] for name in before}
        draw = torch.Generator().manual_seed(100 + number)
        for name in BODY:
            updates[who][name] += 0.01 * torch.randn(60, 50, generator=draw)
    assert away(before, updates, BODY) == ()


def test_the_last_layer_does_not_count_and_nothing_learned_is_no_direction():
    before, updates = clients((1, 1, 1, 1), head=100.0)
    assert away(before, updates, BODY) == ()
    updates["client1"] = before
    assert away(before, updates, BODY) == ()
    assert away(before, updates, ()) == ()

"""Which round's weights lead away from all others': cases whose answer is known."""

import pytest
import torch

from fglfast.federation.guard import Bar, away, find_cause, steps

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


def test_who_has_more_images_may_go_further():
    before = {"w": torch.ones(4), "mean": torch.ones(2)}
    lengths = {"ann": 1.0, "bob": 1.2, "eve": 8.0}
    updates = {who: {"w": before["w"] + length, "mean": before["mean"]} for who, length in lengths.items()}
    assert steps(before, updates, ["w"])["eve"] == pytest.approx(8 / 1.2)
    images = {"ann": 100, "bob": 80, "eve": 1000}
    assert steps(before, updates, ["w"], images) == pytest.approx({"ann": 1 / 1.2, "bob": 1.0, "eve": 8 / 1.2 / 10})


@pytest.mark.parametrize(("ratio", "blamed"), [(2.5, False), (4.0, False), (30.0, True)])
def test_a_round_may_be_good_without_a_client_that_is_not_to_blame(ratio, blamed):
    """Of honest clients without a class of the others one may go a few times as far as most."""
    ratios = {"ann": 1.0, "bob": 1.2, "cas": 0.8, "eve": ratio}

    def average(names):
        return {"w": torch.tensor(float("eve" in names))}

    verdict = find_cause(ratios, average, lambda weights: 0.1 if weights["w"] else 0.6, Bar(0.6, 0.1))
    assert verdict.names == ("ann", "bob", "cas")
    assert (tuple(verdict.blamed), verdict.doubted) == ((("eve",), ()) if blamed else ((), ("eve",)))


def test_clients_of_whom_noise_leaves_no_image_are_compared_too():
    before = {"w": torch.ones(4)}
    updates = {who: {"w": before["w"] + 1.0} for who in ("ann", "bob")}
    assert steps(before, updates, ["w"], {"ann": 0, "bob": 0}) == {"ann": 1.0, "bob": 1.0}

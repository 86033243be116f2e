"""Receipts of clients that are forgotten: each its own, whoever else was."""

import json

import pytest
from living import killed, maker

from fglfast.payload.merge import merge_payloads
from fglfast.sampler.schedule import Sampling
from fglfast.synthesis import swap
from fglfast.synthesis.drawn import Drawn
from fglfast.synthesis.forget import forget
from fglfast.synthesis.settings import SynthesisSettings
from fglfast.synthesis.synthesize import synthesize

ASKED = SynthesisSettings(images_per_class=4, shard_size=3, sampling=Sampling(steps=1, guidance_scale=1.0))
ROWS = [("bag", 1, 3), ("shoe", 2, 1)]


@pytest.fixture
def clients(random_mini):
    """Those of one prompt a class, and one with a class of its own."""
    make = maker(random_mini)
    return {name: make(name, ROWS) for name in ("ann", "bob", "cid")} | {"dan": make("dan", [("hat", 9, 5)])}


@pytest.fixture
def out(clients, idle, tmp_path):
    synthesize(idle(), merge_payloads(clients.values()), ASKED, tmp_path / "out")
    return tmp_path / "out"


def receipts(out):
    return sorted(out.glob("forgotten-*.json"))


def forget_until_the_swap(client, clients, out, idle):
    """As a kill leaves it once the swap was decided."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(swap, "_remove_others", killed)
        forget(client, clients.values(), out, idle)
    clients.pop(client)
    return forget(client, clients.values(), out, idle)


def test_two_whose_rows_others_sent_leave_two_receipts(clients, out, idle):
    made = []
    for client in ("ann", "bob"):
        made.append(forget(client, clients.values(), out, idle))
        clients.pop(client)
    assert made[0]["plan_after"] == made[1]["plan_after"] and [each["clients_left"] for each in made] == [3, 2]
    assert sorted(json.loads(path.read_text())["clients_left"] for path in receipts(out)) == [2, 3]
    assert Drawn.of(out).clients == ("cid", "dan")


def test_killed_in_the_swap_the_receipt_is_the_clients_own(clients, out, idle):
    """Of plans that do not change, others' receipts end at the same plan."""
    for left, client in ((3, "ann"), (2, "bob")):
        assert forget_until_the_swap(client, clients, out, idle)["clients_left"] == left
    assert len(receipts(out)) == 2

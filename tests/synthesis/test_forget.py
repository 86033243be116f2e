"""Receipts of clients that are forgotten: each its own, whoever else was."""

import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from living import killed, maker
from typer.testing import CliRunner

from fglfast.payload import save_payload
from fglfast.payload.keys import public_text
from fglfast.payload.merge import merge_payloads
from fglfast.sampler.schedule import Sampling
from fglfast.synthesis import swap
from fglfast.synthesis.drawn import Drawn
from fglfast.synthesis.forget import forget
from fglfast.synthesis.settings import SynthesisSettings
from fglfast.synthesis.synthesize import synthesize
from fglfast.verbs import datasets
from fglfast.verbs.app import app

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


@pytest.fixture
def leave(clients, out, idle, monkeypatch, tmp_path):
    """Run `forget bob` over payload files: each client's, and one of bob's that is no more than some bytes."""
    monkeypatch.setattr(datasets, "open_engine", lambda *_, **__: idle())

    def run(file, damaged, *options):
        for name in ("ann", "cid", "dan"):
            save_payload(clients[name], tmp_path / f"{name}.safetensors")
        (tmp_path / file).write_bytes(damaged)
        line = ["forget", "bob", "--embeddings", f"{tmp_path}/*.safetensors", "--out", str(out), *options]
        return CliRunner().invoke(app, line)

    return run


@pytest.mark.parametrize(("file", "most"), [("x.safetensors", -3), ("bob.safetensors", 9), ("bob.safetensors", 0)])
def test_who_leaves_is_forgotten_whatever_became_of_its_payload(file, most, clients, leave, out, tmp_path):
    """Its name is read from the header, and from the file's name where the header is damaged."""
    save_payload(clients["bob"], tmp_path / "whole")
    done = leave(file, (tmp_path / "whole").read_bytes()[:most])
    assert done.exit_code == 0, done.output
    assert Drawn.of(out).clients == ("ann", "cid", "dan")


def test_who_leaves_needs_no_place_on_the_list(clients, leave, out, tmp_path):
    listed, key = tmp_path / "allow.toml", Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    listed.write_text(f'federation = "here"\n[clients]\neve = "{public_text(key)}"\n')
    save_payload(clients["bob"], tmp_path / "whole")
    done = leave("x.safetensors", (tmp_path / "whole").read_bytes(), "--allow", str(listed))
    assert done.exit_code == 4 and "bob" not in done.output and "ann" in done.output


def test_a_payload_that_may_be_anybodys_is_not_passed_over(leave, out):
    done = leave("x.safetensors", b"damaged")
    assert done.exit_code == 4 and "x.safetensors" in done.output and "leave it out of the pattern" in done.output
    assert "bob" in Drawn.of(out).clients

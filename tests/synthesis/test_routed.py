"""Routed payloads at the server: the rows that an inventory makes of them, and the images those draw."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from living import NAMES, content
from typer.testing import CliRunner

from fglfast.base.errors import BadInputError
from fglfast.client.embed import class_list, embed
from fglfast.generator.inventory import load_inventory, save_inventory
from fglfast.generator.text import text_fingerprint
from fglfast.payload import Limits, Payload, PayloadHeader, load_payload, save_payload
from fglfast.payload.merge import merge_payloads, row_digests
from fglfast.synthesis.routed import Router
from fglfast.verbs.app import app


@pytest.fixture
def routed(random_mini, adapters):
    """Make a client's routed payload: (name, logit that fills the first head, labels) -> Payload."""
    inventory = load_inventory(adapters)

    def make(client, logit, labels=(0, 2), **changes):
        header = {
            "format_version": 3,
            "client": client,
            "class_names": NAMES,
            "prompt_level": "routed",
            "text_encoder": text_fingerprint(random_mini),
            "inventory": inventory.fingerprint(),
        }
        routes = np.zeros(inventory.route_shape, np.float16)
        routes[0, 0] = logit
        labels = np.array(labels, np.int64)
        return Payload(PayloadHeader(**header | changes), None, None, labels, 1 + labels, routes=routes)

    return make


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_rows_are_the_servers_own_prompts_changed_by_the_routing(random_mini, adapters, routed):
    payload = routed("ann", 1.5)
    made = Router(random_mini, adapters).rows(payload)
    prompts = embed(class_list(NAMES), "ann", random_mini)
    assert prompts.labels.tolist() == [0, 1, 2]
    text = torch.from_numpy(prompts.embeddings[[0, 2]].astype(np.float32))
    logits = torch.from_numpy(payload.routes.astype(np.float32)).expand(2, -1, -1)
    wanted = load_inventory(adapters)(text, logits).numpy()
    assert np.allclose(made.embeddings.astype(np.float32), wanted, atol=0.01)
    assert not np.allclose(made.embeddings, prompts.embeddings[[0, 2]], atol=0.1)
    assert made.digest() == payload.digest() and made.labels is payload.labels
    assert Router(random_mini, adapters).rows(prompts) is prompts, "what is not routed stays"


def test_it_travels_and_draws_what_equal_embeddings_draw(random_mini, adapters, routed, tmp_path):
    """The same images by the same identities; mixed with a client that sends embeddings, and under its own account."""
    payload = routed("ann", 1.5)
    save_payload(payload, tmp_path / "routed" / "ann.safetensors")
    made = Router(random_mini, adapters).rows(load_payload(tmp_path / "routed" / "ann.safetensors"))
    learned = made.header.model_copy(update={"format_version": 2, "prompt_level": "learned", "inventory": None})
    save_payload(replace(made, header=learned, routes=None), tmp_path / "equal" / "ann.safetensors")
    other = embed(class_list(NAMES), "bob", random_mini)
    for folder in ("routed", "equal"):
        save_payload(other, tmp_path / folder / "bob.safetensors")
        asked = ("--embeddings", tmp_path / folder / "*.safetensors", "--out", tmp_path / f"{folder}-images")
        asked += ("--model", random_mini, "--backend", "torch", "--images-per-class", 4, "--steps", 2, "--json")
        asked += ("--engines", tmp_path / "engines")
        if folder == "routed":
            assert run("synthesize", *asked).exit_code == 4, "without the adapters nothing is drawn"
            asked += ("--inventory", adapters)
        done = run("synthesize", *asked)
        assert done.exit_code == 0, done.output
    one, two = (content(tmp_path / f"{folder}-images") for folder in ("routed", "equal"))
    tars = [name for name in one if name.endswith(".tar")]
    assert tars and all(one[name] == two[name] for name in tars)
    left = ("ann", "--out", tmp_path / "routed-images", "--embeddings", tmp_path / "routed" / "*.safetensors")
    left += ("--model", random_mini, "--backend", "torch", "--engines", tmp_path / "engines")
    checked = run("verify", tmp_path / "routed-images", *left[3:7], "--inventory", adapters)
    assert checked.exit_code == 0, checked.output
    assert run("verify", tmp_path / "routed-images", "--inventory", adapters).exit_code == 2
    gone = run("forget", *left, "--inventory", adapters)
    assert gone.exit_code == 0, gone.output
    assert "ann" not in content(tmp_path / "routed-images")["dataset.json"].decode()


def test_clients_rows_are_their_own_but_equal_routing_is_a_copy(random_mini, adapters, routed):
    router = Router(random_mini, adapters)
    merged = merge_payloads([router.rows(routed("ann", 1.5)), router.rows(routed("bob", -1.5))])
    assert len(set(row_digests(merged))) == 4 and merged.levels == ("routed", "routed")
    with pytest.raises(BadInputError, match="same payload"):
        merge_payloads([router.rows(routed("ann", 1.5)), router.rows(routed("bob", 1.5))])


def test_what_no_rows_can_be_made_of_is_refused(random_mini, adapters, routed, tmp_path):
    with pytest.raises(BadInputError, match="'ann' sent routing"):
        merge_payloads([routed("ann", 1.0)])
    router = Router(random_mini, adapters)
    with pytest.raises(BadInputError, match="'ann': routed by inventory abab"):
        router.rows(routed("ann", 1.0, inventory="ab" * 32))
    with pytest.raises(BadInputError, match="shape"):
        router.rows(replace(routed("ann", 1.0), routes=np.zeros((2, 2), np.float16)))
    with pytest.raises(BadInputError, match="bytes"):
        Router(random_mini, adapters, Limits(max_bytes=100)).rows(routed("ann", 1.0))
    other = load_inventory(adapters)
    other.description = other.description.model_copy(update={"text_encoder": "ab" * 32})
    save_inventory(other, tmp_path / "other.safetensors")
    with pytest.raises(BadInputError, match="text encoder"):
        Router(random_mini, tmp_path / "other.safetensors")


def test_the_largest_logits_make_finite_rows(random_mini, adapters, routed):
    for logit in (65504.0, -65504.0):
        assert np.isfinite(Router(random_mini, adapters).rows(routed("ann", logit)).embeddings).all()

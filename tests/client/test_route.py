"""Routing from private images to a payload, and from that to the rows of a data set."""

import json
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from fglfast.base.errors import BadInputError
from fglfast.client.privacy import Budget
from fglfast.client.route import route
from fglfast.client.settings import RouteSettings
from fglfast.generator.inventory import load_inventory, save_inventory
from fglfast.images.dataset import read_dataset
from fglfast.payload import load_payload
from fglfast.verbs.app import app

FEW = RouteSettings(steps=2)


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_verb_leaves_a_payload_that_says_what_it_is(private, random_mini, adapters, tmp_path):
    out, asked = tmp_path / "ann.safetensors", ("--route", adapters, "--route-steps", 2, "--domain", "noise")
    first = run("embed", private, "--out", out, "--model", random_mini, *asked, "--json")
    assert first.exit_code == 0, first.output
    said = json.loads(first.stdout)
    assert said["form"] == "routes" and said["rows"] == 2 and said["images"] == 9
    assert said["routed_loss"] > 0 and said["class_level_loss"] > 0 and said["bytes"] == out.stat().st_size
    made = load_payload(out)
    assert made.labels.tolist() == [0, 2] and made.counts.tolist() == [4, 5] and made.header.domain == "noise"
    assert made.routes.dtype == np.float16 and made.routes.any()
    assert made.header.inventory == load_inventory(adapters).fingerprint()
    shown = json.loads(run("inspect", out, "--json").stdout)
    assert shown["prompt_level"] == "routed" and shown["shape"] == [3, 2] and shown["form"] == "routes"
    assert "in a few numbers fitted to them; no differential privacy" in shown["reveals"]
    assert run("inspect", out).exit_code == 0
    content = out.read_bytes()
    assert run("embed", private, "--out", out, "--model", random_mini, *asked).exit_code == 0
    assert out.read_bytes() == content, "what is learned is not learned again"
    assert run("embed", private, "--out", out, "--model", random_mini, "--route", adapters).exit_code == 4


@pytest.mark.parametrize(
    "arguments",
    [
        ("--learn",),
        ("--send", "tokens"),
        ("--send", "int8"),
        ("--prompt-level", "instance"),
        ("--template", "a {label}"),
        ("--epsilon", "2", "--clip", "1"),
    ],
)
def test_what_does_not_go_with_routing_is_a_usage_error(arguments, private, random_mini, adapters, tmp_path):
    asked = ("--out", tmp_path / "x.safetensors", "--model", random_mini, "--route", adapters)
    assert run("embed", private, *asked, *arguments).exit_code == 2


def test_other_images_do_not_go_on_from_these_and_another_generator_is_refused(
    private, random_mini, adapters, tmp_path
):
    dataset = read_dataset(str(private))
    route(dataset, "ann", random_mini, adapters, tmp_path / "state", FEW)
    with pytest.raises(BadInputError, match="images"):
        route(dataset.select(range(8)), "ann", random_mini, adapters, tmp_path / "state", FEW)
    other = load_inventory(adapters)
    other.description = other.description.model_copy(update={"model": "ab" * 32})
    save_inventory(other, tmp_path / "other.safetensors")
    with pytest.raises(BadInputError, match="another generator"):
        route(dataset, "ann", random_mini, tmp_path / "other.safetensors", tmp_path / "state2", FEW)


def test_classes_of_other_names_do_not_go_on_from_these(private, random_mini, adapters, tmp_path):
    """A name that no image has may change: nothing was learned under it."""
    dataset = read_dataset(str(private))
    route(dataset, "ann", random_mini, adapters, tmp_path / "state", FEW)
    unseen = replace(dataset, class_names=("bag", "vest", "boot"))
    route(unseen, "ann", random_mini, adapters, tmp_path / "state", FEW)
    with pytest.raises(BadInputError, match="prompts"):
        renamed = replace(dataset, class_names=("hat", "t-shirt", "boot"))
        route(renamed, "ann", random_mini, adapters, tmp_path / "state", FEW)


def test_ten_classes_take_less_than_a_kilobyte_with_a_budget_or_without(random_mini, adapters, tmp_path):
    """With the bundled classes, and as many logits as an inventory has by default."""
    dataset = read_dataset("fashion:private")
    made = route(dataset.select(range(40)), "client0", random_mini, adapters, tmp_path / "state", FEW).payload
    full = replace(
        made,
        routes=np.random.default_rng(0).normal(size=(12, 4)).astype(np.float16),
        labels=np.arange(10),
        counts=np.full(10, 3000),
    )
    from fglfast.payload import save_payload

    assert save_payload(full, tmp_path / "a.safetensors") < 1000
    stated = Budget(epsilon=3.0).statement(1.0, 1.234567890123456).model_copy(update={"mechanism": "dp-sgd"})
    private = replace(full, header=full.header.model_copy(update={"privacy": stated}))
    assert save_payload(private, tmp_path / "b.safetensors") < 1100


def test_under_a_budget_nothing_is_kept_and_two_releases_differ(private, random_mini, adapters, tmp_path):
    dataset = read_dataset(str(private))
    asked = (dataset, "ann", random_mini, adapters, tmp_path / "state", FEW)
    made, again = (route(*asked, budget=Budget(epsilon=3.0, uploads=2)) for _ in range(2))
    assert made.learned is None and not (tmp_path / "state").exists()
    stated = made.payload.header.privacy
    assert (stated.mechanism, stated.epsilon, stated.uploads, stated.clip) == ("dp-sgd", 3.0, 2, 1.0)
    assert not np.array_equal(made.payload.routes, again.payload.routes)
    assert "noise: see privacy" in made.payload.reveals

"""Learned embeddings from images to payload, and to a global model of a domain that the generator never saw."""

import json
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from fglfast.base.errors import BadInputError, UsageError
from fglfast.client.embed import embed
from fglfast.client.learn import learn
from fglfast.client.settings import LearnSettings
from fglfast.engine.build import build_engine
from fglfast.engine.recipe import find_recipe
from fglfast.images.dataset import read_dataset
from fglfast.payload import load_payload
from fglfast.payload.merge import merge_payloads
from fglfast.synthesis.settings import SynthesisSettings
from fglfast.synthesis.synthesize import synthesize
from fglfast.training.evaluate import evaluate
from fglfast.training.launch import train
from fglfast.training.settings import TrainSettings
from fglfast.verbs.app import app

FEW = LearnSettings(steps=2, vectors=2)


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_verb_leaves_a_payload_that_says_what_it_is(private, random_mini, tmp_path):
    out, asked = tmp_path / "ann.safetensors", ("--learn", "--learn-steps", 2, "--vectors", 3, "--domain", "noise")
    first = run("embed", private, "--out", out, "--model", random_mini, *asked, "--json")
    assert first.exit_code == 0, first.output
    said = json.loads(first.stdout)
    assert said["rows"] == 2 and said["images"] == 9 and said["learned_loss"] > 0 and said["class_level_loss"] > 0
    made, words = load_payload(out), embed(read_dataset(str(private)), "ann", random_mini, domain="noise")
    assert made.labels.tolist() == [0, 2] and made.counts.tolist() == [4, 5] and made.header.domain == "noise"
    differ = (made.embeddings != words.embeddings).any(axis=2)
    assert differ[:, 1:4].all() and not differ[:, 0].any() and not differ[:, 4:].any()
    shown = run("inspect", out, "--json")
    assert json.loads(shown.stdout)["prompt_level"] == "learned"
    assert "fitted to the images themselves; no differential privacy" in json.loads(shown.stdout)["reveals"]
    content = out.read_bytes()
    assert run("embed", private, "--out", out, "--model", random_mini, *asked).exit_code == 0
    assert out.read_bytes() == content, "what is learned is not learned again"
    assert run("embed", private, "--out", out, "--model", random_mini, "--learn", "--vectors", 2).exit_code == 4


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--send", "tokens"), "token ids"),
        (("--prompt-level", "instance"), "one embedding for each class"),
        (("--epsilon", "2"), "adds no noise"),
        (("--vectors", "16"), "16 vectors are too many"),
    ],
)
def test_what_cannot_be_learned_is_a_usage_error(arguments, word, private, random_mini, tmp_path):
    done = run("embed", private, "--out", tmp_path / "x.safetensors", "--model", random_mini, "--learn", *arguments)
    assert done.exit_code == 2 and word in done.output and not list(tmp_path.glob("x.*/*"))


def test_other_images_do_not_go_on_from_these(private, random_mini, tmp_path):
    dataset = read_dataset(str(private))
    learn(dataset, "ann", random_mini, tmp_path / "state", FEW)
    with pytest.raises(BadInputError, match="images"):
        learn(dataset.select(range(8)), "ann", random_mini, tmp_path / "state", FEW)


def test_words_are_not_learned(private, random_mini):
    with pytest.raises(UsageError, match="learned"):
        embed(read_dataset(str(private)), "ann", random_mini, "learned")


@pytest.mark.timeout(600)
def test_a_domain_that_mini_has_not_seen_is_learned(tmp_path):
    """Dark clothes on white: class names draw light ones on black, and teach nothing of them."""
    classes = (1, 5, 8)  # trouser, sandal, bag
    private, test = (
        inverted(read_dataset(f"fashion:{split}"), classes, each) for split, each in (("private", 40), ("test", 150))
    )
    recipe = find_recipe("mini").model_copy(update={"backend": "torch"})
    model = recipe.model_folder()
    learned = learn(private, "ann", model, tmp_path / "state", LearnSettings(steps=60, vectors=15))
    assert learned.learned < 0.7 * learned.class_level
    engine = build_engine(recipe, model, tmp_path / "engines")
    accuracy = {}
    for name, payload in (("class", embed(private, "ann", model)), ("learned", learned.payload)):
        asked = SynthesisSettings(images_per_class=32, sampling=recipe.sampling.changed(steps=6))
        synthesize(engine, merge_payloads([payload]), asked, tmp_path / name)
        settings = TrainSettings(arch="resnet10-tiny", epochs=12, batch_size=32, image_size=28)
        trained = train(tmp_path / name, tmp_path / f"model-{name}", settings, "auto")
        accuracy[name] = evaluate(trained.model, test).accuracy
    assert accuracy["learned"] > accuracy["class"] + 0.1, accuracy


def inverted(dataset, classes, each):
    """The first images of some classes, white for black."""
    rows = np.concatenate([np.flatnonzero(dataset.labels == label)[:each] for label in classes])
    chosen = dataset.select(rows)

    def opener(opened):
        return lambda: opened().point(lambda level: 255 - level)

    return replace(chosen, openers=tuple(opener(opened) for opened in chosen.openers))

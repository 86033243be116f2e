"""Reading prompts from embeddings."""

from collections import Counter

import numpy as np
import pytest

from fglfast.client.embed import embed
from fglfast.generator.text import resolve_model
from fglfast.images.dataset import read_dataset
from fglfast.lab.audit.inversion import Upload, Vocabulary, invert
from fglfast.lab.audit.uploads import EPSILONS, describe_sender, read_uploads

PROMPTS = {0: ["a", "a dark", "a light"], 1: ["b", "b dark", "b light"]}


class Encoder:
    tokenize = staticmethod(lambda prompts: prompts)

    @staticmethod
    def encode(prompts):
        return np.stack([np.random.default_rng(list(text.encode())).standard_normal((2, 8)) for text in prompts])


def upload(rows, truth, noise=0.0):
    labels, prompts = zip(*rows, strict=True)
    noise_NLD = noise * np.random.default_rng(0).standard_normal((len(rows), 2, 8))
    return Upload(Encoder.encode(prompts) + noise_NLD, np.array(labels), Counter(truth))


def test_embeddings_without_noise_are_their_prompts():
    rows = [(0, "a dark"), (1, "b"), (1, "b light")]
    found = invert([(upload(rows, {(0, "a dark"): 1, (1, "b"): 7, (1, "b light"): 2}), Vocabulary(PROMPTS, Encoder))])
    assert (found.found, found.sure, found.lone_found) == (1, 1, 1)


def test_clients_add_up_and_what_is_not_there_is_not_true():
    one = upload([(0, "a dark"), (0, "a light")], {(0, "a dark"): 1, (0, "a"): 4})
    other = upload([(1, "b")], {(1, "b"): 2})
    vocabulary = Vocabulary(PROMPTS, Encoder)
    found = invert([(one, vocabulary), (other, vocabulary)])
    assert (found.rows, found.read, found.right, found.prompts) == (3, 3, 2, 3)
    assert (found.lone, found.lone_found) == (1, 1.0)
    assert invert([(other, vocabulary)]).lone_found is None


def test_much_noise_leaves_chance():
    rows = [(0, "a dark")] * 300
    vocabulary, loud = Vocabulary(PROMPTS, Encoder), upload(rows, {(0, "a dark"): 300}, noise=100.0)
    assert vocabulary.nearest(loud.embeddings_NLD, loud.labels) == {(0, prompt) for prompt in PROMPTS[0]}


@pytest.fixture
def dataset(tmp_path):
    """Images of one of two classes: many alike, three others."""
    images = np.random.default_rng(1).integers(0, 255, (30, 16, 16), dtype=np.uint8)
    images[:27] = 200
    path = tmp_path / "own.npz"
    np.savez(path, images=images, labels=np.zeros(30, dtype=np.int64), class_names=np.array(["bag", "dress"]))
    return read_dataset(str(path))


@pytest.mark.parametrize("wording", [{"domain": "dress"}, {"template": "{caption}, {label}"}])
def test_prompts_are_read_in_the_words_of_who_sent_them(dataset, wording, monkeypatch, capsys):
    monkeypatch.setattr("fglfast.lab.audit.uploads.EPSILONS", ())
    mini = resolve_model("mini")
    sent = embed(dataset, "ann", mini, "instance", **wording)
    template, other = wording.get("template"), embed(dataset, "bob", mini, "instance", domain="coat")
    senders = [describe_sender(dataset, sent, mini, template=template), describe_sender(dataset, other, mini)]
    read, _ = read_uploads(senders, mini)
    assert (read.found.found, read.found.lone_found) == (1, 1) and "not found" not in capsys.readouterr().err
    if template:
        unknown, _ = read_uploads([describe_sender(dataset, sent, mini)], mini)
        assert unknown.found.found == 1 or "--template" in capsys.readouterr().err


@pytest.mark.parametrize(("level", "send"), [("class", "embeddings"), ("instance", "tokens"), ("instance", "int8")])
def test_an_upload_says_its_prompts_and_with_noise_what_many_images_share(dataset, level, send):
    mini = resolve_model("mini")
    sender = describe_sender(dataset, embed(dataset, "ann", mini, level, send), mini)
    sent, plain, *noisy = read_uploads([sender], mini)
    assert (sent.level, sent.sent, sent.found.found, sent.found.sure) == (level, True, 1, 1)
    assert plain.epsilon is None and plain.found.found == 1
    assert [each.epsilon for each in noisy] == list(EPSILONS) and all(not each.sent for each in noisy)
    assert noisy[-1].found.right >= 1 and all(each.found.rows >= 1 for each in noisy)

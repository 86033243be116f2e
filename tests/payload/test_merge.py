import dataclasses
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_payload import make

from fglfast.base.errors import BadInputError
from fglfast.payload import Payload, PayloadHeader, Privacy
from fglfast.payload.merge import check_prompts, looks, merge_payloads, same_prompts, same_words


def test_merge_stacks_in_order_of_client_name():
    both = merge_payloads([make("bob", 2), make("ann", 3)])
    assert both.clients == ("ann", "bob") and both.row_client.tolist() == [0, 0, 0, 1, 1]
    assert both.labels.tolist() == [0, 1, 2, 0, 1]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (make("ann"), "two payloads of one client, 'ann'"),
        (make("bob", names=("x", "y", "w")), "'ann' lacks 'w'; 'bob' lacks 'z'"),
        (make("bob", names=("x", "z", "y")), "in the order of their classes"),
        (make("bob", embeddings=None, token_ids=np.ones((3, 4), np.int32)), "sends embeddings, the other token_ids"),
        (make("bob", embeddings=np.ones((3, 5, 2), np.float16)), "rows of (4, 2) and (5, 2)"),
        (
            dataclasses.replace(make("bob"), header=make("bob").header.model_copy(update={"text_encoder": "cd" * 32})),
            "text_encoder",
        ),
    ],
)
def test_merge_refuses_what_differs_and_says_how(other, said):
    with pytest.raises(BadInputError, match=re.escape(said)):
        merge_payloads([make("ann"), other])


UNSEEN = ("\ufe0f", "\u034f", "\u3164", "\u115f", "\u1160", "\uffa0", "\U000e0100", "\u2800", "\u180b", "\u17b4")


@pytest.mark.parametrize(
    "name",
    ["Ann", "ann ", "a\u200dnn", "\uff41nn", *(f"ann{letter}" for letter in UNSEEN), *(f"{c}ann" for c in UNSEEN)],
)
def test_names_that_look_alike_are_refused(name):
    with pytest.raises(BadInputError, match="look alike"):
        merge_payloads([make("ann"), make(name, 2)])


def test_what_cannot_be_seen_keeps_no_accent_from_its_letter():
    assert looks("zoe\u034f\u0308") == looks("zo\u00eb") != looks("zoe")


@given(st.permutations(["ann", "bob", "cid"]), st.lists(st.integers(0, 2), min_size=9, max_size=9))
def test_the_order_of_arrival_changes_nothing_and_equal_rows_are_kept_once(order, values):
    rows_9LD = np.tile(np.array(values, np.float16)[:, None, None], (1, 4, 2))
    payloads = {
        name: make(name, embeddings=rows_9LD[3 * k : 3 * k + 3]) for k, name in enumerate(("ann", "bob", "cid"))
    }
    both = merge_payloads(payloads[name] for name in order)
    assert both.clients == ("ann", "bob", "cid") and len(both.embeddings) == len(set(values))
    assert both.embeddings[both.content][:, 0, 0].tolist() == values
    assert both.digests == tuple(payloads[name].digest() for name in both.clients)


def test_merging_holds_one_payload_at_a_time():
    """100 clients with the same 20 prompts of 118 kB: their 240 MB never stand in memory together."""
    code = """
import resource, numpy as np
from fglfast.payload.merge import check_prompts, merge_payloads, same_prompts, same_words
from fglfast.payload import Payload, PayloadHeader, Privacy
names = tuple(map(str, range(20)))
rows = np.random.default_rng(0).standard_normal((20, 77, 768)).astype(np.float16)
def clients():
    for k in range(100):
        header = PayloadHeader(client=f"c{k:03d}", class_names=names, prompt_level="class", text_encoder="0" * 64)
        yield Payload(header, rows.copy(), None, np.arange(20), np.full(20, 5))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
merged = merge_payloads(clients())
assert len(merged.embeddings) == 20 and len(merged.labels) == 2000
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 60


def instance(client, rows=20, noise=0.0, order=None, **changes):
    """An instance-level payload of random rows, the same for every client."""
    made, privacy = make(client, rows, **changes), None
    if noise:
        privacy = Privacy(mechanism="gaussian", epsilon=1.0, delta=1e-5, clip=1.0, noise=noise)
    header = made.header.model_copy(update={"prompt_level": "instance", "privacy": privacy})
    order = np.arange(rows) if order is None else order
    tensors = {"embeddings": made.embeddings[order], "labels": made.labels[order], "counts": made.counts[order]}
    return dataclasses.replace(made, header=header, **tensors)


@given(st.permutations(range(20)))
def test_a_payload_under_a_second_name_is_refused_whatever_its_order(order):
    with pytest.raises(BadInputError, match="clients 'ann' and 'bob' sent the same payload"):
        merge_payloads([instance("ann"), make("cid"), instance("bob", order=np.array(order))])


def test_equal_noise_is_a_copy_however_short():
    with pytest.raises(BadInputError, match="sent the same payload"):
        merge_payloads([instance("ann", 1, noise=0.1), instance("bob", 1, noise=0.1)])


def test_equal_learned_embeddings_are_a_copy():
    copies = [
        dataclasses.replace(made, header=made.header.model_copy(update={"prompt_level": "learned"}))
        for made in (make("ann", 1), make("bob", 1))
    ]
    with pytest.raises(BadInputError, match="sent the same payload"):
        merge_payloads(copies)


def test_honest_clients_may_send_equal_payloads():
    """Class names and an even split; a few captions; all but one count."""
    assert len(merge_payloads([make("ann", 3), make("bob", 3)]).labels) == 6
    assert len(merge_payloads([instance("ann", 3), instance("bob", 3)]).labels) == 6
    other = np.arange(1, 21)
    other[7] += 1
    assert len(merge_payloads([instance("ann"), instance("bob", counts=other)]).labels) == 40


def shared(client, level, rows, labels, names=("Fox", "fox", "den")):
    """A payload whose rows are given by one number each."""
    header = PayloadHeader(client=client, class_names=names, prompt_level=level, text_encoder="ab" * 32)
    values = np.tile(np.array(rows, np.float16)[:, None, None], (1, 4, 2))
    return Payload(header, values, None, np.array(labels), np.ones(len(rows), np.int64))


def test_classes_with_one_row_are_found_whoever_sent_it_and_named_once():
    one = merge_payloads([shared("ann", "class", [1, 5], [0, 2]), shared("bob", "class", [1], [1])])
    assert same_prompts(one) == [("Fox", "fox")]
    twice = merge_payloads([shared("ann", "instance", [1, 2, 1, 2, 3], [0, 0, 1, 1, 2])])
    assert same_prompts(twice) == [("Fox", "fox")]
    assert same_prompts(merge_payloads([shared("ann", "class", [1, 2, 3], [0, 1, 2])])) == []


@pytest.mark.parametrize("level", ["class", "learned"])
def test_classes_of_one_row_each_may_not_have_the_same(level, capsys):
    both = merge_payloads([shared("ann", level, [1, 1, 2], [0, 1, 2])])
    with pytest.raises(BadInputError, match=r"2 classes .*'Fox', 'fox'.*case") as refused:
        check_prompts(both, allowed=False, option="--so")
    assert "--so" in refused.value.hint and not capsys.readouterr().err
    check_prompts(both, allowed=True, option="--so")
    assert "'Fox', 'fox'" in capsys.readouterr().err


def test_captions_that_coincide_are_said_and_not_refused(capsys):
    own = shared("ann", "instance", [1, 2, 1, 3], [0, 0, 1, 1])
    check_prompts(merge_payloads([own, shared("bob", "class", [1], [0])]), allowed=False, option="--so")
    assert "'Fox', 'fox'" in capsys.readouterr().err


def test_hundreds_of_classes_are_counted_and_a_few_named():
    names = tuple(f"a very long name {number}" for number in range(400))
    merged = merge_payloads([shared("ann", "class", [number // 40 for number in range(400)], range(400), names)])
    words = same_words(same_prompts(merged), cut=names[:1])
    assert words.startswith("400 classes") and "and 37 more (the rest is cut off)" in words
    assert words.endswith("and 7 more") and words.count("a very long name") == 9

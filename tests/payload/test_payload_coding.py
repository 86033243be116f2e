"""The forms that a payload travels in: what comes back, what is refused, how many bytes."""

import json
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.numpy import load_file, save_file
from test_payload import survive

from fglfast.base.errors import BadInputError
from fglfast.payload import (
    Limits,
    Payload,
    PayloadHeader,
    eight_bits,
    load_payload,
    merge_equal,
    save_payload,
    tensor_bytes,
)
from fglfast.payload.coding import from_eight_bits, lengthen, shorten, to_eight_bits

NAMES = ("x", "y", "z")
IMAGENETTE = ("tench", "English springer", "cassette player", "chain saw", "church")
IMAGENETTE += ("French horn", "garbage truck", "gas pump", "golf ball", "parachute")
quick = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
halves = arrays(np.float16, (2, 3, 4), elements=st.floats(-65504, 65504, width=16))


def header(**changes):
    facts = {"client": "ann", "class_names": NAMES, "prompt_level": "class", "text_encoder": "ab" * 32}
    return PayloadHeader(**facts | changes)


def embedded(rows=3, **changes):
    values = np.random.default_rng(0).normal(size=(rows, 4, 8)).astype(np.float16)
    return Payload(header(**changes), values, None, np.arange(rows) % 3, np.arange(1, rows + 1))


def tokens(ids=((5, 7, 9, 9, 9), (5, 9, 9, 9, 9), (5, 7, 8, 9, 9)), **changes):
    ids = np.array(ids, np.int32)
    return Payload(header(**changes), None, ids, np.arange(len(ids)) % 3, np.arange(1, len(ids) + 1))


FORMS = {"embeddings": embedded, "int8": lambda **changes: eight_bits(embedded(**changes)), "tokens": tokens}


@given(values=halves)
@quick
def test_eight_bits_are_near_and_stay_what_they_are(values):
    codes, scales = to_eight_bits(values)
    meant = from_eight_bits(codes, scales)
    step = np.abs(values.astype(np.float64)).max(axis=-1, keepdims=True) / 127
    assert (np.abs(meant.astype(np.float64) - values) <= 0.51 * step + np.abs(values) * 2**-10 + 2**-24).all()
    again = to_eight_bits(meant)
    assert np.array_equal(codes, again[0]) and np.array_equal(scales, again[1])


@given(ids=arrays(np.int32, (3, 6), elements=st.integers(0, 4) | st.integers(0, 2**31 - 1)))
@quick
def test_short_rows_come_back_whole(ids):
    short, padding = shorten(ids)
    assert np.array_equal(lengthen(short, padding), ids) and lengthen(short, padding).dtype == np.int32
    assert short.dtype == (np.uint16 if ids.max() < 2**16 else np.int32)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("changes", [{}, {"domain": "sketch"}, {"format_version": 1}])
def test_each_form_comes_back_and_is_written_alike(tmp_path, form, changes):
    sent, path = FORMS[form](**changes), tmp_path / "p.safetensors"
    save_payload(sent, path)
    content, found = path.read_bytes(), load_payload(path)
    assert found.header == sent.header and found.digest() == sent.digest()
    assert all(np.array_equal(tensor, sent.tensors()[name]) for name, tensor in found.tensors().items())
    assert found.form == (form if "format_version" not in changes or form == "tokens" else "embeddings")
    save_payload(found, path)
    assert path.read_bytes() == content


def test_a_file_of_the_first_version_holds_what_it_did_and_keeps_its_hash(tmp_path):
    old, path = embedded(format_version=1), tmp_path / "p.safetensors"
    save_payload(old, path)
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    facts = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["fglfast"])
    known = {"format_version", "client", "class_names", "prompt_level", "text_encoder", "privacy"}
    assert set(facts) == known and facts["format_version"] == 1
    assert load_payload(path).digest() == old.digest()


@pytest.mark.parametrize("form", ["int8", "tokens"])
@given(data=st.data())
@quick
def test_a_damaged_file_is_refused_or_still_valid_but_never_crashes(tmp_path, form, data):
    path = tmp_path / "p.safetensors"
    survive(path, data, save_payload(FORMS[form](), path) // 2)


ONES = np.ones((3, 4), np.float32)


@pytest.mark.parametrize(
    ("form", "field", "changes"),
    [
        ("int8", "scales", {"scales": np.where(np.eye(3, 4), np.nan, ONES).astype(np.float32)}),
        ("int8", "scales", {"scales": ONES * np.float32(np.inf)}),
        ("int8", "scales", {"scales": -ONES}),
        ("int8", "scales", {"scales": ONES * 516}),
        ("int8", "scales", {"scales": ONES.astype(np.float16)}),
        ("int8", "scales", {"scales": ONES[:, :3]}),
        ("int8", "scales", {"scales": ONES[0]}),
        ("int8", "scales", {"scales": None}),
        ("int8", "scales", {"embeddings": np.ones((3, 4, 8), np.float16)}),
        ("int8", "embeddings", {"embeddings": np.ones((3, 4, 8), np.uint8)}),
        ("int8", "embeddings", {"embeddings": np.zeros((3, 4, 8), np.int8), "labels": np.zeros(3, np.int64)}),
        ("int8", "padding", {"padding": np.array([9, 5], np.int32)}),
        ("tokens", "padding", {"padding": None}),
        ("tokens", "padding", {"padding": np.array([-1, 5], np.int32)}),
        ("tokens", "padding", {"padding": np.array([9, 2], np.int32)}),
        ("tokens", "padding", {"padding": np.array([9, 2**31 - 1], np.int32)}),
        ("tokens", "padding", {"padding": np.array([9, 5, 5], np.int32)}),
        ("tokens", "padding", {"padding": np.array([9, 5], np.int64)}),
        ("tokens", "token_ids", {"token_ids": np.full((3, 3), -1, np.int32)}),
        ("tokens", "token_ids", {"token_ids": np.ones((3, 3), np.int64)}),
        ("tokens", "scales", {"scales": ONES}),
    ],
)
def test_a_strangers_eight_bits_and_short_rows_are_proved(tmp_path, form, field, changes):
    path = tmp_path / "p.safetensors"
    save_payload(FORMS[form](), path)
    tensors = {name: tensor for name, tensor in (load_file(path) | changes).items() if tensor is not None}
    save_file(tensors, path, metadata={"fglfast": header().canonical()})
    with pytest.raises(BadInputError, match=f": {field}:"):
        load_payload(path)


@pytest.mark.parametrize("form", ["int8", "tokens"])
def test_the_first_version_knows_neither_eight_bits_nor_short_rows(tmp_path, form):
    path = tmp_path / "p.safetensors"
    save_payload(FORMS[form](), path)
    save_file(load_file(path), path, metadata={"fglfast": header(format_version=1).canonical()})
    with pytest.raises(BadInputError):
        load_payload(path)


def test_rows_that_would_unfold_beyond_the_limit_are_refused(tmp_path):
    path, many = tmp_path / "p.safetensors", np.arange(2000, dtype=np.int32).reshape(-1, 1)
    ids = np.concatenate([many, np.zeros((2000, 76), np.int32)], axis=1)
    size = save_payload(Payload(header(), None, ids, np.zeros(2000, np.int64), np.ones(2000, np.int64)), path)
    assert size < 50_000 and len(load_payload(path).prompts()) == 2000
    with pytest.raises(BadInputError, match="in memory"):
        load_payload(path, Limits(max_bytes=100_000))


def test_equal_rows_of_a_class_become_one():
    merged = merge_equal(tokens(((5, 7, 9), (5, 7, 9), (5, 8, 9), (5, 7, 9))))
    assert merged.labels.tolist() == [0, 1, 2] and merged.counts.tolist() == [5, 2, 3]
    zeros = np.array([[[0.0]], [[-0.0]]], np.float16)
    assert merge_equal(Payload(header(), zeros, None, np.zeros(2, np.int64), np.ones(2, np.int64))).counts == [2]


def test_ten_classes_of_stable_diffusion_take_less_than_two_kilobytes_as_tokens(narrow, tmp_path):
    from fglfast.generator.text import load_prompts
    from fglfast.generator.tokens import load_tokenizer

    folder = narrow("sd21-base")
    prompts = [load_prompts(folder).class_level.format(label=name) for name in IMAGENETTE]
    ids = load_tokenizer(folder).tokenize(prompts)
    sent = Payload(header(class_names=IMAGENETTE), None, ids, np.arange(10), np.full(10, 100))
    # This tokenizer's vocabulary is bytes: real prompts have a fifth of the tokens.
    assert ids.shape == (10, 77) and save_payload(sent, tmp_path / "p.safetensors") < 2048
    assert np.array_equal(load_payload(tmp_path / "p.safetensors").token_ids, ids)


def test_bytes_of_each_form_are_those_of_the_tensors(tmp_path):
    path = tmp_path / "p.safetensors"
    for form, make in FORMS.items():
        save_payload(make(), path)
        assert tensor_bytes(make())[form] == sum(tensor.nbytes for tensor in load_file(path).values())

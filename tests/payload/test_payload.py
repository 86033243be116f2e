import json
import struct
import subprocess
import sys
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fglfast.base.errors import BadInputError
from fglfast.payload import Limits, Payload, PayloadHeader, load_payload, save_payload

ENCODER = "ab" * 32


def make(client="ann", rows=3, names=("x", "y", "z"), **changes):
    header = PayloadHeader(client=client, class_names=names, prompt_level="class", text_encoder=ENCODER)
    tensors = {
        "embeddings": np.random.default_rng(0).normal(size=(rows, 4, 2)).astype(np.float16),
        "token_ids": None,
        "labels": np.arange(rows, dtype=np.int64) % len(names),
        "counts": np.arange(1, rows + 1, dtype=np.int64),
    }
    return Payload(header=header, **{**tensors, **changes})


def with_facts(path, change):
    """A payload with the text of its header changed."""
    save_payload(make(), path)
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"]["fglfast"] = change(header["__metadata__"]["fglfast"])
    encoded = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + content[8 + length :])


def equal(one, other):
    return one.header == other.header and one.digest() == other.digest()


@given(rows=st.integers(1, 40), client=st.text("abc é犬-_.", min_size=1, max_size=20))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
def test_round_trip_with_reproducible_bytes(tmp_path, rows, client):
    try:
        sent = make(client, rows)
    except ValueError:
        return
    size = save_payload(sent, tmp_path / "p.safetensors")
    content = (tmp_path / "p.safetensors").read_bytes()
    assert size == len(content) and equal(load_payload(tmp_path / "p.safetensors"), sent)
    save_payload(sent, tmp_path / "p.safetensors")
    assert (tmp_path / "p.safetensors").read_bytes() == content


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
def test_a_damaged_file_is_refused_or_still_valid_but_never_crashes(tmp_path, data):
    path = tmp_path / "p.safetensors"
    save_payload(make(), path)
    survive(path, data, 0)


def survive(path, data, least):
    """Some bytes of a file changed and its end cut off, it is refused in a line or still valid."""
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content[: data.draw(st.integers(least, len(content)))]))
    try:
        load_payload(path)
    except BadInputError as error:
        assert "\n" not in error.message


@pytest.mark.parametrize(
    "changes",
    [
        {"embeddings": None},
        {"token_ids": np.zeros((3, 4), np.int32)},
        {"embeddings": np.full((3, 4, 2), np.nan, np.float16)},
        {"embeddings": np.full((3, 4, 2), np.inf, np.float16)},
        {"embeddings": np.zeros((3, 4, 2), np.float32)},
        {"embeddings": np.zeros((3, 4), np.float16)},
        {"labels": np.array([0, 1, 3])},
        {"labels": np.array([0, -1, 2])},
        {"labels": np.array([0, 1])},
        {"counts": np.array([1, 0, 1])},
        {"embeddings": None, "token_ids": np.full((3, 4), -1, np.int32)},
        {"embeddings": np.ones((3, 4, 2), np.float16), "labels": np.zeros(3, np.int64)},
    ],
)
def test_bad_tensors_are_refused(tmp_path, changes):
    with pytest.raises(BadInputError):
        save_payload(make(**changes), tmp_path / "p.safetensors")


@pytest.mark.parametrize(
    "edit",
    [
        {"format_version": 3},
        {"format_version": 0},
        {"format_version": 2.0},
        {"format_version": True},
        {"format_version": 1, "domain": "sketch"},
        {"domain": "a\nb"},
        {"unknown": 1},
        {"class_names": []},
        {"class_names": ["x", "x", "z"]},
        {"class_names": ["x", "y\n", "z"]},
        {"client": ""},
        {"client": "a/b"},
        {"text_encoder": "short"},
        {"prompt_level": "pixel"},
        {"format_version": 1, "prompt_level": "learned"},
    ],
)
def test_bad_headers_are_refused(tmp_path, edit):
    path = tmp_path / "p.safetensors"
    with_facts(path, lambda text: json.dumps(json.loads(text) | edit))
    with pytest.raises(BadInputError):
        load_payload(path)


def test_limits_and_encoder(tmp_path):
    path = tmp_path / "p.safetensors"
    save_payload(make(), path)
    for limits in (Limits(max_rows=2), Limits(max_bytes=100)):
        with pytest.raises(BadInputError):
            load_payload(path, limits)
    with pytest.raises(BadInputError):
        load_payload(path, text_encoder="cd" * 32)
    with pytest.raises(BadInputError):
        load_payload(tmp_path / "missing.safetensors")


def test_learned_embeddings_are_no_token_ids(tmp_path):
    made = make()
    learned = made.header.model_copy(update={"prompt_level": "learned"})
    save_payload(replace(made, header=learned), tmp_path / "p.safetensors")
    assert load_payload(tmp_path / "p.safetensors").reveals.startswith("which classes")
    ids = np.arange(16 * len(made.labels), dtype=np.int32).reshape(-1, 16)
    with pytest.raises(BadInputError, match="prompt_level: learned"):
        save_payload(replace(made, header=learned, embeddings=None, token_ids=ids), tmp_path / "p.safetensors")
        load_payload(tmp_path / "p.safetensors")


def test_reading_payloads_needs_no_torch():
    code = "import sys, fglfast.payload; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("[" + "[]," * 2_000_000 + "[]]", "more than 300000 values"),
        ("[" + "1.5," * 1_500_000 + "1]", "more than 300000 values"),
        ("[" + "[]," * 100_000 + "[]]", "class_names"),
        (json.dumps([f"n{number}" for number in range(100_000)] + ["n7"]), "class_names"),
        (json.dumps([f"n{number}" for number in range(99_999)] + ["n99998"]), "'n99998' is there twice"),
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
    ],
)
def test_a_header_of_eight_megabytes_is_refused_before_it_takes_memory(value, words, tmp_path):
    """Unbounded, the first took gigabytes and minutes: a message for each of two million names."""
    text = f'{{"format_version": 2, "client": "ann", "class_names": {value}}}'
    with_facts(tmp_path / "p.safetensors", lambda _: text)
    tracemalloc.start()
    with pytest.raises(BadInputError, match=words):
        load_payload(tmp_path / "p.safetensors")
    assert tracemalloc.get_traced_memory()[1] < 150 << 20
    tracemalloc.stop()

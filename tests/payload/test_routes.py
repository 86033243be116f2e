"""Payloads of routing: what a file may say, and what it may not."""

from dataclasses import replace

import numpy as np
import pytest

from fglfast.base.errors import BadInputError
from fglfast.payload import Payload, PayloadHeader, load_payload, save_payload, tensor_bytes

FACTS = {
    "format_version": 3,
    "client": "ann",
    "class_names": ("a", "b", "c"),
    "prompt_level": "routed",
    "text_encoder": "ab" * 32,
    "inventory": "cd" * 32,
}


def routed(**changes):
    routes = np.arange(6, dtype=np.float16).reshape(3, 2) / 4
    labels, counts = np.array([0, 2]), np.array([5, 7])
    return replace(Payload(PayloadHeader(**FACTS), None, None, labels, counts, routes=routes), **changes)


def test_it_comes_back(tmp_path):
    made = routed()
    save_payload(made, tmp_path / "a.safetensors")
    read = load_payload(tmp_path / "a.safetensors")
    assert read.header == made.header and np.array_equal(read.routes, made.routes) and read.form == "routes"
    assert read.embeddings is None and read.token_ids is None and read.digest() == made.digest()
    assert tensor_bytes(read) == {"routes": 12 + 32}


def test_what_the_server_made_of_it_does_not_travel(tmp_path):
    made = routed()
    grown = replace(made, embeddings=np.ones((2, 4, 8), np.float16))
    assert grown.digest() == made.digest()
    assert save_payload(grown, tmp_path / "a") == save_payload(made, tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    "changes",
    [
        {"routes": np.full((3, 2), np.nan, np.float16)},
        {"routes": np.zeros((3, 2), np.float32)},
        {"routes": np.zeros(3, np.float16)},
        {"routes": np.zeros((0, 2), np.float16)},
        {"labels": np.array([1, 1])},
        {"labels": np.array([0, 3])},
        {"counts": np.array([0, 1])},
        {"counts": np.array([1])},
        {"routes": None, "embeddings": np.ones((2, 4, 8), np.float16)},
    ],
)
def test_what_breaks_a_rule_is_not_written(changes, tmp_path):
    with pytest.raises(BadInputError):
        save_payload(routed(**changes), tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    "changes",
    [
        {"inventory": None},
        {"inventory": "x"},
        {"format_version": 2},
        {"prompt_level": "class"},
        {"format_version": 2, "inventory": None},
        {"format_version": 2, "prompt_level": "learned"},
    ],
)
def test_level_version_and_inventory_go_together(changes):
    with pytest.raises(ValueError, match="inventory"):
        PayloadHeader(**FACTS | changes)


def test_older_headers_say_what_they_said():
    header = PayloadHeader(client="ann", class_names=("a",), prompt_level="class", text_encoder="ab" * 32)
    assert header.canonical() == (
        '{"class_names":["a"],"client":"ann","format_version":2,"privacy":null,"prompt_level":"class",'
        f'"text_encoder":"{"ab" * 32}"}}'
    )

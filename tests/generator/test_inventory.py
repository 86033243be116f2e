"""An inventory of adapters: what a mixture makes of an embedding, by hand; and its file, sound or not."""

import json
import struct

import pytest
import torch

from fglfast.base.errors import BadInputError
from fglfast.generator.inventory import METADATA_KEY, Inventory, InventoryHeader, load_inventory, save_inventory

FACTS = {"text_encoder": "ab" * 32, "model": "cd" * 32, "length": 4, "width": 6, "transformations": ("a", "b")}


def inventory(**sizes):
    made = Inventory(InventoryHeader(**FACTS, **({"adapters": 3, "heads": 2, "rank": 2} | sizes)))
    draws = torch.Generator().manual_seed(1)
    for parameter in made.parameters():
        parameter.data = torch.randn(parameter.shape, generator=draws)
    return made.requires_grad_(False)


def test_a_mixture_is_what_the_formula_says():
    made, draws = inventory(), torch.Generator().manual_seed(2)
    text, logits = torch.randn(2, 4, 6, generator=draws), torch.randn(2, 3, 2, generator=draws)
    changed = made(text, logits)
    assert torch.equal(changed[:, 0], text[:, 0]), "the first token is the same for all prompts"
    for one in range(2):
        share = logits[one].softmax(0)
        for token in range(1, 4):
            for channel in range(6):
                parts = [
                    share[r, channel // 3]
                    * ((text[one, token] @ made.down[r] @ made.up[r])[channel] + made.bias[r, token - 1, channel])
                    for r in range(3)
                ]
                assert changed[one, token, channel] == pytest.approx(
                    float(text[one, token, channel] + sum(parts)), abs=1e-4
                )


def test_a_fresh_one_changes_nothing_and_heads_have_to_fit():
    fresh = Inventory(InventoryHeader(**FACTS, adapters=3, heads=3, rank=2))
    text = torch.randn(1, 4, 6)
    assert torch.equal(fresh(text, torch.randn(1, 3, 3)), text)
    with pytest.raises(ValueError, match="heads: 4"):
        InventoryHeader(**FACTS, heads=4)


def test_a_file_comes_back_and_has_one_fingerprint(tmp_path):
    made, path = inventory(), tmp_path / "a.safetensors"
    assert save_inventory(made, path) == path.stat().st_size
    read = load_inventory(path, FACTS["text_encoder"])
    assert read.description == made.description and read.fingerprint() == made.fingerprint()
    assert all(torch.equal(read.state_dict()[name], tensor) for name, tensor in made.state_dict().items())
    assert not any(parameter.requires_grad for parameter in read.parameters())
    made.bias[0, 0, 0] += 1
    assert made.fingerprint() != read.fingerprint()
    with pytest.raises(BadInputError, match="text encoder"):
        load_inventory(path, "ef" * 32)


def spoilt(content, **changes):
    """The file with other facts about itself."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"][METADATA_KEY] = json.dumps(json.loads(header["__metadata__"][METADATA_KEY]) | changes)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: b"",
        lambda content: content[:-4],
        lambda content: content + b"\0",
        lambda content: b"\xff" * 8 + content[8:],
        lambda content: content[:-4] + struct.pack("<f", float("nan")),
        lambda content: spoilt(content, adapters=4),
        lambda content: spoilt(content, adapters=2**40),
        lambda content: spoilt(content, heads=4),
        lambda content: spoilt(content, format_version=2),
        lambda content: spoilt(content, more=1),
        lambda content: spoilt(content, model="x"),
        lambda content: content.replace(b"down", b"dawn"),
        lambda content: content.replace(b"F32", b"I32"),
        lambda content: content.replace(METADATA_KEY.encode(), b"x" * len(METADATA_KEY)),
    ],
)
def test_a_spoilt_file_is_refused(spoil, tmp_path):
    path = tmp_path / "a.safetensors"
    save_inventory(inventory(), path)
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(BadInputError):
        load_inventory(path)


def test_no_file_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(BadInputError):
            load_inventory(path)

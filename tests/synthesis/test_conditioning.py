import json
import shutil
from dataclasses import replace

import pytest
import torch

from fglfast.payload.merge import merge_payloads
from fglfast.synthesis.conditioning import Conditioning, negative_text


@pytest.fixture
def worded(engine, tmp_path):
    """The engine over a copy of its model folder that words the negative prompts of two domains."""
    folder = tmp_path / "model"
    shutil.copytree(engine.model, folder)
    domains = {"sketch": {"negative": "bag"}, "real": {"negative": "wide"}}
    (folder / "prompts.json").write_text(json.dumps({"negative": "", "domains": domains}))
    return replace(engine, model=folder)


def named(payload, domain):
    return replace(payload, header=payload.header.model_copy(update={"domain": domain}))


def test_each_row_is_guided_away_from_its_domains_negative_prompt(worded, payload):
    ann, bob = named(payload("ann", (3, 0, 1)), "sketch"), payload("bob", (1, 5, 0))
    cid, dan = named(payload("cid", (1, 0, 0)), "real"), named(payload("dan", (1, 0, 0)), "unheard of")
    merged = merge_payloads([dan, cid, bob, ann])
    assert merged.domains == ("sketch", None, "real", "unheard of")
    conditioning = Conditioning(merged, worded)
    negatives_RLE = conditioning.negatives(range(len(merged.labels)))
    usual_LE = worded.networks.project(negative_text(worded)[None])[0]
    assert torch.allclose(negatives_RLE[2], usual_LE, atol=1e-6)
    same = [[bool(torch.equal(one, other)) for other in negatives_RLE] for one in negatives_RLE]
    groups = [merged.row_client.tolist().index(client) for client in (0, 0, 1, 1, 2, 1)]  # dan is as bob
    assert same == [[one == other for other in groups] for one in groups]
    assert conditioning.negatives([4, 0]).equal(negatives_RLE[[4, 0]])

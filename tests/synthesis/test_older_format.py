"""Data sets by the version before: read, verified and trained on; told apart, and neither continued nor repaired."""

import json

import pytest
from living import maker
from typer.testing import CliRunner

from fglfast.base.errors import BadInputError, UsageError
from fglfast.payload.merge import merge_payloads
from fglfast.sampler.schedule import Sampling
from fglfast.shards.description import read_description
from fglfast.shards.index import read_index
from fglfast.shards.tar import Sample, read_samples, shard_name, write_shard
from fglfast.synthesis.provenance import shares
from fglfast.synthesis.repair import repair
from fglfast.synthesis.settings import SynthesisSettings
from fglfast.synthesis.synthesize import synthesize
from fglfast.synthesis.verify import verify
from fglfast.verbs.app import app

ASKED = SynthesisSettings(images_per_class=4, shard_size=6, sampling=Sampling(steps=1, guidance_scale=1.0))


@pytest.fixture
def merged(random_mini):
    return merge_payloads([maker(random_mini)("ann", [("bag", 1, 3), ("shoe", 2, 1)])])


@pytest.fixture
def older(idle, merged, tmp_path):
    """A data set as version 1 wrote it: images name a place among the rows, their client and its payload."""
    synthesize(idle(), merged, ASKED, tmp_path)
    facts = json.loads((tmp_path / "dataset.json").read_text())
    facts["format_version"] = 1
    rows = [row["row"] for row in facts.pop("rows")]
    (tmp_path / "dataset.json").write_text(json.dumps(facts, indent=2))
    for number in range(facts["shards"]):
        samples = [sample for _, sample in read_samples(tmp_path / shard_name(number))]
        said = {"client": "ann", "payload": merged.digests[0]}
        write_shard(
            tmp_path / shard_name(number),
            [Sample(s.key, s.image, s.label, s.facts | said | {"row": rows.index(s.facts["row"])}) for s in samples],
            "png",
        )
    return tmp_path


def test_it_is_read_and_verified(older, merged):
    description = read_description(older)
    assert description.format_version == 1 and len(read_index(older, description)) == 8
    assert [shard.problem for shard in verify(older, merged)] == ["", ""]
    (older / "checksums" / "train-000000.tar.sha256").unlink()
    assert [(shard.how, shard.problem) for shard in verify(older)] == [("structure", ""), ("checksum", "")]


def test_it_is_neither_continued_nor_updated_nor_repaired(older, idle, merged):
    (older / shard_name(0)).unlink()
    for update in (False, True):
        with pytest.raises(UsageError, match="earlier version"):
            synthesize(idle(), merged, ASKED, older, update=update)
    with pytest.raises(UsageError, match="earlier version"):
        repair(idle(), merged, older, verify(older))
    with pytest.raises(BadInputError, match="format 1"):
        shares(older)
    assert CliRunner().invoke(app, ["inspect", str(older)]).exit_code == 4
    assert not (older / ".update").exists()

"""Data sets by earlier versions: read, verified, trained on, told apart.

Those of version 1 are neither continued, updated nor repaired; of version 2, whose rows do not take turns, not
continued.
"""

import json
import shutil
from dataclasses import replace

import pytest
from living import content, maker
from typer.testing import CliRunner

from fglfast.base.errors import BadInputError, UsageError
from fglfast.payload.merge import merge_payloads
from fglfast.sampler.schedule import Sampling
from fglfast.shards.description import read_description
from fglfast.shards.index import read_index
from fglfast.shards.tar import Sample, read_samples, shard_name, write_shard
from fglfast.synthesis.drawn import Drawn
from fglfast.synthesis.forget import forget
from fglfast.synthesis.older import Older
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


@pytest.fixture
def two(random_mini):
    return merge_payloads(
        [maker(random_mini)("ann", [("bag", 1, 3), ("bag", 2, 2), ("shoe", 2, 1)]), maker(random_mini)("bob", BOB)]
    )


BOB = [("bag", 7, 4), ("shoe", 8, 3)]


@pytest.fixture
def row_by_row(idle, two, tmp_path):
    """A data set as version 2 wrote it: all images of a row follow each other."""
    synthesize(idle(), two, ASKED, tmp_path / "now")
    out, there = tmp_path / "out", Drawn.of(tmp_path / "now")
    plan = replace(there.layout, in_turn=False)
    older = Older(tmp_path / "now", there.layout, range(there.shards))
    shutil.copytree(tmp_path / "now", out)
    facts = json.loads((out / "dataset.json").read_text()) | {"format_version": 2, "plan": plan.digest()}
    (out / "dataset.json").write_text(json.dumps(facts, indent=2))
    for number in range(there.shards):
        write_shard(out / shard_name(number), map(older.sample, plan.shard(number)), "png")
    return out


def test_rows_that_do_not_take_turns_are_read_verified_and_repaired_where_they_are(row_by_row, idle, two, tmp_path):
    rows = [sample.facts["row"] for _, sample in read_samples(row_by_row / shard_name(0))][::2]
    assert rows == sorted(rows) and content(row_by_row) != content(tmp_path / "now")
    assert len(read_index(row_by_row, read_description(row_by_row))) == 8 and shares(row_by_row)
    (row_by_row / "checksums" / "train-000000.tar.sha256").unlink()
    assert [(shard.how, shard.problem) for shard in verify(row_by_row, two)] == [("structure", ""), ("checksum", "")]
    before = (row_by_row / shard_name(1)).read_bytes()
    (row_by_row / shard_name(1)).unlink()
    repair(idle(), two, row_by_row, verify(row_by_row))
    assert (row_by_row / shard_name(1)).read_bytes() == before


def test_they_take_turns_after_an_update_that_draws_nothing(row_by_row, idle, two, tmp_path):
    with pytest.raises(UsageError, match=r"format version 2 there, 3 here; .* 8 images stay, 0 go, 0 are new"):
        synthesize(idle(), two, ASKED, row_by_row)
    made = synthesize(idle(), two, ASKED, row_by_row, update=True)
    assert made.images == 0 and content(row_by_row) == content(tmp_path / "now")


def test_a_client_is_forgotten_of_them_too(row_by_row, idle, random_mini, tmp_path):
    rest = merge_payloads([maker(random_mini)("bob", BOB)])
    forget("ann", [maker(random_mini)("bob", BOB)], row_by_row, idle)
    (row_by_row / next(path.name for path in row_by_row.glob("forgotten-*.json"))).unlink()
    synthesize(idle(), rest, ASKED, tmp_path / "fresh")
    assert content(row_by_row) == content(tmp_path / "fresh")

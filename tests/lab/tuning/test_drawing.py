import json
from dataclasses import replace

import numpy as np
import pytest

from fglfast.engine.build import build_engine
from fglfast.lab.tuning.candidates import Candidate
from fglfast.lab.tuning.drawing import DataSets, take
from fglfast.payload.merge import row_digests
from fglfast.sampler.schedule import Sampling
from fglfast.shards.description import read_description
from fglfast.shards.index import read_index
from fglfast.shards.tar import shard_name
from fglfast.synthesis.plan import make_plan
from fglfast.synthesis.settings import SynthesisSettings
from fglfast.synthesis.synthesize import synthesize

SAMPLING = Sampling(steps=1, guidance_scale=1.0)


@pytest.fixture(scope="module")
def engine(recipe, random_mini, tmp_path_factory):
    return build_engine(recipe.model_copy(update={"backend": "torch"}), random_mini, tmp_path_factory.mktemp("torch"))


def candidate(count, sampling=SAMPLING):
    return Candidate(sampling=sampling, images_per_class=count)


def files(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.tar")}


def test_a_smaller_set_is_taken_out_of_the_larger_and_bears_its_share(engine, merged, tmp_path):
    sets = DataSets(engine, merged, 5, tmp_path / "work")
    whole = sets.make(candidate(20))
    part = sets.make(candidate(8))
    assert whole.drawn_with is None and part.drawn_with == 20
    assert part.seconds == pytest.approx(whole.seconds * 8 / 20)
    alone = tmp_path / "alone"
    synthesize(engine, merged, SynthesisSettings(images_per_class=8, seed=5, sampling=SAMPLING), alone)
    assert files(part.folder) == files(alone)
    assert json.loads((part.folder / "dataset.json").read_text()) == json.loads((alone / "dataset.json").read_text())
    assert len(read_index(part.folder, read_description(part.folder))) == part.plan.images == 24


def test_another_sampling_or_a_larger_set_is_drawn(engine, merged, tmp_path):
    sets = DataSets(engine, merged, 0, tmp_path / "work")
    assert sets.make(candidate(3)).drawn_with is None
    assert sets.make(candidate(4)).drawn_with is None
    other = sets.make(candidate(2, Sampling(steps=2, guidance_scale=1.0)))
    assert other.drawn_with is None and sets.kept is other


def test_nothing_is_taken_when_the_larger_set_lacks_an_image(merged, tmp_path):
    """The Alabama paradox: of eleven images a row may get fewer than of ten."""
    rows = {"labels": np.zeros(3, np.int64), "content": np.arange(3), "row_client": np.zeros(3, np.int64)}
    digests = row_digests(table := replace(merged, **rows, counts=np.full(3, 6)))
    table.counts[digests.index(max(digests))] = 2  # ties go to the first by digest
    ten, eleven = (make_plan(table, count, 0, 512, {}) for count in (10, 11))
    assert [row.images for row in ten.rows] == [4, 4, 2]
    assert [row.images for row in eleven.rows] == [5, 5, 1]
    assert not take(eleven, tmp_path / "eleven", ten, tmp_path / "ten")
    assert not (tmp_path / "ten" / shard_name(0)).exists()

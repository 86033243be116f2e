"""A generator's folder that was edited between two runs: its images would be others, though its weights are not."""

import json
import shutil

import pytest
from idle_engine import idle_engine
from living import content, maker

from fglfast.base.errors import UsageError
from fglfast.payload.merge import merge_payloads
from fglfast.sampler.schedule import Sampling
from fglfast.shards.description import write_description
from fglfast.synthesis.drawn import Drawn
from fglfast.synthesis.forget import forget
from fglfast.synthesis.repair import repair
from fglfast.synthesis.settings import SynthesisSettings
from fglfast.synthesis.synthesize import check_work, synthesize
from fglfast.synthesis.verify import verify

ASKED = SynthesisSettings(images_per_class=4, shard_size=3, sampling=Sampling(steps=1, guidance_scale=2.0))
ANN, BOB = [("bag", 1, 3), ("shoe", 2, 1)], [("bag", 3, 2)]


@pytest.fixture
def model(random_mini, tmp_path):
    return shutil.copytree(random_mini, tmp_path / "model")


@pytest.fixture
def merged(model):
    make = maker(model)
    return merge_payloads([make("ann", ANN), make("bob", BOB)])


@pytest.fixture
def begun(model, merged, tmp_path):
    """A data set of which a shard is missing."""
    synthesize(idle_engine(model), merged, ASKED, tmp_path / "out")
    (tmp_path / "out" / "train-000001.tar").unlink()
    return tmp_path / "out"


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


EDITS = {
    "negative prompt": {"negative": "dark"},
    "negative prompt of domains": {"domains": {"sketch": {"negative": "dark"}}},
    "scheduler": {"scheduler": ["diffusers", "UniPCMultistepScheduler"]},
    "pipeline": {"_class_name": "LatentConsistencyModelPipeline"},
}


@pytest.mark.parametrize("what", EDITS)
def test_images_of_an_edited_generator_are_not_drawn_among_the_others(what, begun, model, merged):
    file = model / ("prompts.json" if what.startswith("negative") else "model_index.json")
    before, said = content(begun), what.removesuffix(" of domains")
    edit(file, **EDITS[what])
    for update in (False, True):
        with pytest.raises(UsageError, match=said):
            synthesize(idle_engine(model), merged, ASKED, begun, update=update)
        with pytest.raises(UsageError, match=said):
            check_work(merged, ASKED, begun, model, 32, update)
    with pytest.raises(UsageError, match=said):
        repair(idle_engine(model), merged, begun, verify(begun))
    assert content(begun) == before


def test_templates_that_clients_have_used_already_may_change(begun, model, merged):
    edit(model / "prompts.json", class_level="a picture of {label}", domains={"sketch": {"class_level": "{label}"}})
    assert synthesize(idle_engine(model), merged, ASKED, begun).missing == 0


@pytest.mark.parametrize("what", ["negative prompt", "scheduler"])
def test_what_a_recipe_does_not_use_may_change(what, model, merged, tmp_path):
    own = ASKED.model_copy(update={"sampling": Sampling(steps=1, guidance_scale=1.0, scheduler="flow-euler")})
    synthesize(idle_engine(model), merged, own, tmp_path / "out")
    edit(model / ("prompts.json" if what.startswith("negative") else "model_index.json"), **EDITS[what])
    assert synthesize(idle_engine(model), merged, own, tmp_path / "out").images == 0


def told_by_an_earlier_version(out):
    """Make `dataset.json` what it was before it said this."""
    drawn = Drawn.of(out).model_copy(update={"generator": None})
    write_description(out, drawn.model_copy(update={"plan": drawn.layout.digest()}))
    facts = json.loads((out / "dataset.json").read_text())
    assert facts.pop("generator") is None
    (out / "dataset.json").write_text(json.dumps(facts))


def test_data_sets_that_do_not_say_are_gone_on_with_and_updated(begun, model, merged, tmp_path):
    shards = {name: data for name, data in content(begun).items() if name.endswith(".tar")}
    told_by_an_earlier_version(begun)
    assert synthesize(idle_engine(model), merged, ASKED, begun).images == 3
    assert shards.items() <= content(begun).items() and not any(shard.problem for shard in verify(begun, merged))
    more = ASKED.model_copy(update={"images_per_class": 6})
    with pytest.raises(UsageError, match=r"images per class 4 there, 6 here; with"):
        synthesize(idle_engine(model), merged, more, begun)
    assert synthesize(idle_engine(model), merged, more, begun, update=True).images == 4
    synthesize(idle_engine(model), merged, more, tmp_path / "fresh")
    assert content(begun) == content(tmp_path / "fresh")


def test_a_client_is_forgotten_of_either_and_the_set_is_gone_on_with(begun, model, merged):
    synthesize(idle_engine(model), merged, ASKED, begun)
    rest = maker(model)("ann", ANN)
    forget("bob", [rest], begun, lambda: idle_engine(model))
    assert synthesize(idle_engine(model), merge_payloads([rest]), ASKED, begun).images == 0
    told_by_an_earlier_version(begun)
    assert synthesize(idle_engine(model), merge_payloads([rest]), ASKED, begun).images == 0


def test_what_an_earlier_version_drew_is_repaired(begun, model, merged):
    told_by_an_earlier_version(begun)
    repair(idle_engine(model), merged, begun, verify(begun))
    assert not any(shard.problem for shard in verify(begun))

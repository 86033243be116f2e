"""Generators as judges of their own images: one that knows its classes, and what becomes of a data set's scores."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from idle_engine import idle_engine
from living import NAMES, content, maker, scores
from typer.testing import CliRunner

from fglfast.base.errors import BadInputError
from fglfast.engine.build import LazyEngine
from fglfast.engine.recipe import find_recipe
from fglfast.generator.learning.label_flow import LabelFlow, save_label_flow
from fglfast.payload import save_payload
from fglfast.payload.merge import merge_payloads
from fglfast.sampler.schedule import Sampling
from fglfast.shards.description import read_description
from fglfast.shards.keep import LEFT_OUT, leave_out
from fglfast.synthesis.find_judge import find_judge
from fglfast.synthesis.judge import scores_of
from fglfast.synthesis.plan import Item
from fglfast.synthesis.repair import repair
from fglfast.synthesis.self_judge import GeneratorJudge, LabelFlowJudge, nearest
from fglfast.synthesis.settings import SynthesisSettings
from fglfast.synthesis.synthesize import synthesize
from fglfast.synthesis.verify import verify
from fglfast.verbs import for_servers
from fglfast.verbs.app import app


@pytest.fixture(scope="module")
def sharp(random_mini, tmp_path_factory):
    """A model folder whose latents are far apart."""
    model = tmp_path_factory.mktemp("sharp") / "model"
    shutil.copytree(random_mini, model)
    path = model / "vae" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"scaling_factor": 30.0}))
    return model


@pytest.fixture
def knowing(sharp):
    """An engine that knows what images of each class are: of one grey each; its text is the class."""
    plain = idle_engine(sharp)
    judge = judge_of(plain, sharp)
    means = torch.stack([judge._encoder(grey(label)[None])[0] for label in range(len(NAMES))])
    seen = []

    def denoise(latents, timestep, text):
        t = timestep.view(-1, 1, 1, 1) / 1000
        x0 = means[text[:, 0, 0].long()]
        assert len({float(each) for each in timestep}) == 1
        seen.append(len(latents))
        if float(timestep[0]) > 990:
            return torch.zeros_like(latents)  # drawing: the noise itself
        return (latents - x0) / t  # all images of a class are equal

    ids = {tuple(judge_ids): label for label, judge_ids in enumerate(tokens(sharp))}

    def encode(tokens_BT):
        text = torch.zeros(len(tokens_BT), plain.shapes.text_length, plain.shapes.text_width)
        text[:] = torch.tensor([float(ids.get(tuple(row.tolist()), 0)) for row in tokens_BT]).view(-1, 1, 1)
        return text

    return replace(plain, networks=replace(plain.networks, denoise=denoise, encode=encode)), seen


def tokens(model):
    from fglfast.generator.text_encoder import TextEncoder

    return TextEncoder.load(model).tokenize(NAMES).tolist()


def item(place):
    return Item(place, place % len(NAMES), 0, 0, "", "")


def grey(label):
    return np.full((32, 32, 3), (20, 120, 230)[label], np.uint8)


def judge_of(engine, model, **more):
    recipe = find_recipe("mini").of_model(str(model))
    return GeneratorJudge(LazyEngine(recipe, model, lambda: engine), NAMES, **more)


def test_an_image_of_another_class_scores_lower(knowing, sharp):
    engine, seen = knowing
    judge = judge_of(engine, sharp, levels=1)
    images = np.stack([grey(label) for label in (0, 1, 2, 0, 1, 2)])
    scores = judge(images, [0, 1, 2, 1, 2, 0])
    assert (scores[:3] > 0.9).all() and (scores[3:] < 0.1).all()
    assert seen == [6] * 3, "one pass a level and class"


def test_a_score_does_not_depend_on_the_place_in_a_batch(knowing, sharp):
    judge, random = judge_of(knowing[0], sharp), np.random.default_rng(0)
    images = random.integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    items = [item(place) for place in range(5)]
    whole = scores_of(judge, items, images, 8)
    assert np.array_equal(scores_of(judge, items[::-1], images[::-1], 8)[::-1], whole)
    assert np.array_equal(scores_of(judge, items[2:3], images[2:3], 8), whole[2:3])
    assert np.array_equal(judge_of(knowing[0], sharp)(images, [0, 1, 2, 0, 1]), whole), "no draws of its own"


def test_nor_does_it_with_a_compiled_engine(engine, recipe, random_mini):
    lent = LazyEngine(recipe.of_model(str(random_mini)), random_mini, lambda: engine)
    judge, random = GeneratorJudge(lent, NAMES), np.random.default_rng(0)
    images, items = random.integers(0, 256, (5, 32, 32, 3), dtype=np.uint8), [item(place) for place in range(5)]
    whole = scores_of(judge, items, images, 8)
    assert len(set(whole)) > 1
    assert np.array_equal(scores_of(judge, items[::-1], images[::-1], 8)[::-1], whole)
    assert np.array_equal(scores_of(judge, items[3:], images[3:], 8), whole[3:])


def test_of_many_classes_those_most_alike_are_asked_about(knowing, sharp):
    engine, seen = knowing
    judge = judge_of(engine, sharp, levels=1, asked=2)
    assert (judge(np.stack([grey(0), grey(2)]), [0, 0]).round() == [1, 0]).all() and len(seen) == 2
    texts = torch.tensor([[1.0, 0.0], [0.9, 0.1], [-1.0, 0.0], [-0.9, 0.2]])
    assert nearest(texts, 2).tolist() == [[0, 1], [1, 0], [2, 3], [3, 2]]
    assert nearest(torch.ones(3, 2), 3).tolist() == [[0, 1, 2], [1, 0, 2], [2, 0, 1]], "equal ones in order"


def test_fingerprints_tell_generators_levels_and_classes_apart(random_mini):
    engine = idle_engine(random_mini)
    prints = [judge_of(engine, random_mini, **more).fingerprint for more in ({}, {}, {"levels": 3}, {"asked": 2})]
    assert prints[0] == prints[1] and len(set(prints)) == 3
    recipe = find_recipe("mini")
    other = GeneratorJudge(LazyEngine(recipe, random_mini, lambda: engine), NAMES)
    assert other.fingerprint not in prints


def test_nothing_is_opened_before_an_image_is_scored(random_mini):
    def never():
        raise AssertionError("opened")

    lent = LazyEngine(find_recipe("mini").of_model(str(random_mini)), random_mini, never)
    assert len(find_judge("generator", NAMES, lent).fingerprint) == 64
    assert isinstance(find_judge(str(random_mini), NAMES, lent), GeneratorJudge), "a generator's folder"


@pytest.fixture
def labelled(random_mini, tmp_path):
    """A model folder with a label flow that knows more classes than are asked about, in another order."""
    model = tmp_path / "model"
    shutil.copytree(random_mini, model)
    torch.manual_seed(0)
    save_label_flow(LabelFlow(8, 8, 4), ("hat", "coat", "shoe", "bag"), (8, 8, 8), model)
    return model


def test_a_label_flow_judges_by_the_names_of_classes(labelled):
    judge = LabelFlowJudge(labelled, NAMES)
    images = np.stack([grey(0)] * 3)
    scores = judge(images, [0, 1, 2])
    assert scores.sum() == pytest.approx(1, abs=2e-4) and len(judge.fingerprint) == 64
    assert np.array_equal(judge(images[::-1], [2, 1, 0])[::-1], scores)


def test_a_label_flow_of_fewer_classes_is_another_judge(labelled):
    assert len({LabelFlowJudge(labelled, names).fingerprint for names in (NAMES, NAMES[:2], NAMES[::-1])}) == 3


def test_a_label_flow_of_other_classes_or_none_is_refused(labelled, random_mini):
    with pytest.raises(BadInputError, match="scarf"):
        LabelFlowJudge(labelled, ("bag", "scarf"))
    with pytest.raises(BadInputError, match="no label flow"):
        LabelFlowJudge(random_mini, NAMES)


def test_a_data_set_is_scored_made_again_after_a_kill_and_repaired(knowing, sharp, tmp_path):
    engine, out = knowing[0], tmp_path / "out"
    merged = merge_payloads([maker(sharp)("ann", [("bag", 1, 3), ("shoe", 2, 1)])])
    judge = GeneratorJudge(
        LazyEngine(find_recipe("mini").of_model(str(sharp)), out, lambda: engine), merged.class_names
    )
    sampling = Sampling(steps=1, guidance_scale=1.0)
    asked = SynthesisSettings(images_per_class=9, shard_size=4, sampling=sampling, judge=judge.fingerprint)
    synthesize(engine, merged, asked, out, judge=judge)
    before, found = content(out), scores(out)
    assert len(found) == 18 and all(0 <= score <= 1 for score in found)
    (out / "train-000002.tar").unlink()
    (out / "train-000004.tar").unlink()
    synthesize(engine, merged, asked, out, judge=judge)
    assert content(out) == before
    shutil.rmtree(out / "checksums")
    assert not [shard for shard in verify(out, merged) if shard.problem], "a score is no damage"
    (out / "train-000001.tar").write_bytes(b"")
    repair(engine, merged, out, verify(out, merged), judge)
    assert scores(out) == found
    bound = sorted(found)[6]
    places = leave_out(out, read_description(out), str(bound))
    assert [found[place] < bound for place in range(18)] == [place in places for place in range(18)]


def test_the_verb_asks_the_engine_that_draws(knowing, sharp, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(for_servers, "open_engine", lambda *_, **__: opened.append(1) or knowing[0])
    save_payload(maker(sharp)("ann", [("bag", 1, 3), ("hat", 2, 1)]), tmp_path / "ann.safetensors")
    asked = ["synthesize", "--embeddings", str(tmp_path / "ann.safetensors"), "--out", str(tmp_path / "out")]
    asked += ["--model", str(sharp), "--images-per-class", "5", "--recipe", "mini", "--keep", "80%"]
    done = CliRunner().invoke(app, [*asked, "--judge", "generator"])
    assert done.exit_code == 0, done.output
    assert opened == [1] and len(json.loads((tmp_path / "out" / LEFT_OUT).read_text())["images"]) == 2
    refused = CliRunner().invoke(app, [*asked, "--judge", "label-flow"])
    assert refused.exit_code == 4 and "label flow" in refused.output


def test_a_dry_run_counts_the_judge_and_opens_nothing(random_mini, tmp_path, monkeypatch):
    monkeypatch.setattr(for_servers, "open_engine", pytest.fail)
    save_payload(maker(random_mini)("ann", [("bag", 1, 3)]), tmp_path / "ann.safetensors")
    asked = ["synthesize", "--embeddings", str(tmp_path / "ann.safetensors"), "--out", str(tmp_path / "out")]
    asked += ["--model", str(random_mini), "--recipe", "mini", "--dry-run", "--json"]
    planned = [CliRunner().invoke(app, [*asked, *more]) for more in ([], ["--judge", "generator"])]
    assert [done.exit_code for done in planned] == [0, 0], planned[0].output
    assert len({json.loads(done.stdout)["plan"] for done in planned}) == 2
    told = CliRunner().invoke(app, [*asked[:-1], "--judge", "generator"])
    assert "the judge's not counted" in told.stdout

"""A one shot in a folder whose clients have changed: images that stay are kept, the model is made anew."""

import json

import pytest

from fglfast.payload.merge import merge_payloads
from fglfast.pipeline import one_shot
from fglfast.pipeline.stages import Stages
from fglfast.sampler.schedule import Sampling
from fglfast.shards.description import read_description
from fglfast.synthesis.settings import SynthesisSettings
from fglfast.training.settings import TrainSettings

ASKED = SynthesisSettings(images_per_class=6, sampling=Sampling(steps=1, guidance_scale=1.0))


@pytest.fixture
def trained(monkeypatch):
    """Training that only says what it was asked to learn."""

    def train(images, training, seed, folder, stages):
        (folder / "model").mkdir()  # fails where a model is
        record = {"run": {"settings": {}, "data": {"plan": read_description(images).plan}}, "result": None}
        (folder / "model" / "train.json").write_text(json.dumps(record))

    monkeypatch.setattr(one_shot, "train_model", train)


def test_a_client_that_joins_leaves_and_joins_again_finds_its_model_set_aside_once_for_each_plan(
    trained, idle, payload, tmp_path
):
    engine, ann, bob = idle(), payload("ann", (3, 0, 1)), payload("bob", (1, 5, 0))
    plans = []
    for payloads in ([ann], [ann, bob], [ann], [ann, bob], [ann]):
        merged = merge_payloads(payloads)
        one_shot.draw_and_train(engine, merged, ASKED, TrainSettings(), tmp_path, Stages(tmp_path))
        plans.append(read_description(tmp_path / "synthetic").plan)
    aside = {path.name for path in tmp_path.glob("model-*")}
    assert aside == {f"model-{plan[:12]}" for plan in plans} and len(set(plans)) == 2
    for plan in plans[:2]:
        of = json.loads((tmp_path / f"model-{plan[:12]}" / "train.json").read_text())
        assert of["run"]["data"]["plan"] == plan


def test_images_that_stay_are_kept_and_the_older_model_is_set_aside(trained, idle, payload, tmp_path):
    def run(*clients):
        merged = merge_payloads([payload(*client) for client in clients])
        return one_shot.draw_and_train(idle(), merged, ASKED, TrainSettings(), tmp_path, Stages(tmp_path))[0]

    first = run(("ann", (3, 0, 1)))
    plan = read_description(tmp_path / "synthetic").plan
    again = run(("ann", (3, 0, 1)), ("bob", (1, 5, 0)))
    assert (first.images, again.images, again.found) == (12, 6, 12)
    assert json.loads((tmp_path / f"model-{plan[:12]}" / "train.json").read_text())["run"]["data"]["plan"] == plan
    now = json.loads((tmp_path / "model" / "train.json").read_text())["run"]["data"]["plan"]
    assert now == read_description(tmp_path / "synthetic").plan != plan

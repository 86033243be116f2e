from importlib.resources import files

import pytest

from fglfast.base.errors import BadInputError
from fglfast.federation.experiment import Experiment, find_experiment

PRESETS = sorted(path.name.removesuffix(".toml") for path in (files("fglfast") / "assets" / "experiments").iterdir())


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid_and_survive_toml(name, tmp_path):
    found = find_experiment(name)
    path = tmp_path / "again.toml"
    path.write_text(found.to_toml())
    assert find_experiment(str(path)) == found


def test_the_papers_settings_are_there():
    paper = find_experiment("paper-imagenette")
    assert paper.recipe == "sd21-base" and paper.train.arch == "resnet18" and paper.train.optimizer == "sgd"
    assert (paper.partition.clients, paper.partition.beta) == (5, 0.5)
    assert (paper.rounds.fedavg, paper.rounds.fgl, paper.local.epochs, paper.train.epochs) == (200, 5, 5, 120)


def test_public_images_are_trained_on_as_long_as_is_asked():
    asked = find_experiment("names")
    assert asked.public_training.epochs == asked.public_epochs == 600
    assert find_experiment("fashion").public_training == find_experiment("fashion").train


def test_a_method_has_of_its_own_what_was_chosen_for_it_and_no_other_has(tmp_path):
    import tomli_w

    own = {"fedprox": {"learning_rate": 0.2, "proximal_mu": 0.5}, "fgl-rounds": {"statistics": "fixed"}}
    (tmp_path / "a.toml").write_text(tomli_w.dumps({"chosen": own, "local": {"rate_decay": 0.9}}))
    asked = Experiment.from_toml(tmp_path / "a.toml")
    (tmp_path / "b.toml").write_text(asked.to_toml())
    assert Experiment.from_toml(tmp_path / "b.toml") == asked
    prox, rounds, others = (asked.chosen_for(method) for method in ("fedprox", "fgl-rounds", "fedavg"))
    assert (prox.local.learning_rate, prox.local.rate_decay, prox.rounds.proximal_mu) == (0.2, 0.9, 0.5)
    assert (rounds.local.statistics, rounds.local.learning_rate) == ("fixed", 0.01)
    assert (others.local, others.rounds) == (asked.local, asked.rounds)


@pytest.mark.parametrize("name", [name for name in PRESETS if name.startswith("fashion")])
def test_clients_augment_as_the_server_does(name):
    found = find_experiment(name)
    shared = {"flip", "erasing", "crop_padding"}
    assert found.local.model_dump(include=shared) == found.train.model_dump(include=shared)


def test_unknown_preset_names_the_others():
    with pytest.raises(BadInputError, match="no preset named 'nonsense'") as caught:
        find_experiment("nonsense")
    assert "fashion" in caught.value.hint


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"methods": ["sorcery"]}, "methods"),
        ({"seeds": []}, "at least one seed"),
        ({"partition": {"clients": 0}}, "partition.clients"),
        ({"train": {"arch": "resnet18"}}, "image_size"),
        ({"privacy": {"epsilon": 2.0}, "prompt_level": "learned"}, "carry no noise"),
        ({"prompt_level": "routed"}, "routed prompts need one"),
        ({"inventory": "adapters.safetensors"}, "no others do"),
        ({"chosen": {"fgl": {"learning_rate": 0.1}}}, "no client of fgl"),
        ({"chosen": {"fedavg": {"proximal_mu": 0.1}}}, "no client of fedavg"),
        ({"seeds": [0, 1, 0]}, "seeds: one is there twice"),
        ({"methods": ["fedavg", "fgl", "fedavg"]}, "methods: one is there twice"),
        ({"rounds": {"milestones": [0]}}, "no method has a round 0; there are 1 to 20"),
        ({"rounds": {"fedavg": 3, "fgl": 4, "milestones": [4, 5]}}, "no method has a round 5; there are 1 to 4"),
        ({"rounds": {"fedavg": 10_001}}, "rounds.fedavg"),
        ({"rounds": {"fgl": 10**9}}, "rounds.fgl"),
        ({"rounds": {"fine_tune_epochs": 10_001}}, "rounds.fine_tune_epochs"),
        ({"local": {"epochs": 10**9}}, "local.epochs"),
        ({"server": {"rate": 50.0}}, "fedavg has no server optimiser"),
        ({"server": {"rate": 1.0, "strategy": "median"}}, "median has no server optimiser"),
        ({"server": {"strategy": "krum", "hostile": 2}}, "krum with 2 hostile needs 7 clients a round, and 5 are"),
        ({"server": {"strategy": "multi-krum"}, "partition": {"clients": 4}}, "needs 5 clients a round, and 4 are"),
        ({"server": {"strategy": "krum"}, "rounds": {"participation": 0.5}}, "and 2 are asked"),
        ({"typo": 1}, "typo"),
    ],
)
def test_bad_settings_name_the_key(change, words, tmp_path):
    path = tmp_path / "bad.toml"
    import tomli_w

    path.write_text(tomli_w.dumps(change))
    with pytest.raises(BadInputError, match=words):
        Experiment.from_toml(path)


@pytest.mark.parametrize(
    "change",
    [
        {"rounds": {"fedavg": 3, "fgl": 4, "milestones": [1, 4, 3]}},
        {"server": {"rate": 0.1, "strategy": "fedadam"}},
        {"server": {"strategy": "krum", "hostile": 1}},
        {"server": {"strategy": "krum", "hostile": 9}, "partition": {"kind": "domain"}},  # the images know how many
        {"server": {"strategy": "krum"}, "rounds": {"participation": 0.1}, "min_clients": 5},
    ],
)
def test_what_can_hold_is_taken(change):
    assert Experiment.model_validate(change)

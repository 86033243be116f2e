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
        ({"typo": 1}, "typo"),
    ],
)
def test_bad_settings_name_the_key(change, words, tmp_path):
    path = tmp_path / "bad.toml"
    import tomli_w

    path.write_text(tomli_w.dumps(change))
    with pytest.raises(BadInputError, match=words):
        Experiment.from_toml(path)

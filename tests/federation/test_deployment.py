"""A real federation on loopback: TLS, node authentication, a killed client; and Flower's simulation engine."""

import io
import json
import zipfile

import pytest
from flower_processes import REPOSITORY, Deployment, kill, wait, write_authority, write_node_key
from flwr.cli.build import build_fab_from_disk
from small_federation import write_images

from fglfast.images.dataset import read_dataset
from fglfast.training.evaluate import evaluate


@pytest.fixture
def deployment(tmp_path):
    made = Deployment(tmp_path)
    yield made
    made.close()


@pytest.mark.timeout(900)
def test_a_deployment_refuses_strangers_survives_a_killed_client_and_delivers(
    deployment, experiment, random_mini, public
):
    folder = deployment.folder
    settings = experiment.model_copy(update={"timeout": 60.0, "data": ""})
    (folder / "experiment.toml").write_text(settings.to_toml())
    deployment.superlink()
    nodes = {}
    for number, name in enumerate(("ann", "bob", "eve")):
        key, public_key = write_node_key(folder, name)
        deployment.flwr("supernode", "register", public_key, "here")
        data = write_images(folder / f"{name}.npz", 20, seed=number)
        nodes[name] = deployment.supernode(
            f"node-{name}", key, data=data, name=name, model=random_mini, out=folder / f"model-{name}"
        )
    _refused(deployment)
    wait(lambda: deployment.online() == 3, "three nodes are online")

    deployment.run("fgl-rounds")
    rounds = folder / "run" / "fgl-rounds" / "0" / "rounds.json"
    wait(lambda: rounds.exists() and len(json.loads(rounds.read_text())) == 2, "the first round is done")
    kill(nodes["eve"])
    result = folder / "run" / "fgl-rounds" / "result.json"
    wait(result.exists, "the last round is done")

    rows = json.loads(result.read_text())["rows"]
    assert [row["clients"] for row in rows] == [3, 3, 2]
    for name in ("ann", "bob"):
        wait((folder / f"model-{name}" / "model.safetensors").exists, f"{name} has the model")
        assert evaluate(folder / f"model-{name}", read_dataset(public)).accuracy == pytest.approx(
            rows[-1]["test_accuracy"]
        )
    assert not (folder / "model-eve").exists()


@pytest.mark.timeout(600)
def test_flowers_simulation_runs_the_same_apps(tmp_path, experiment):
    one_round = experiment.model_copy(update={"rounds": experiment.rounds.model_copy(update={"fgl": 1})})
    (tmp_path / "experiment.toml").write_text(one_round.to_toml())
    simulation = Deployment(tmp_path, simulation=True)
    try:
        simulation.superlink()
        simulation.run("fgl-rounds", "--federation-config", "num-supernodes=3")
        result = tmp_path / "run" / "fgl-rounds" / "result.json"
        wait(result.exists, "the last round is done")
    finally:
        simulation.close()
    assert [row["clients"] for row in json.loads(result.read_text())["rows"]] == [3, 3]


def test_the_bundle_that_flower_sends_carries_no_code():
    """A node runs the fglfast that is installed there, whatever a server sends."""
    with zipfile.ZipFile(io.BytesIO(build_fab_from_disk(REPOSITORY))) as bundle:
        assert set(bundle.namelist()) == {"pyproject.toml", "LICENSE", ".info/CONTENT"}


def _refused(deployment):
    """A node whose key nobody registered, and one that trusts another authority, never come in."""
    key, _ = write_node_key(deployment.folder, "mallory")
    unknown = deployment.supernode("unknown", key, data="fashion:private")
    other, _ = write_authority(deployment.folder / "other")
    ann = deployment.folder / "ann"
    misled = deployment.supernode("misled", ann, root=other, data="fashion:private")
    for process in (unknown, misled):
        wait(lambda process=process: process.poll() is not None, "a stranger is turned away")
        assert process.returncode != 0
    assert "certificate" in deployment.log("misled").lower()

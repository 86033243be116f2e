"""A real federation on loopback: TLS, node authentication, a killed client; and Flower's simulation engine."""

import io
import json
import shutil
import zipfile

import pytest
from flower_processes import REPOSITORY, Deployment, Simulation, kill, wait
from flwr.cli.build import build_fab_from_disk
from small_federation import write_images

from fglfast.federation.deployment import write_authority, write_node_key
from fglfast.images.dataset import read_dataset
from fglfast.training.evaluate import evaluate


@pytest.fixture
def deployment(tmp_path, experiment, random_mini):
    settings = experiment.model_copy(update={"timeout": 240.0, "data": ""})
    (tmp_path / "experiment.toml").write_text(settings.to_toml())
    made = Deployment(tmp_path, ("ann", "bob", "eve"), "experiment.toml", random_mini)
    yield made
    made.close()


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_what_init_makes_runs_refuses_strangers_survives_kills_and_delivers(deployment, public):
    folder, server = deployment.folder, deployment.server
    link = deployment.superlink()
    deployment.done("bash", server / "2-register.sh")
    nodes = {}
    for number, name in enumerate(("ann", "bob", "eve")):
        data = write_images(folder / f"{name}.npz", 20, seed=number)
        nodes[name] = deployment.supernode(name, data, 'answers="train,evaluate"')
    _refused(deployment)
    wait(lambda: deployment.online() == 3, "three nodes are online")

    deployment.done("bash", server / "3-run.sh", "fgl-rounds")
    rounds = server / "run" / "fgl-rounds" / "0" / "rounds.json"
    wait(lambda: rounds.exists() and len(json.loads(rounds.read_text())) == 2, "the first round is done")
    kill(nodes["eve"])
    kill(link)
    deployment.superlink()
    wait(lambda: deployment.online() == 2, "two nodes are back")
    deployment.done("bash", server / "3-run.sh", "fgl-rounds")
    result = server / "run" / "fgl-rounds" / "result.json"
    wait(result.exists, "the last round is done")

    rows = json.loads(result.read_text())["rows"]
    assert [row["clients"] for row in rows] == [3, 3, 2]
    for name in ("ann", "bob"):
        model = folder / "fed" / name / "model"
        wait((model / "model.safetensors").exists, f"{name} has the model")
        assert evaluate(model, read_dataset(public)).accuracy == pytest.approx(rows[-1]["test_accuracy"])
    assert not (folder / "fed" / "eve" / "model").exists()


@pytest.mark.timeout(600)
def test_flowers_simulation_runs_the_same_apps(tmp_path, experiment):
    one_round = experiment.model_copy(update={"rounds": experiment.rounds.model_copy(update={"fgl": 1})})
    (tmp_path / "experiment.toml").write_text(one_round.to_toml())
    simulation = Simulation(tmp_path)
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
    ann, data = deployment.folder / "fed" / "ann", "fashion:private"
    for name in ("unknown", "misled"):
        shutil.copytree(ann, deployment.folder / name)
    (deployment.folder / "unknown" / "node.key").unlink()
    write_node_key(deployment.folder / "unknown" / "node.key")
    (deployment.folder / "other").mkdir()
    write_authority(deployment.folder / "other", "127.0.0.1")
    shutil.copy(deployment.folder / "other" / "server.pem", deployment.folder / "misled" / "server.pem")
    for name in ("unknown", "misled"):
        process = deployment.supernode(name, data, "", deployment.folder / name, ("--max-retries", 2))
        wait(lambda process=process: process.poll() is not None, "a stranger is turned away")
        assert process.returncode != 0
    assert "certificate" in deployment.log("node-misled").lower()

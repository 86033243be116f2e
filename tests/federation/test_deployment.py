"""A real federation on loopback: TLS, node authentication, a killed client; and Flower's simulation engine."""

import io
import json
import shutil
import subprocess
import zipfile

import pytest
from cryptography import x509
from flower_processes import REPOSITORY, Deployment, Simulation, kill, wait
from flwr.cli.build import build_fab_from_disk
from flwr.common.config import parse_config_args
from small_federation import write_images

from fglfast.base.errors import UsageError
from fglfast.federation.aggregation import Aggregation
from fglfast.federation.deployment import Deployment as Asked
from fglfast.federation.deployment import check_names, write_authority, write_deployment, write_node_key
from fglfast.federation.experiment import Experiment, find_experiment
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


def asked(clients=("ann", "bob"), **changes):
    """A federation to be set up, as the verb makes it."""
    told = {"name": "hospitals", "host": "fl.example.org", "port": 8080, "model": "mini"}
    return Asked(**{**told, "experiment": Experiment(), **changes}, clients=check_names(clients))


@pytest.mark.parametrize(
    ("clients", "words"),
    [
        ((), "needs clients"),
        (("ann", "ann"), "is called as 'ann' is, or looks alike"),
        (("ann", "\uff41\uff4e\uff4e"), "looks alike"),
        (("ann", "Ann"), "looks alike"),
        (("ann", "ann\ufe0f"), "looks alike"),
        (("Server",), "is called as 'server' is"),
        (("\uff53erver",), "is called as 'server' is"),
        (('a"b',), "cannot stand in Flower's node configuration"),
        (("a\\b",), "a path, not a name"),
        (("a/b",), "a path, not a name"),
        (("\u3164",), "nothing of it can be seen"),
        (("\u75c5" * 100,), "is 300 bytes long"),
        (("n" * 129,), "at most 128"),
    ],
)
def test_names_that_clients_cannot_have_are_refused_in_one_line(clients, words):
    with pytest.raises(UsageError, match=words) as refused:
        check_names(clients)
    assert refused.value.hint and "\n" not in refused.value.message


def test_the_longest_names_that_are_taken_fit_the_file_system_and_flower(tmp_path):
    names = ("\u75c5" * 66, "O'Brien, ward 3 = #1", "n" * 128)
    folders = write_deployment(asked(names), tmp_path / "fed")
    assert [folder.name for folder in folders] == ["server", *names]
    for name in names:
        script = (
            (tmp_path / "fed" / name / "supernode.sh").read_text().replace("exec flower-supernode", "printf '%s\\n'")
        )
        told = subprocess.run(
            ["bash", "-c", script, "bash", "/data"], capture_output=True, text=True, check=True
        ).stdout
        lines = told.split("\n")
        config = parse_config_args([lines[lines.index("--node-config") + 1]])
        assert (config["name"], config["data"], config["federation"]) == (name, "/data", "hospitals")


@pytest.mark.parametrize("changes", [{"name": 'the "hospitals"'}, {"model": "C:\\models\\mini"}])
def test_what_flower_would_read_otherwise_is_refused(changes, tmp_path):
    with pytest.raises(UsageError, match="cannot stand in Flower's node configuration"):
        write_deployment(asked(**changes), tmp_path / "fed")
    assert not (tmp_path / "fed").exists()


NO_HOSTS = (
    *("", "fl example org", "$(id)", "a;b", "'a'", "a\n", "http://fl.example.org", "fl.example.org:8080", "[::1]"),
    *("fe80::1%eth0", "1.2.3", "999.1.1.1", "-a.org", "a..b", "a.", "h\u00f6st.org", "a" * 64, "a." * 127 + "org"),
)


@pytest.mark.parametrize("host", NO_HOSTS)
def test_a_host_that_is_none_is_refused(host, tmp_path):
    with pytest.raises(UsageError, match="neither the name of a host nor an address") as refused:
        write_deployment(asked(host=host), tmp_path / "fed")
    assert "2001:db8::7" in refused.value.hint and not (tmp_path / "fed").exists()


@pytest.mark.parametrize(
    ("host", "reached", "listens", "here"),
    [
        ("fl.example.org", "fl.example.org:8080", "--host 0.0.0.0 ", "127.0.0.1:8080"),
        ("node_7", "node_7:8080", "--host 0.0.0.0 ", "127.0.0.1:8080"),
        ("192.0.2.7", "192.0.2.7:8080", "--host 0.0.0.0 ", "127.0.0.1:8080"),
        ("2001:db8::7", "'[2001:db8::7]:8080'", "--host :: ", "[::1]:8080"),
    ],
)
def test_names_and_addresses_of_both_kinds_stand_in_certificate_and_scripts(host, reached, listens, here, tmp_path):
    server, client = write_deployment(asked(("ann",), host=host), tmp_path / "fed")
    assert f"--superlink {reached} " in (client / "supernode.sh").read_text()
    assert listens in (server / "1-superlink.sh").read_text() and here in (server / "flower.env").read_text()
    certificate = x509.load_pem_x509_certificate((server / "server.pem").read_bytes())
    named = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert host in [str(name.value) for name in named]


def test_a_federation_waits_for_no_more_clients_than_it_has(tmp_path):
    for clients, least in ((("ann",), 1), (("ann", "bob"), 2), (("ann", "bob", "eve"), 2)):
        server = write_deployment(asked(clients), tmp_path / clients[-1])[0]
        found = find_experiment(str(server / "experiment.toml"))
        assert (found.min_clients, found.partition.clients) == (least, len(clients))


def test_an_experiment_that_is_not_for_so_few_clients_is_refused(tmp_path):
    krum = Experiment(server=Aggregation(strategy="krum"))
    with pytest.raises(UsageError, match=r"not for 2 clients: .*krum with 1 hostile needs 5 clients"):
        write_deployment(asked(experiment=krum), tmp_path / "fed")
    assert not (tmp_path / "fed").exists()


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

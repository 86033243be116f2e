"""Audits of a small real run: what is attacked, what is made only once, what is refused."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from fglfast.base.errors import BadInputError
from fglfast.client.settings import LearnSettings, RouteSettings
from fglfast.federation.arena import run_experiment
from fglfast.federation.experiment import Experiment, Partition
from fglfast.images.dataset import read_dataset
from fglfast.lab.audit import of_run, shadows
from fglfast.lab.audit.audited import AuditedImages, learned_names
from fglfast.lab.audit.of_run import audit_run
from fglfast.lab.audit.opened import Run, open_run
from fglfast.lab.audit.records import CONTROL, Audit
from fglfast.lab.audit.shadows import ShadowRun, Shadows, control, train_shadows
from fglfast.report.audit_page import write_page
from fglfast.training.batches import read_pixels
from fglfast.verbs.app import app


def invoke(*arguments):
    return CliRunner().invoke(app, ["audit", *map(str, arguments)])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Ninety private images of the bundled sample, sixty others, under two names."""
    path = tmp_path_factory.mktemp("data") / "few.npz"
    arrays = {}
    for split, count in (("private", 90), ("test", 60)):
        found = read_dataset(f"fashion:{split}")
        arrays[f"{split}_images"] = np.stack([found.pixels(row, 28) for row in range(count)])
        arrays[f"{split}_labels"] = found.labels[:count]
    np.savez(path, class_names=np.array(found.class_names), **arrays)
    return path


@pytest.fixture(scope="module")
def experiment(data, tiny_arch, tiny_recipe):
    return Experiment.model_validate(
        {
            "data": f"{data}:private",
            "test": f"{data}:test",
            "partition": {"kind": "iid", "clients": 2},
            "recipe": tiny_recipe,
            "images_per_class": 4,
            "train": {"arch": tiny_arch, "image_size": 16, "epochs": 1, "batch_size": 8},
            "local": {"epochs": 1, "batch_size": 8},
            "rounds": {"fedavg": 2},
            "methods": ["fgl", "fedavg"],
            "seeds": [3],
        }
    )


@pytest.fixture(scope="module")
def run(experiment, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "few"
    run_experiment(experiment, folder, folder.parent / "engines")
    return folder


@pytest.fixture
def pool(experiment):
    images = read_dataset(experiment.data)
    return AuditedImages(images, read_pixels(images, experiment.image_size))


@pytest.fixture(scope="module")
def audited(run):
    done = invoke(run, "--shadows", 0, "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def test_a_run_is_attacked_read_and_searched(run, audited):
    assert [(attack["model"], attack["seen"], attack["kind"]) for attack in audited["attacks"]] == [
        ("fgl", "model", "loss"),
        ("fedavg", "model", "loss"),
        ("fedavg", "updates", "loss"),
    ]
    fgl, fedavg, updates = (attack["roc"] for attack in audited["attacks"])
    assert fgl["members"] == 90 > fedavg["members"] >= 70 and fgl["others"] == fedavg["others"] == 60
    assert (updates["members"], updates["others"]) == (fedavg["members"], 60) and updates["curve"] != fedavg["curve"]
    sent = audited["inversions"][0]
    assert (sent["sent"], sent["level"], sent["epsilon"]) == (True, "class", None)
    assert sent["found"]["right"] == sent["found"]["prompts"] == sent["found"]["rows"]
    assert audited["copies"]["synthetic"] == 40 and audited["copies"]["against"] == 60
    page = (run / "audit" / "audit.html").read_text()
    assert (
        "one-shot FGL" in page
        and "FedAvg, each client&#39;s updates" in page
        and "this is the weak attack only" in page
        and page.count("data:image/png") == 3
    )


def test_single_files_are_audited_as_a_run_is(run, audited, data, random_mini, tmp_path):
    folder = run / "seed3"
    payload = sorted((folder / "one-shot" / "clients").glob("*.safetensors"))[0]
    options = ["--members", f"{data}:private", "--nonmembers", f"{data}:test", "--out", tmp_path]
    options += ["--synthetic", folder / "one-shot" / "synthetic", "--payload", payload, "--generator", random_mini]
    done = invoke("--model", folder / "fgl" / "model", *options)
    assert done.exit_code == 0, done.stderr
    assert "model, loss: area" in done.stdout
    alone = json.loads((tmp_path / "audit.json").read_text())
    assert alone["attacks"][0]["roc"] == audited["attacks"][0]["roc"] and alone["copies"] == audited["copies"]


def test_a_payload_of_another_generator_is_refused(run, data, tmp_path):
    folder = run / "seed3"
    payload = sorted((folder / "one-shot" / "clients").glob("*.safetensors"))[0]
    options = ["--members", f"{data}:private", "--nonmembers", f"{data}:test", "--out", tmp_path]
    done = invoke("--model", folder / "fgl" / "model", *options, "--payload", payload, "--generator", "mini")
    assert done.exit_code == 4 and "text_encoder" in done.stderr and not (tmp_path / "audit.json").exists()


def test_shadows_learn_from_halves_are_made_once_and_alike(experiment, pool, tmp_path, monkeypatch):
    monkeypatch.setattr(shadows, "CONTROL_EPOCHS", 2)
    recipes = {"fedavg": ShadowRun(experiment, "fedavg"), "control": control(experiment)}
    train = lambda: train_shadows(recipes, pool, 2, 0, tmp_path, tmp_path / "engines")  # noqa: E731
    made = train()
    assert made["fedavg"].views.keys() == {"model", "updates"} and made["control"].views.keys() == {"model"}
    for name in recipes:
        inside_SN = made[name].inside_SN
        assert inside_SN.shape == (2, 90) and all(20 < count < 45 for count in inside_SN.sum(axis=1))
        assert np.isfinite(made[name].views["model"]).all() and not np.array_equal(*inside_SN)
    assert sorted(path.name for path in tmp_path.glob("shadow-*")) == [
        f"shadow-00{number}-{name}.safetensors" for number in (0, 1) for name in ("control", "fedavg")
    ]
    (tmp_path / "shadow-001-fedavg.safetensors").unlink()
    again = train()
    assert all(np.array_equal(again[name].views["model"], made[name].views["model"]) for name in recipes)
    runs = []
    monkeypatch.setattr(shadows, "run_experiment", lambda *asked: runs.append(asked) or run_experiment(*asked))
    more = train_shadows({"fedavg": recipes["fedavg"]}, pool, 3, 0, tmp_path, tmp_path / "engines")["fedavg"]
    assert len(runs) == 1, "a larger number adds to those that are there"
    for view in ("model", "updates"):
        assert np.array_equal(more.views[view][:2], made["fedavg"].views[view])
        assert not np.array_equal(more.views[view][2], more.views[view][1])
    train()
    assert len(runs) == 1
    with pytest.raises(BadInputError, match="shadows of other images"):
        train_shadows(
            recipes, AuditedImages(pool.images.select(range(80)), pool.pixels_N3SS[:80]), 2, 0, tmp_path, tmp_path
        )
    with pytest.raises(BadInputError, match="shadows of other images"):
        train_shadows(recipes, AuditedImages(pool.images, 255 - pool.pixels_N3SS), 2, 0, tmp_path, tmp_path)


def test_shadows_of_another_generator_and_images_that_are_not_the_runs_are_refused(
    experiment, run, pool, tmp_path, monkeypatch
):
    monkeypatch.setattr(shadows, "_train", lambda *given: given[-1].write_bytes(b""))
    monkeypatch.setattr(shadows, "_read", len)
    train = lambda method: train_shadows(  # noqa: E731
        {method: shadows.ShadowRun(experiment, method)}, pool, 1, 0, tmp_path, tmp_path / "engines"
    )
    assert train("fgl") == {"fgl": 1}
    monkeypatch.setattr(shadows, "generator_facts", lambda _: {"generator": 64 * "0"})
    with pytest.raises(BadInputError, match=r"shadows of another generator \("):
        train("fgl")
    assert train("fedavg") == {"fedavg": 1}, "it knows no generator"

    fewer = read_dataset(experiment.data).select(range(50))
    monkeypatch.setattr(of_run, "read_dataset", lambda _: fewer)
    with pytest.raises(BadInputError, match="another set of private images; another set of test images"):
        of_run.audit_run(open_run(run, None), ("fedavg",), 0, tmp_path, tmp_path / "engines")


def test_members_are_the_images_that_a_method_saw(experiment, run):
    class_names = open_run(run, None).class_names

    def learned(method, experiment=experiment):
        by_client = learned_names(Run(run, experiment, 3, class_names), method)
        assert len(by_client) == (1 if method == "centralized" else 2) and all(by_client)
        return {name for own in by_client for name in own}

    names = {method: learned(method) for method in ("fgl", "fedavg", "centralized")}
    assert learned("fgl", experiment.model_copy(update={"prompt_level": "learned"})) == names["fedavg"]
    assert len(names["fgl"]) == 90 and names["fedavg"] < names["fgl"] and names["centralized"] < names["fgl"]
    assert names["fedavg"] != names["centralized"]


def test_a_routed_run_is_attacked_but_for_what_was_sent(experiment, run, adapters, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("fglfast.lab.audit.uploads.EPSILONS", ())
    routes = {"prompt_level": "routed", "methods": ("fgl",), "route": RouteSettings(steps=1), "inventory": adapters}
    folder, engines = tmp_path / "run", run.parent / "engines"
    run_experiment(experiment.model_copy(update=routes), folder, engines)
    found, _ = audit_run(open_run(folder, None), ("fgl",), 0, tmp_path / "audit", engines)
    assert [inversion.sent for inversion in found.inversions] == [False]
    assert "not inverted" in capsys.readouterr().err
    assert found.attacks[0].roc.members < 90, "some are held out"


def test_learned_uploads_are_attacked_as_the_server_sees_them(experiment, run, tmp_path, monkeypatch):
    """The shadows are made up: what they said of their own images is higher by five."""
    learns = {"prompt_level": "learned", "methods": ("fgl",), "learn": LearnSettings(steps=2, vectors=2)}
    folder, engines, draw = tmp_path / "run", run.parent / "engines", np.random.default_rng(0)
    run_experiment(experiment.model_copy(update=learns), folder, engines)

    def made_up(recipes, pool, number, *_):
        inside_SN = draw.random((number, len(pool.images))) < 0.5
        said_SN = draw.normal(size=inside_SN.shape) + 5 * inside_SN
        views = {"fgl": ("model", "upload"), CONTROL: ("model",)}
        return {name: Shadows(inside_SN, dict.fromkeys(views[name], said_SN), np.ones(number)) for name in recipes}

    monkeypatch.setattr(of_run, "train_shadows", made_up)
    opened = open_run(folder, None)
    found, _ = audit_run(opened, opened.methods(()), 4, tmp_path / "audit", engines)
    kinds = [(attack.attacked, attack.kind, attack.shadows) for attack in found.attacks if not attack.control]
    assert kinds == [(each, *kind) for each in ("fgl", "fgl upload") for kind in (("loss", 0), ("likelihood ratio", 4))]
    *own, control = found.attacks
    assert all(70 <= attack.roc.members < 90 and attack.roc.others == 60 for attack in own)
    assert own[0].roc != own[2].roc, "the upload says other things than the model"
    assert control.control and control.roc.models == 4 and control.roc.auc.low > 0.9
    write_page(found, [], tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text()
    assert "one-shot FGL, as uploaded" in page and "4 shadow models are few" in page and "--shadows 64" in page


def test_a_page_shows_strangers_words_as_words(audited, tmp_path):
    audit = Audit.model_validate({key: value for key, value in audited.items() if key != "page"})
    write_page(audit.model_copy(update={"subject": "<script>x", "inversions": ()}), [], tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text()
    assert "<script>" not in page and "&lt;script&gt;x" in page and "What do the uploads say" not in page


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        ([], 2, "--model"),
        (["nowhere"], 4, "arena.json"),
        (["nowhere", "--model", "m"], 2, "either a run or a model"),
        (["nowhere", "--shadows", "3"], 2, "4 or more"),
        (["--model", "nowhere", "--members", "fashion:private", "--nonmembers", "fashion:test"], 4, "nowhere"),
    ],
)
def test_what_cannot_be_audited_is_said_in_a_line(arguments, code, word, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = invoke(*arguments)
    assert done.exit_code == code and word in done.stderr and "Traceback" not in done.stderr


def test_images_that_are_members_too_are_no_others(data, run, tmp_path, capsys):
    model = run / "seed3" / "fgl" / "model"
    with np.load(data) as arrays:
        both = np.concatenate([arrays["test_images"], arrays["private_images"][:10]])
        labels = np.concatenate([arrays["test_labels"], arrays["private_labels"][:10]])
        np.savez(tmp_path / "both.npz", images=both, labels=labels, class_names=arrays["class_names"])
    asked = ["--model", model, "--members", f"{data}:private", "--out", tmp_path / "audit"]
    same = invoke(*asked, "--nonmembers", f"{data}:private")
    assert same.exit_code == 4 and "are all among the members" in same.stderr
    done = invoke(*asked, "--nonmembers", tmp_path / "both.npz")
    assert done.exit_code == 0, done.stderr
    assert "10 of 70 images are among the members too" in " ".join(done.stderr.split())


def test_unknown_methods_seeds_and_domain_folders_are_refused(experiment, run, tmp_path):
    assert invoke(run, "--methods", "fedprox", "--out", tmp_path).exit_code == 2
    assert "its seeds are 3" in invoke(run, "--seed", 4, "--out", tmp_path).stderr
    record = json.loads((run / "arena.json").read_text())
    record["experiment"]["partition"] = Partition(kind="domain").model_dump()
    (tmp_path / "arena.json").write_text(json.dumps(record))
    with pytest.raises(BadInputError, match="a folder a domain"):
        open_run(tmp_path, None)

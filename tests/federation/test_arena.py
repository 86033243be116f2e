"""All methods on a small federation, in this process: what they leave, what a second run redoes, what is shown."""

import json

import pytest
import torch
from typer.testing import CliRunner

from fglfast.base.errors import BadInputError, UsageError
from fglfast.federation import own_images
from fglfast.federation.arena import run_experiment
from fglfast.federation.experiment import Experiment
from fglfast.federation.history import together
from fglfast.federation.method_names import METHODS
from fglfast.federation.records import Arena, RoundRow
from fglfast.federation.summary import summarise
from fglfast.images.dataset import read_dataset
from fglfast.synthesis.drawn import Drawn
from fglfast.training.batches import TrainingData
from fglfast.training.evaluate import evaluate
from fglfast.training.model import build_model, load_model
from fglfast.training.predict import predict
from fglfast.verbs.app import app


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("arena")


@pytest.fixture(scope="module")
def arena(experiment, folder):
    return run_experiment(experiment, folder / "run", folder / "engines")


def rows(arena, method):
    return next(result.rows for result in arena.results if result.method == method)


def test_every_method_ran_all_its_rounds(arena):
    assert [result.method for result in arena.results] == list(METHODS)
    last = {result.method: result.rows[-1].round for result in arena.results}
    assert last == {
        **dict.fromkeys(("fedavg", "fedprox", "centralized", "local"), 3),
        **dict.fromkeys(("fgl", "server-only", "public-only", "fedcgs", "ensemble", "dense"), 0),
        **dict.fromkeys(("fgl-longer", "fgl-rounds", "fgl-rounds-finetune"), 2),
    }


def test_uploads_are_payloads_in_the_one_shot_and_models_in_a_round(arena, folder):
    payloads = sum(path.stat().st_size for path in (folder / "run/seed0/one-shot/clients").glob("*.safetensors"))
    one_shot, model = rows(arena, "fgl")[0].bytes_up, arena.results[0].model_bytes
    assert payloads <= one_shot < payloads + 3 * 200
    assert rows(arena, "fgl-rounds")[1].bytes_up == pytest.approx(one_shot + 3 * model, rel=0.05)
    assert rows(arena, "fedavg")[-1].bytes_up == pytest.approx(3 * 3 * model, rel=0.05)


def test_the_server_alone_uploads_nothing_and_is_judged_as_all_others_are(arena, folder):
    for method in ("public-only", "server-only"):
        [row] = rows(arena, method)
        assert row.bytes_up == row.bytes_down == 0 and row.server_seconds > 0
        assert len(row.by_client) == 3 and row.test_accuracy is not None
    drawn = Drawn.of(folder / "run/seed0/server-only/0/synthetic")
    assert drawn.clients == ("server",) and drawn.images == 3 * 8
    trained = json.loads((folder / "run/seed0/public-only/0/model/train.json").read_text())["run"]
    assert trained["data"]["images"] == 3 * 20
    shot = json.loads((folder / "run/seed0/one-shot/model/train.json").read_text())["run"]
    assert trained["settings"] == shot["settings"], "the images are all that differs"
    assert not (folder / "run/seed0/public-only/0/images").exists()


def test_moments_weigh_less_than_a_model_and_do_not_change_the_network(arena, folder):
    from safetensors.torch import load_file

    [row] = rows(arena, "fedcgs")
    assert 0 < row.bytes_up < 3 * arena.results[0].model_bytes
    made, alone = (
        load_file(folder / "run/seed0" / method / "model/model.safetensors") for method in ("fedcgs", "server-only")
    )
    changed = {name for name in made if not torch.equal(made[name], alone[name])}
    assert changed and all(name.startswith("classifier") for name in changed)


def test_an_ensemble_is_every_clients_own_model_uploaded_once(arena, folder, public):
    """Its models are those of the clients alone; what it says of an image is the mean of what they say."""
    from safetensors.torch import load_file

    out, images = folder / "run/seed0", TrainingData.of(read_dataset(public), 16, 0.0, seed=0)
    model, shares = build_model(arena.experiment.train.arch, arena.class_names), []
    for number in range(3):
        own = load_file(out / f"ensemble/0/client-{number:04d}.safetensors")
        [alone] = (out / f"local/{number}").glob("weights-*.safetensors")
        alone = load_file(alone)
        assert all(torch.allclose(own[name].float(), alone[name].float(), atol=1e-5) for name in own)
        model.load_state_dict(own)
        shares.append(predict(model, images.pixels).softmax(1))
    right = (torch.stack(shares).mean(0).argmax(1) == images.labels).float().mean().item()
    [row] = rows(arena, "ensemble")
    assert row.test_accuracy == pytest.approx(right)
    assert row.bytes_up == 3 * arena.results[0].model_bytes and row.clients == 3
    assert (row.accuracy, row.worst_client, row.by_client) == (None, None, (None,) * 3)
    assert not (out / "ensemble/model").exists()


def test_a_distilled_ensemble_costs_what_the_ensemble_does_and_the_servers_seconds(arena, folder, public):
    [row], [before] = rows(arena, "dense"), rows(arena, "ensemble")
    assert (row.bytes_up, row.bytes_down, row.client_seconds) == (
        before.bytes_up,
        before.bytes_down,
        before.client_seconds,
    )
    assert row.server_seconds > before.server_seconds and len(row.by_client) == 3
    found = evaluate(folder / "run/seed0/dense/model", read_dataset(public))
    assert found.accuracy == pytest.approx(row.test_accuracy)


def test_longer_training_on_synthetic_images_asks_no_client(arena, folder):
    """The control of fine-tuning: as many epochs, and no round."""
    first, *later = rows(arena, "fgl-longer")
    [shot] = rows(arena, "fgl")
    assert len(later) == 2 and first.bytes_up == shot.bytes_up
    for row in later:
        assert (row.bytes_up, row.bytes_down, row.clients) == (shot.bytes_up, shot.bytes_down, 0)
        assert row.client_seconds == shot.client_seconds
    assert later[1].server_seconds > later[0].server_seconds > shot.server_seconds
    longer, shot = (
        load_model(folder / "run/seed0" / name)[0].state_dict() for name in ("fgl-longer/model", "one-shot/model")
    )
    assert not all(torch.equal(longer[name], shot[name]) for name in longer)


def test_without_public_images_their_row_is_left_out(arena, experiment, folder, capsys):
    some = experiment.model_copy(update={"public": "", "methods": ("public-only", "fgl")})
    file = folder / "run" / "experiment.toml"
    without = run_experiment(some, folder / "run", folder / "engines")
    assert [result.method for result in without.results] == ["fgl"] and list(without.by_method()) == ["fgl"]
    assert "--public" in " ".join(capsys.readouterr().err.split())
    assert Experiment.from_toml(file).public == experiment.public, "what was named stays known"
    with pytest.raises(UsageError, match="public"):
        run_experiment(some.model_copy(update={"methods": ("public-only",)}), folder / "run", folder / "engines")


def test_other_public_images_are_another_experiment(arena, experiment, folder, private):
    with pytest.raises(UsageError, match="belongs to another experiment"):
        run_experiment(experiment.model_copy(update={"public": private}), folder / "run", folder / "engines")


def test_baselines_begin_with_the_same_weights(arena):
    assert rows(arena, "fedavg")[0] == rows(arena, "fedprox")[0]


@pytest.mark.parametrize(("asked", "guarded"), [(None, False), (True, True)])
def test_fedavg_among_honest_clients_is_plain_unless_it_shall_be_guarded(
    experiment, tmp_path, monkeypatch, asked, guarded
):
    seen = []
    monkeypatch.setattr("fglfast.federation.arena.SeededExperiment", lambda dealt, *rest: seen.append(dealt) or _stop())
    server = experiment.server.model_copy(update={"guard": asked})
    with pytest.raises(InterruptedError):
        run_experiment(experiment.model_copy(update={"server": server}), tmp_path / "run", tmp_path / "engines")
    assert seen[0].server.guard is guarded


def _stop():
    raise InterruptedError


def test_local_is_the_mean_over_models_with_the_worst_beside(arena):
    local = next(result for result in arena.results if result.method == "local")
    assert local.worst_test is not None and local.worst_test <= local.test_accuracy
    assert len(local.rows[-1].by_client) == 3


def test_a_client_without_held_out_images_counts_as_nothing():
    none = RoundRow(round=1, accuracy=None, worst_client=None, by_client=(None,), test_accuracy=0.1)
    some = RoundRow(round=1, accuracy=0.8, worst_client=0.8, by_client=(0.8,), test_accuracy=0.3)
    (both,) = together([[none], [some]])
    assert (both.accuracy, both.worst_client, both.by_client) == (0.8, 0.8, (None, 0.8))
    assert both.test_accuracy == pytest.approx(0.2)


def test_the_model_is_what_the_table_says(arena, folder, public):
    fedavg = next(result for result in arena.results if result.method == "fedavg")
    found = evaluate(folder / "run/seed0/fedavg/model", read_dataset(public))
    assert found.accuracy == pytest.approx(fedavg.test_accuracy)


def test_a_second_run_redoes_nothing(arena, experiment, folder, monkeypatch):
    monkeypatch.setattr("fglfast.federation.loopback.LoopbackGrid.push_messages", _refuse)
    for module in ("pipeline.one_shot", "federation.methods"):
        monkeypatch.setattr(f"fglfast.{module}.train", _refuse)
    again = run_experiment(experiment, folder / "run", folder / "engines")
    assert again.results == arena.results


def _refuse(*args, **kwargs):
    raise AssertionError("done already")


def test_other_settings_are_refused_and_more_methods_welcome(arena, experiment, folder):
    with pytest.raises(UsageError, match="sign nothing"):
        run_experiment(experiment.model_copy(update={"allow": folder / "a.toml"}), folder / "run", folder / "engines")
    with pytest.raises(UsageError, match="belongs to another experiment"):
        run_experiment(experiment.model_copy(update={"images_per_class": 9}), folder / "run", folder / "engines")
    fewer = experiment.model_copy(update={"methods": ("fedavg",)})
    assert run_experiment(fewer, folder / "run", folder / "engines").results[0].method == "fedavg"


def test_other_images_under_the_same_path_are_refused(arena, experiment, folder, monkeypatch):
    fewer = read_dataset(experiment.test).select(range(9))
    monkeypatch.setattr(own_images, "read_dataset", lambda _: fewer)
    with pytest.raises(BadInputError, match="another set of test images; another set of public images"):
        run_experiment(experiment, folder / "run", folder / "engines")


def test_summary_shows_milestones_and_the_end(arena):
    shown = [(line.method, line.rounds) for line in summarise(arena)]
    assert ("fgl", 0) in shown and ("fedavg", 2) in shown and ("fedavg", 3) in shown
    assert ("fgl-rounds-finetune", 0) not in shown and ("fgl-longer", 0) not in shown


def test_command_prints_a_table_and_writes_the_page(arena, experiment, folder, private, public):
    file = folder / "mine.toml"
    file.write_text(experiment.model_copy(update={"data": "", "test": ""}).to_toml())
    command = ["run", str(file), "--out", str(folder / "run"), "--engines", str(folder / "engines")]
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 2 and "--data" in refused.output
    done = CliRunner().invoke(app, [*command, "--data", private, "--test", public])
    assert done.exit_code == 0, done.output
    assert all(
        word in done.output
        for word in ("one-shot FGL", "FedProx", "public only", "server only", "DENSE", "ensemble of")
    )
    page = (folder / "run" / "arena.html").read_text()
    assert "worst client" in page and "Who holds what" in page and "http" not in page.replace("http://www.w3.org", "")
    assert "trained on its labelled images" in page and "list of classes" in page
    as_json = CliRunner().invoke(app, [*command, "--data", private, "--test", public, "--json"])
    assert json.loads(as_json.stdout)["results"] == json.loads((folder / "run" / "arena.json").read_text())["results"]
    assert Arena.model_validate_json((folder / "run" / "arena.json").read_bytes()).class_names
    (folder / "run" / "arena.html").unlink()
    again = CliRunner().invoke(app, ["report", str(folder / "run")])
    assert again.exit_code == 0 and (folder / "run" / "arena.html").read_text() == page

"""The server app: its folder is one run's, a SuperLink may die and come back, errors are a line and a hint."""

import json
import logging

import pytest
from flwr.app import Context, RecordDict

from fglfast.base.errors import BadInputError, FglError, UsageError
from fglfast.base.files import sole
from fglfast.federation import client_app
from fglfast.federation.loopback import LoopbackGrid
from fglfast.federation.server_app import OneLine, app
from fglfast.synthesis.drawn import Drawn


@pytest.fixture
def serve(experiment, tmp_path):
    (tmp_path / "experiment.toml").write_text(experiment.to_toml())
    told = {"experiment": str(tmp_path / "experiment.toml"), "method": "fedavg", "seed": 0}
    told |= {"out": str(tmp_path / "run"), "engines": str(tmp_path / "engines")}

    def run(kind=LoopbackGrid, **changes):
        grid = kind(client_app.app, [0, 1, 2], {"experiment": told["experiment"], "seed": 0})
        return app(grid, Context(1, 1, {}, RecordDict(), told | changes))

    return run


class DyingGrid(LoopbackGrid):
    """A grid whose SuperLink dies when so many messages have been sent."""

    left = 11  # three payloads, three judgements, a round, its judgements before the last

    def push_messages(self, messages):
        messages = list(messages)
        self.left -= len(messages)
        if self.left < 0:
            raise ConnectionError("the SuperLink is gone")
        return super().push_messages(messages)


def rounds(tmp_path):
    return json.loads((tmp_path / "run/fedavg/0/rounds.json").read_text())


def test_a_superlink_may_die_and_the_run_goes_on(serve, tmp_path, capsys):
    with pytest.raises(ConnectionError):
        serve(DyingGrid)
    members = (tmp_path / "run/one-shot/clients/collected.json").read_bytes()
    assert not (tmp_path / "run/fedavg/result.json").exists()
    serve()
    assert (tmp_path / "run/one-shot/clients/collected.json").read_bytes() == members, "settled once"
    assert [row["round"] for row in rounds(tmp_path)] == [0, 1, 2, 3]
    said = capsys.readouterr().err
    assert "final model: asked 3, answered 3" in said and "aggregate_train" not in said


def test_the_folder_is_one_runs(serve, experiment, tmp_path):
    serve()
    before = rounds(tmp_path)
    with pytest.raises(BadInputError, match="seed 0 there, 1 here"):
        serve(seed=1)
    other = experiment.model_copy(update={"test": experiment.public})
    (tmp_path / "other.toml").write_text(other.to_toml())
    with pytest.raises(BadInputError, match="test"):
        serve(experiment=str(tmp_path / "other.toml"))
    patient = experiment.model_copy(update={"timeout": 5.0, "min_clients": 1})
    (tmp_path / "patient.toml").write_text(patient.to_toml())
    serve(experiment=str(tmp_path / "patient.toml"))
    assert rounds(tmp_path) == before
    _as_before(tmp_path / "run" / "federation.json")
    serve()
    assert rounds(tmp_path) == before
    with sole(tmp_path / "run", "federation.json"), pytest.raises(UsageError, match="another run is at work"):
        serve()


def _as_before(path):
    """Let a run's facts say what earlier versions said, and not what those did not."""
    facts = json.loads(path.read_text())
    del facts["prompt_level"]
    path.write_text(json.dumps(facts | {"templates": [], "a_setting_that_went": 3}))


class WithoutTheLast(LoopbackGrid):
    """A grid whose last client has left."""

    def get_node_ids(self):
        return list(super().get_node_ids())[:-1]


def test_asked_again_only_who_changed_is_drawn_again(serve, experiment, tmp_path, capsys):
    less = experiment.model_copy(update={"timeout": 2.0, "min_clients": 2})
    (tmp_path / "less.toml").write_text(less.to_toml())
    serve(method="fgl", again=True)  # nobody was asked before
    synthetic, result = tmp_path / "run/one-shot/synthetic", tmp_path / "run/fgl/result.json"
    first, when = Drawn.of(synthetic), result.stat().st_mtime_ns
    serve(method="fgl", again=True)
    assert "clients: as before" in capsys.readouterr().err and result.stat().st_mtime_ns == when
    gone = json.loads((tmp_path / "run/one-shot/clients/collected.json").read_text())["members"][-1]["name"]
    serve(WithoutTheLast, method="fgl", again=True, experiment=str(tmp_path / "less.toml"))
    said = capsys.readouterr().err
    assert f"clients: left: {gone}" in said and "of the clients as they were" in said
    second = Drawn.of(synthetic)
    assert set(first.clients) - set(second.clients) == {gone} and len(second.clients) == 2
    assert gone.encode() not in b"".join(path.read_bytes() for path in synthetic.rglob("*") if path.is_file())
    assert (tmp_path / "run/before-1/fgl/result.json").exists() and result.exists()
    assert len(list((tmp_path / "run/one-shot/clients").glob("*.safetensors"))) == 2
    assert not (tmp_path / "run/one-shot/clients.again").exists()
    serve(method="fgl", experiment=str(tmp_path / "less.toml"))
    assert Drawn.of(synthetic) == second


def test_an_ensemble_stays_at_the_server_and_what_is_distilled_of_it_is_delivered(serve, tmp_path, capsys):
    serve(method="ensemble")
    assert "final model" not in capsys.readouterr().err
    assert len(list((tmp_path / "run/ensemble/0").glob("client-*.safetensors"))) == 3
    serve(method="dense")
    said = capsys.readouterr().err
    assert "final model: asked 3, answered 3" in said and "models of their own" not in said, "uploaded once"


def test_our_errors_are_a_line_and_a_hint_and_bugs_keep_their_traceback(caplog):
    logger = logging.getLogger("flwr.tried")
    logger.addFilter(OneLine())
    for error in (FglError("1 clients came", "start more"), ValueError("a bug")):
        logger.error("ServerApp raised an exception", exc_info=error)
    ours, bug = caplog.records
    assert ours.getMessage() == "error: 1 clients came\n  hint: start more" and ours.exc_info is None
    assert bug.exc_info and bug.getMessage() == "ServerApp raised an exception"


def test_a_method_without_clients_is_refused(serve):
    with pytest.raises(UsageError, match="centralized is no method"):
        serve(method="centralized")

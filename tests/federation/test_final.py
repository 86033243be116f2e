"""A finished model with its prototypes: what clients keep of it, and what each says after adapting it to itself."""

import pytest
import torch
from playing_clients import grid_of_node
from small_federation import CLASSES

from fglfast.federation import wire
from fglfast.federation.arena import run_experiment
from fglfast.federation.federation import Federation
from fglfast.federation.loopback import SERVER_NODE
from fglfast.federation.members import Member
from fglfast.federation.records import Adapted
from fglfast.federation.summary import gains, gains_table
from fglfast.images.dataset import read_dataset
from fglfast.report.arena_page import write_page
from fglfast.training.batches import TrainingData
from fglfast.training.model import load_model
from fglfast.training.predict import count_right
from fglfast.training.prototypes import PROTOTYPES, Prototypes, load_prototypes, prototypes_of
from fglfast.training.settings import AdaptSettings


@pytest.fixture
def prototypes(model, public):
    images = TrainingData.of(read_dataset(public), 16, 0.0, seed=0)
    return prototypes_of(model, images.pixels, images.labels)


@pytest.fixture
def federation(model, experiment, private, random_mini, tmp_path):
    """One standing client that holds all images, and answers what `answers` says."""

    def made(answers):
        node = {"data": private, "name": "ann", "model": str(random_mini), "out": str(tmp_path / "out"), **answers}
        members = (Member(name="ann", node=SERVER_NODE + 1, images=120),)
        return Federation(grid_of_node(node), members, experiment, 0, CLASSES, model, lambda _: 0.0)

    return made


def test_the_delivered_folder_has_the_prototypes_and_without_some_is_as_before(federation, model, prototypes, tmp_path):
    assert federation({}).deliver(model.state_dict()) == 1
    assert not (tmp_path / "out" / PROTOTYPES).exists()
    assert federation({}).deliver(model.state_dict(), prototypes=prototypes) == 1
    kept, _ = load_model(tmp_path / "out")
    found = load_prototypes(tmp_path / "out", kept).tensors()
    assert all(torch.equal(found[name], tensor) for name, tensor in prototypes.tensors().items())


@pytest.mark.parametrize("rows", [2, 4])
def test_prototypes_of_another_model_or_not_finite_are_kept_by_no_client(
    rows, federation, model, prototypes, tmp_path, capsys
):
    other = Prototypes(torch.zeros(rows, 32), torch.zeros(rows, dtype=torch.int64), torch.zeros(()))
    wrong = Prototypes(prototypes.means_KF * float("inf"), prototypes.counts_K, prototypes.spread)
    for spoiled in (other, wrong):
        assert federation({}).deliver(model.state_dict(), prototypes=spoiled) == 0
        assert "prototypes" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_client_tells_before_and_after_only_where_it_may_be_judged(federation, model, prototypes, private):
    how = AdaptSettings(shots=10)
    assert federation({}).adapt(model.state_dict(), prototypes, how, ()) == Adapted(by_client=(None,))
    [shares] = federation({"answers": "evaluate"}).adapt(model.state_dict(), prototypes, how, ()).by_client
    images = TrainingData.of(read_dataset(private), 16, 0.1, seed=0)
    assert shares[0] == count_right(model, images, images.held_out) / len(images.held_out)
    assert shares[1] > shares[0], "features of random weights tell such classes apart, their last layer does not"


def test_who_was_left_out_is_not_asked(federation, model, prototypes):
    made = federation({"answers": "evaluate"})
    assert made.adapt(model.state_dict(), prototypes, AdaptSettings(), ("ann",)) == Adapted(by_client=(None,))
    assert made.grid.down == 0


@pytest.mark.parametrize(
    "numbers",
    [
        {wire.SHARE: 0.5},
        {wire.SHARE: 0.5, wire.ADAPTED: 1.5},
        {wire.SHARE: 0.5, wire.ADAPTED: float("nan")},
        {wire.SHARE: 0.5, wire.ADAPTED: 1},
        {wire.SHARE: 0.5, wire.ADAPTED: 0.5, "images": 7},
    ],
)
def test_a_reply_is_two_shares_and_nothing_else(numbers):
    with pytest.raises(wire.UnfitError):
        wire.read(wire.metrics(**numbers), wire.adapted_of)
    assert wire.read(wire.metrics(**{wire.SHARE: 0.5, wire.ADAPTED: 0.75}), wire.adapted_of) == (0.5, 0.75)
    assert wire.read(wire.metrics(), wire.adapted_of) is None


def test_a_run_that_asks_for_it_shows_every_client_before_and_after(experiment, tmp_path):
    asked = experiment.model_copy(update={"methods": ("server-only", "fedavg"), "adapt": AdaptSettings(shots=5)})
    arena = run_experiment(asked, tmp_path / "run", tmp_path / "engines")
    adapted = {result.method: result.adapted for result in arena.results}
    assert adapted["fedavg"] is None, "no synthetic images"
    [row] = next(result.rows for result in arena.results if result.method == "server-only")
    assert tuple(shares[0] for shares in adapted["server-only"].by_client) == row.by_client
    assert (tmp_path / "run/seed0/server-only/model" / PROTOTYPES).exists()
    [gain] = gains(arena)
    assert gain.worst[0] == row.worst_client and gain.middle[0] == row.median
    assert gains_table(arena).row_count == 1
    write_page(arena, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Adapted by each client" in page and f"{100 * gain.worst[1]:.1f}%" in page
    assert experiment.adapt is None, "which nobody asks unless told to"


def test_gains_are_medians_of_seeds_and_leave_out_who_is_silent():
    said = Adapted(by_client=((0.5, 0.75), None, (0.25, 0.5), (0.75, 0.75)))
    assert said.shares(after=False) == [0.5, 0.25, 0.75] and said.shares(after=True) == [0.75, 0.5, 0.75]

"""The page of an arena that nobody ran: many clients and classes, and what their names do."""

from fglfast.federation.experiment import Experiment
from fglfast.federation.methods import Result
from fglfast.federation.records import Arena, RoundRow
from fglfast.federation.summary import summarise
from fglfast.report.arena_page import AXES, draw, write_page


def arena(clients, classes, rounds=3):
    rows = tuple(
        RoundRow(
            round=k,
            accuracy=0.2 * k,
            worst_client=0.1,
            by_client=(0.5,) * clients,
            test_accuracy=0.1 * k,
            bytes_up=k,
            server_seconds=k,
        )
        for k in range(rounds)
    )
    return Arena(
        experiment=Experiment(methods=("fedavg",)),
        class_names=tuple(f"class {k}" for k in range(classes)),
        clients=tuple(f"client{k:03d}, sketch" for k in range(clients)),
        generator="satellites",
        images={0: ((3,) * classes,) * clients},
        results=(Result(method="fedavg", seed=0, test_accuracy=0.2, rows=rows, model_bytes=10),),
        machine={"device": "none"},
        versions={},
    )


def test_clients_have_their_names_and_what_is_left_out_is_said(tmp_path):
    write_page(arena(150, 60), tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text()
    assert "images drawn by satellites" in page
    assert "client099, sketch" in page and "client100, sketch" not in page
    assert "first 100 of 150 clients" in page and "first 40 of 60 classes" in page and 'title="class 59: 3"' in page
    write_page(arena(3, 4), tmp_path / "b.html")
    assert "The first" not in (tmp_path / "b.html").read_text()


def test_what_no_client_judged_is_unknown_and_not_nothing(tmp_path):
    known = arena(2, 2)
    rows = [row.model_copy(update={"accuracy": None, "worst_client": None}) for row in known.results[0].rows]
    silent = known.model_copy(update={"results": (known.results[0].model_copy(update={"rows": tuple(rows)}),)})
    assert not draw(silent, *AXES[0]).axes[0].lines and draw(known, *AXES[0]).axes[0].lines
    assert [line.worst_client for line in summarise(silent)] == [None] * 3
    write_page(silent, tmp_path / "a.html")


def test_rounds_are_whole_numbers():
    axis = draw(arena(2, 2), *AXES[0]).axes[0]
    assert all(float(tick).is_integer() for tick in axis.get_xticks())

"""A server's seconds beside an earlier commit's, and where OpenVINO's time goes."""

import json

import pytest

from benchmarks import server_seconds, speed_columns
from benchmarks.layers import layers, multiplies
from fglfast.base.errors import FglError
from fglfast.engine.backends.ov import blob_of
from fglfast.engine.exported import UNET


def record(accuracy, **seconds):
    stages = [{"name": name, "seconds": taken} for name, taken in seconds.items()]
    return json.dumps({"stages": stages, "evaluation": {"accuracy": accuracy}})


def test_versions_run_in_turn_and_what_was_before_once(tmp_path, monkeypatch):
    saved, ran = [], []

    def fake(code, out, asked, seed):
        ran.append((out.name, asked[4:]))
        return {"seed": seed, "accuracy": 0.8 + seed / 100, "seconds": {"engine": 10.0 + seed, "all": 50.0}}

    monkeypatch.setattr(server_seconds, "run", fake)
    monkeypatch.setattr(server_seconds, "_checkout", lambda commit, folder: folder)
    monkeypatch.setattr(
        server_seconds, "commands", lambda versions, _: dict.fromkeys(versions, dict.fromkeys(["embed"], 1.0))
    )
    monkeypatch.setattr(server_seconds, "save_result", lambda name, found: saved.append((name, found)))
    server_seconds.main("photos:test", "abc", 5, 2, tmp_path / "work")
    names = [name for name, _ in ran]
    assert names == ["now-0", "float32-0", "before-0", "now-1", "float32-1"]
    assert [asked for _, asked in ran][:3] == [[], ["--precision", "float32"], []]
    [(name, found)] = saved
    now = found["rows"][0]
    assert name == "server-seconds" and now["seconds"]["engine"] == 10.5 and now["accuracy"] == pytest.approx(0.805)
    assert found["rows"][1]["commands"] is None and found["rows"][2]["commands"] == {"embed": 1.0}


def test_a_finished_run_is_read_and_one_that_fails_is_named(tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / "command.seconds").write_text("11.5")
    (out / "run.json").write_text(record(0.9, embed=1.0, engine=5.0, synthesize=2.0, train=3.0, evaluate=0.5))
    found = server_seconds.run(server_seconds.HERE, out, [], 3)
    assert found["seconds"] == {"engine": 5.0, "synthesis": 2.0, "training": 3.0, "all": 11.5} and found["seed"] == 3
    with pytest.raises(FglError, match="none"):
        server_seconds.run(server_seconds.HERE, tmp_path / "other", ["--recipe", "none"], 0)


def test_the_table_tells_versions_apart():
    row = {"accuracy": 0.9, "seconds": dict.fromkeys(("engine", "synthesis", "training", "all"), 2.0)}
    runs = [{"accuracy": 0.9}]
    took = {"embed": 1.0, "inspect": 2.0, "evaluate": 3.0}
    head, rows = speed_columns.server_seconds(
        {
            "settings": {"before": "abc"},
            "rows": [
                row | {"version": "now", "runs": runs, "commands": took},
                row | {"version": "before", "runs": runs, "commands": None},
            ],
        }
    )
    assert len(head) == len(rows[0]) == len(rows[1]) and "abc" in rows[1][0]
    assert rows[0][-3:] == ("1.0 s", "2.0 s", "3.0 s") and rows[1][-1] == ""


def test_layers_are_counted_by_kind_the_longest_first(engine):
    taken = layers(engine.folder / blob_of(UNET), "float32")
    assert list(taken.values()) == sorted(taken.values(), reverse=True) and min(taken.values()) >= 0
    assert any(map(multiplies, taken)) and not all(map(multiplies, taken))
    row = {"precision": "float32", "products": 0.75, "layers": {"Convolution, jit": 0.5}}
    head, rows = speed_columns.layers({"rows": [row]})
    assert (
        rows == [("float32", "all that multiplies", "75%"), ("float32", "Convolution, jit", "50%")] and len(head) == 3
    )

"""How progress and tables are shown on a pipe and in a terminal."""

import pytest
from rich.table import Table

from fglfast.base import console


@pytest.mark.parametrize(("seconds", "pace"), [(0.5, "4.0 steps/s"), (10.0, "5.0 s/step")])
def test_a_slow_pace_is_in_seconds_a_step(seconds, pace, monkeypatch, capsys):
    now = iter((0.0, seconds))
    monkeypatch.setattr(console.time, "monotonic", lambda: next(now))
    with console.Progress("fit", 2, unit="step") as progress:
        progress.advance(2)
    assert f"fit: 2/2  {pace}" in capsys.readouterr().err


def test_a_long_table_says_how_many_rows_are_left_out(capsys):
    console.print_table(Table("class"), [(f"[b]class {k}",) for k in range(1000)])
    said = capsys.readouterr().out
    assert "[b]class 19" in said and "class 20" not in said and said.splitlines()[-1].startswith("and 980 more")
    console.print_table(Table("class"), [("only",)])
    assert "more" not in capsys.readouterr().out

"""The README's tables, made from the results: nothing in them is typed by hand.

A line `<!-- table:NAME -->` in the README is followed by the table of that name; `--write` renews all of them.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks import columns, few_step_columns
from benchmarks.cells import Table
from benchmarks.results_file import RESULTS

README = Path(__file__).parent.parent / "README.md"
MARKED = re.compile(r"(<!-- table:([\w-]+) -->\n)((?:\|.*\n)*)")
TABLES: dict[str, Callable[[dict[str, Any]], Table]] = {
    "accuracy": columns.accuracy,
    "peers": columns.peers,
    "gpu": columns.peers,
    "engines-mini": columns.engines,
    "engines-unet-35m": columns.engines,
    "engines-sd15": columns.engines,
    "sampling": columns.sampling,
    "few-steps": few_step_columns.few_steps,
    "learned": columns.learned,
    "couplings": few_step_columns.couplings,
    "membership": columns.membership,
    "epsilon": columns.epsilon,
    "forms": columns.forms,
    "fuzz": columns.fuzz,
    "kills": columns.kills,
    "arena-skewed": columns.arenas,
    "arena-fifty": columns.arena,
    "arena-shades": columns.shades,
}


def main(
    name: Annotated[str | None, typer.Argument(help="One table; all that have a result.", show_default=False)] = None,
    write: Annotated[bool, typer.Option("--write", help="Renew the README's tables instead of printing.")] = False,
) -> None:
    """Print the tables, or renew those that the README marks."""
    if write:
        README.write_text(renewed(README.read_text(encoding="utf-8")), encoding="utf-8")
        return
    for each in [name] if name else [each for each in TABLES if (RESULTS / f"{each}.json").exists()]:
        typer.echo(f"<!-- table:{each} -->\n{markdown(each)}")


def renewed(text: str) -> str:
    """A text with the tables under its markers made anew."""
    return MARKED.sub(lambda match: match[1] + markdown(match[2]), text)


def markdown(name: str) -> str:
    """The table of that name, from `benchmarks/results/NAME.json`; every line ends in a newline."""
    head, rows = TABLES[name](json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8")))
    right = ["---", *["---:"] * (len(head) - 1)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (head, right, *rows))


if __name__ == "__main__":
    typer.run(main)

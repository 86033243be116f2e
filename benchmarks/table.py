"""RESULTS.md, and the tables that the README marks, made from the results: nothing in them is typed by hand.

A line `<!-- table:NAME -->` in the README is followed by the table of that name.
"""

import re
import textwrap
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.results_file import path_of, result
from benchmarks.sections import SECTIONS

README = Path(__file__).parent.parent / "README.md"
PAGE = Path(__file__).parent / "RESULTS.md"
MARKED = re.compile(r"(<!-- table:([\w-]+) -->\n)((?:\|.*\n)*)")
HEAD = """# Results

Every table comes from a JSON under [`results/`](results/), which also holds the versions of all packages;
[README.md](README.md) says how things are measured, [LOG.md](LOG.md) what was tried and gained nothing. This page is
written by `python -m benchmarks.table --write`: change the JSONs or `sections.py`, not the page.
"""


def main(
    name: Annotated[str | None, typer.Argument(help="One table; all that have a result.", show_default=False)] = None,
    write: Annotated[bool, typer.Option("--write", help="Renew RESULTS.md and the README's tables.")] = False,
) -> None:
    """Print the measured tables, or renew the pages that show them."""
    if write:
        README.write_text(renewed(README.read_text(encoding="utf-8")), encoding="utf-8")
        PAGE.write_text(page(), encoding="utf-8")
        return
    for each in [name] if name else measured():
        typer.echo(f"<!-- table:{each} -->\n{markdown(each)}")


def measured() -> list[str]:
    """Names of the sections that have a result, in order."""
    return [name for name in SECTIONS if path_of(name).exists()]


def renewed(text: str) -> str:
    """A text with the tables under its markers made anew."""
    return MARKED.sub(lambda match: match[1] + markdown(match[2]), text)


def page() -> str:
    """RESULTS.md."""
    return "\n".join([HEAD, *(section(name) for name in measured())])


def section(name: str) -> str:
    """One section of RESULTS.md: heading, what was measured, table, and where each result comes from."""
    about = SECTIONS[name]
    sources = [_source(each) for each in (name, *about.beside) if path_of(each).exists()]
    picture = [f"![{about.title}](results/{about.picture})"] if about.picture else []
    told, table = textwrap.fill(about.measured, 120, break_on_hyphens=False), markdown(name).removesuffix("\n")
    return "\n\n".join([f"## {about.title}", told, table, *picture, "\n".join(sources)]) + "\n"


def markdown(name: str) -> str:
    """The table of that name, from `benchmarks/results/NAME.json`; every line ends in a newline."""
    head, rows = SECTIONS[name].columns(result(name))
    right = ["---", *["---:"] * (len(head) - 1)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (head, right, *rows))


def _source(name: str) -> str:
    """The command that regenerates a result, and where and when it ran."""
    found = result(name)
    machine, day = found["machine"], found["created"][:10]
    where = f"{machine['device']}, {machine['memory']}, Python {machine['python']}"
    later = "".join(f"; in part again by `{each['command']}`" for each in found.get("renewed", ()))
    return f"- `{found['command']}`: {where}, {day} ([{name}.json](results/{name}.json)){later}"


if __name__ == "__main__":
    typer.run(main)

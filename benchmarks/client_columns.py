"""What the tables show that set clients beside what a server has itself. Knows no file."""

from collections.abc import Sequence
from typing import Any

from benchmarks.cells import Table, spread
from fglfast.federation.method_names import TITLES
from fglfast.lab.bench.table import number


def colour(result: dict[str, Any]) -> Table:
    """A kind of prompt, or a method beside it, a line."""
    return _rows([(row["title"], row) for row in result["rows"]])


def inverted(result: dict[str, Any]) -> Table:
    """A method a line."""
    titles = TITLES | {"fgl": "one-shot FGL, learned embeddings"}
    rows = [row | {"uploaded": 0} if row["method"] == "centralized" else row for row in result["rows"]]
    return _rows([(titles[row["method"]], row) for row in rows])


def _rows(found: list[tuple[str, dict[str, Any]]]) -> Table:
    rows: list[Sequence[str]] = [
        (title, spread([run["test"] for run in row["runs"]]), f"{row['uploaded']:,} B" if row["uploaded"] else "")
        for title, row in found
    ]
    return ("method", "accuracy", "uploaded by all clients"), rows


def pretraining(result: dict[str, Any]) -> Table:
    """A size of networks and images a line."""
    rows: list[Sequence[str]] = [
        (
            f"{row['size']}, {row['side']} pixels",
            *(number(row[key]) for key in ("vae", "flow")),
            f"{row['beside']:.1f}x",
        )
        for row in result["rows"]
    ]
    return ("networks and images", "GFLOP a step, VAE", "flow", "the default steps"), rows

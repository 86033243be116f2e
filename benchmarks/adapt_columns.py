"""What fills the table of adapting the global model to each client: its federations, and the rows of each."""

from collections.abc import Sequence
from statistics import median
from typing import Any

from benchmarks.cells import Table, spread

CLIENTS, SHADES = 3, ("dark", "light", "medium")
KINDS = ("even", "inverted", *SHADES)
FEDERATIONS = {
    "shades": [(shade, 0) for shade in SHADES],
    "inverted at one": [("inverted", 0), ("even", 1), ("even", 2)],
    "inverted at all": [("inverted", client) for client in range(CLIENTS)],
    "even": [("even", client) for client in range(CLIENTS)],
}
SHOTS = (1, 5, 20)


def table(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """By federation, shots and row: accuracy of the worst and the median client by seed, and seconds."""
    cells = {(one["kind"], one["client"], one["shots"], one["seed"]): one["rows"] for one in found}
    seeds = sorted({one["seed"] for one in found})
    rows = []
    for federation, members in FEDERATIONS.items():
        for shots in SHOTS:
            for way in found[0]["rows"]:
                by_seed = [[cells[(*member, shots, seed)][way] for member in members] for seed in seeds]
                accuracies = [[client["accuracy"] for client in clients] for clients in by_seed]
                rows.append(
                    {
                        "federation": federation,
                        "shots": shots,
                        "way": way,
                        "worst": [min(seed) for seed in accuracies],
                        "median": [median(seed) for seed in accuracies],
                        "seconds": median(client["seconds"] for clients in by_seed for client in clients),
                    }
                )
    return rows


def adapt(result: dict[str, Any]) -> Table:
    """By federation and way, the worst and the median client at each number of shots, and seconds at the most."""
    found = {(row["federation"], row["way"], row["shots"]): row for row in result["rows"]}
    shots = sorted({at for _, _, at in found})
    rows: list[Sequence[str]] = []
    for federation, way in dict.fromkeys((federation, way) for federation, way, _ in found):
        cells = [found[federation, way, at] for at in shots]
        worst = [spread(cell["worst"]) for cell in cells]
        middle = [f"{median(cell['median']):.1%}" for cell in cells]
        seconds = "" if way == "global model" else f"{cells[-1]['seconds']:.2f} s"
        rows.append((federation, way, *worst, *middle, seconds))
    heads = [f"{who}, {at} a class" for who in ("worst client", "median client") for at in shots]
    return ("federation", "way", *heads, f"processor, {shots[-1]} a class"), rows

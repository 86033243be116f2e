"""The tables of compared methods: by skew, one experiment alone, what each has of its own, what clients add."""

from collections.abc import Sequence
from typing import Any

from benchmarks.cells import Table, spread
from benchmarks.results_file import measured
from fglfast.federation.method_names import ALONE, TITLES
from fglfast.federation.summary import Summary

SKEWS = {"arena-skewed": "beta 0.01", "arena-mild": "beta 0.5", "arena-iid": "iid"}


def arenas(result: dict[str, Any]) -> Table:
    """Every method by skew: accuracy and its spread over the seeds; what it uploads, what it costs the server.

    A skew that was measured with other settings is no column of this table.
    """
    others = {name: found for name in SKEWS for found in measured(name) if _settings(found) == _settings(result)}
    found = {name: {_place(line): line.spread for line in _summaries(other)} for name, other in others.items()}
    rows: list[Sequence[str]] = []
    for line in _summaries(result):
        same = [lines.get(_place(line), "") for lines in found.values()]
        rows.append((line.title, str(line.rounds), *same, _uploaded(line), _server(line)))
    mine = SKEWS["arena-skewed"]  # whose bytes and seconds are shown
    spent = (f"uploaded by all clients, {mine}", f"server s, {mine}")
    return ("method", "rounds", *(SKEWS[name] for name in found), *spent), rows


def arena(result: dict[str, Any]) -> Table:
    """One experiment on its own: accuracy, and the worst client's."""
    rows: list[Sequence[str]] = [
        (line.title, str(line.rounds), line.spread, _share(line.worst_client), _uploaded(line), _server(line))
        for line in _summaries(result)
    ]
    return (
        "method",
        "rounds",
        "accuracy",
        "worst client, held-out images",
        "uploaded by all clients",
        "server s",
    ), rows


def shades(result: dict[str, Any]) -> Table:
    """Feature skew: what needs no client, class-level prompts, then instance-level ones."""
    [instance] = measured("arena-shades-instance")
    alone = {TITLES[method] for method in ALONE}
    head, rows = arena(result)
    levels = {"class-level": rows, "instance-level": [row for row in arena(instance)[1] if row[0] not in alone]}
    shown = [
        (title, "" if title in alone else level, *cells) for level, found in levels.items() for title, *cells in found
    ]
    return (head[0], "prompts", *head[1:]), shown


def rates(result: dict[str, Any]) -> Table:
    """What was chosen for each method at each skew."""
    found = {skew: kept["chosen"] for name, skew in SKEWS.items() for kept in measured(name.replace("arena", "rates"))}
    rows: list[Sequence[str]] = [
        (TITLES[method], *(_choice(chosen.get(method, {})) for chosen in found.values())) for method in result["chosen"]
    ]
    return ("method", *found), rows


def _choice(chosen: dict[str, Any]) -> str:
    words = {"learning_rate": "rate {}", "rate_decay": "times {} a round", "proximal_mu": "mu {}"}
    said = [form.format(chosen[key]) for key, form in words.items() if key in chosen]
    return ", ".join([*said, *(["fixed statistics"] if chosen.get("statistics") == "fixed" else [])])


def _summaries(result: dict[str, Any]) -> list[Summary]:
    return [Summary.model_validate(line) for line in result["summaries"]]


def _settings(result: dict[str, Any]) -> list[Any]:
    """What two experiments have in common that differ in the skew alone."""
    return [result["experiment"][key] for key in ("recipe", "images_per_class", "train", "local", "rounds", "test")]


def _place(line: Summary) -> tuple[str, int]:
    return line.method, line.rounds


def _uploaded(line: Summary) -> str:
    return f"{line.bytes_up:,.0f} B" if line.served else ""


def _share(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def _server(line: Summary) -> str:
    return f"{line.server_seconds:,.0f}" if line.served else ""


def colour(result: dict[str, Any]) -> Table:
    """A kind of prompt, or a method beside it, a line."""
    return _beside_clients([(row["title"], row) for row in result["rows"]])


def inverted(result: dict[str, Any]) -> Table:
    """A method a line."""
    titles = TITLES | {"fgl": "one-shot FGL, learned embeddings"}
    rows = [row | {"uploaded": 0} if row["method"] == "centralized" else row for row in result["rows"]]
    return _beside_clients([(titles[row["method"]], row) for row in rows])


def _beside_clients(found: list[tuple[str, dict[str, Any]]]) -> Table:
    rows: list[Sequence[str]] = [
        (title, spread([run["test"] for run in row["runs"]]), f"{row['uploaded']:,} B" if row["uploaded"] else "")
        for title, row in found
    ]
    return ("method", "accuracy", "uploaded by all clients"), rows

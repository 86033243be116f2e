"""The tables of generators: few steps, couplings, checks of their own labels, what making one costs."""

import math
from collections.abc import Sequence
from typing import Any

from benchmarks.cells import Table, spread
from fglfast.distill.distill import DistillSettings
from fglfast.lab.bench.table import number

STUDENT = "student, "
UNCHECKED = "unchecked"


def few_steps(result: dict[str, Any]) -> Table:
    """Every generator and number of steps, beside the teacher's many guided steps and its cheapest ones as accurate.

    Of students what making them took: networks asked in training, and seconds where they were measured.
    """
    first = result["rows"][0]["images_per_second"]
    seconds = bool(result.get("cost"))
    rows: list[Sequence[str]] = [
        (
            row["title"],
            str(row["sampling"]["steps"]),
            f"{row['sampling']['guidance_scale']:g}" if row["sampling"]["guidance_scale"] != 1 else "",
            spread([run["test"] for run in row["runs"]]),
            number(row["images_per_second"]),
            f"{row['images_per_second'] / first:.1f}x",
            _beside_the_cheapest(row, result["rows"]),
            *_made(row["title"].removeprefix(STUDENT), result, seconds),
            f"[{row['source']}](https://arxiv.org/abs/{row['source']})",
        )
        for row in result["rows"]
    ]
    many = f"{result['rows'][0]['sampling']['steps']} guided steps = 1"
    took = ("networks asked in training", *(["seconds to make"] if seconds else []))
    head = ("generator", "steps", "guidance", "accuracy", "images/s", many, "teacher's cheapest as accurate = 1", *took)
    return (*head, "source"), rows


def _beside_the_cheapest(row: dict[str, Any], rows: Sequence[dict[str, Any]]) -> str:
    """A student's rate by that of the fastest setting of the teacher whose median accuracy is no lower."""
    as_good = [each for each in rows if not each["title"].startswith(STUDENT) and each["test"] >= row["test"]]
    if not row["title"].startswith(STUDENT) or not as_good:
        return ""
    best = max(as_good, key=lambda each: float(each["images_per_second"]))
    share = row["images_per_second"] / best["images_per_second"]
    return f"{share:.1f}x of {best['title'].removeprefix('teacher, ')}, {best['sampling']['steps']}"


def _made(name: str, result: dict[str, Any], seconds: bool) -> list[str]:
    settings, cost = result["students"].get(name), result.get("cost", {}).get(name)
    asked = f"{DistillSettings.model_validate(settings).networks_asked:,}" if settings else ""
    spent = f"{cost['pairs'] + cost['training']:.0f}" if cost and cost["pairs"] is not None else ""
    return [asked, spent] if seconds else [asked]


def couplings(result: dict[str, Any]) -> Table:
    """Where each coupling ends, and the step at which it is first where independent pairs of its seed end."""
    rows: list[Sequence[str]] = [
        (
            f"{case['case']}, {row['coupling']}",
            f"{row['loss']:.4f}",
            spread(first_reached(case["curves"], row["coupling"], "loss"), ",.0f"),
            f"{row['distance']:.4f}",
            spread(first_reached(case["curves"], row["coupling"], "distance"), ",.0f"),
            f"{row['effective']:.2f}",
        )
        for case in result["cases"]
        for row in case["rows"]
    ]
    reached = "first reached at step"
    return ("coupling", "held-out loss", reached, "distance to held-out data", reached, "effective"), rows


def first_reached(curves: dict[str, list[list[dict[str, float]]]], coupling: str, figure: str) -> list[float]:
    """Of each seed the step at which a coupling is first where independent pairs of that seed end; else infinity."""
    goals = [points[-1][figure] for points in curves["independent"]]
    return [
        next((point["step"] for point in points if point[figure] <= goal), math.inf)
        for points, goal in zip(curves[coupling], goals, strict=True)
    ]


def labels(result: dict[str, Any]) -> Table:
    """Every generator and check: what it tells, what it costs, what training on what it keeps gains."""
    runs, trained = result["runs"], result.get("trained", [])
    rows: list[Sequence[str]] = []
    for generator in dict.fromkeys(run["generator"] for run in runs):
        own = [run for run in runs if run["generator"] == generator]
        arms = [found["arms"] for found in trained if found["generator"] == generator]
        rows.append((f"`{generator}`", UNCHECKED, "", "", "", *_accuracies(arms, UNCHECKED)))
        for place, judge in enumerate(own[0]["judges"]):
            found = [run["judges"][place] for run in own]
            areas = [spread([one["area"][which] for one in found], ".3f") for which in ("wrong", "swapped")]
            more = spread([one["seconds"] / run["draw"] for one, run in zip(found, own, strict=True)], ".0%")
            rows.append((f"`{generator}`", judge["title"], *areas, more, *_accuracies(arms, judge["title"])))
    head = (
        "generator",
        "check",
        "area, wrong",
        "area, swapped",
        "more seconds to draw",
        "equal images",
        "equal seconds",
    )
    return head, rows


def _accuracies(runs: Sequence[Sequence[dict[str, Any]]], title: str) -> tuple[str, str]:
    """Over the seeds, of equally many images and for equal seconds; empty where nothing was trained."""
    cells = []
    for which in ("images", "seconds"):
        found = [arm["accuracy"] for arms in runs for arm in arms if arm["title"] == f"{title}, equal {which}"]
        cells.append(spread(found) if found else "")
    return cells[0], cells[1]


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

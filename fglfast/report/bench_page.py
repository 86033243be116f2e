"""A benchmark's record as one self-contained HTML page."""

from pathlib import Path

from fglfast.base.files import write_atomic
from fglfast.lab.bench.records import BenchRecord, EngineBench, Rate
from fglfast.lab.bench.table import number
from fglfast.report.render import render

PARTS = (
    ("end_to_end", "End to end", "images/s"),
    ("unet", "UNet pass", "rows/s"),
    ("decoder", "VAE decoder", "images/s"),
)


def write_page(record: BenchRecord, command: str, out: Path) -> None:
    """Write the page of a record and the command line that measured it; the same input gives the same bytes."""
    parts = [(title, unit, ranked) for part, title, unit in PARTS if (ranked := _fastest_first(record.engines, part))]
    title, unit, ranked = parts[0]  # end to end, or the UNet where that took too long
    view = {
        "record": record,
        "command": command,
        "parts": parts,
        "best": {"title": title, "unit": unit, "engine": ranked[0][0], "rate": ranked[0][1]},
        "encode": sorted(record.encode, key=lambda encode: -encode.images_per_second),
        "figure": number,
    }
    write_atomic(out, render("bench_page.html.j2", view))


def _fastest_first(engines: tuple[EngineBench, ...], part: str) -> list[tuple[str, Rate]]:
    """Names and rates of the engines that a part was measured on."""
    found = [(engine.name, rate) for engine in engines if (rate := getattr(engine, part))]
    return sorted(found, key=lambda pair: -pair[1].per_second)

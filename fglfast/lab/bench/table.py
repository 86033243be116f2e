"""A benchmark's record as a table for the terminal, 80 columns wide."""

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fglfast.lab.bench.records import BenchRecord, Rate, TrainingRate


def table(record: BenchRecord) -> RenderableType:
    """What was measured, one line each; then what the table has no column for."""
    title = f"{record.model} at {record.image_size}x{record.image_size}: {record.machine['device']}"
    shown = Table(title=Text(title), box=box.SIMPLE, pad_edge=False, title_justify="left")
    shown.add_column("measured", overflow="fold")
    for heading in ("images/s", "TFLOP/s", "ceiling", "spread"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for part, heading in (
        ("unet", "UNet pass of {} rows"),
        ("decoder", "VAE decoder, {} latents"),
        ("end_to_end", "end to end, {} images"),
    ):
        for engine in record.engines:
            rate = getattr(engine, part)
            if rate:
                shown.add_row(f"{heading.format(rate.rows)}, {engine.name}", *_cells(rate, rate.per_second))
        shown.add_section()
    for encode in record.encode:
        what = f"{encode.image_format} {encode.side}x{encode.side}, encoded and written"
        shown.add_row(what, number(encode.images_per_second), "", "", f"{encode.timing.spread:.0%}")
    if record.training:
        step = record.training
        shown.add_row(f"training, {step.arch} at {step.side}x{step.side}", *_cells(step, step.images_per_second))
    return Group(shown, *_lines(record))


def _lines(record: BenchRecord) -> list[str]:
    lines = [f"ceiling in {each.precision}: {number(each.tflops)} TFLOP/s, {each.by}" for each in record.ceilings]
    book = [f"{each.precision} {number(each.by_the_book)}" for each in record.ceilings if each.by_the_book]
    if book:
        lines.append(f"the processor's own figures, at the clock that the system names: {', '.join(book)} TFLOP/s")
    sampling, image = record.sampling, record.operations.image / 1e12
    lines.append(f"an image: {image:.3g} TFLOP in {sampling.steps} steps at guidance {sampling.guidance_scale:g}")
    for engine in record.engines:
        if engine.end_to_end:
            lines.append(f"{engine.name}: {engine.end_to_end.network_share:.0%} of the time inside UNet and VAE")
    lines.append(f"peak memory: {record.peak_memory_bytes / 2**30:.2f} GiB")
    return lines + [f"left out: {reason}" for reason in record.left_out]


def _cells(rate: Rate | TrainingRate, per_second: float) -> tuple[str, ...]:
    return number(per_second), number(rate.tflops), f"{rate.share:.0%}", f"{rate.timing.spread:.0%}"


def number(value: float) -> str:
    """Three significant digits, never in powers of ten."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"

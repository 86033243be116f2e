import json
import math
import re

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn
from typer.testing import CliRunner

from benchmarks.results_file import RESULTS
from benchmarks.sections import SECTIONS
from benchmarks.speed_columns import engines
from benchmarks.table import PAGE, README, markdown, page, renewed
from fglfast.base.errors import MissingExtraError, UsageError
from fglfast.base.timing import Timing, interleaved
from fglfast.base.writable import usable_file
from fglfast.generator.load import load_generator
from fglfast.lab.bench.measure import BenchSettings, bench, contenders
from fglfast.lab.bench.operations import count, count_operations, count_training
from fglfast.lab.bench.table import number, table
from fglfast.lab.bench.work import Encoding, photograph_like
from fglfast.report.bench_page import write_page
from fglfast.sampler.schedule import Sampling, Schedule
from fglfast.verbs.app import app

QUICK = BenchSettings(rounds=2, arch="resnet10-narrow", train_batch=4, encode_images=3)


@pytest.fixture(scope="module")
def record(engine, recipe):
    return bench(contenders(recipe, ["torch,openvino"]), engine.model, engine.folder.parent, QUICK)


def figures(value):
    if isinstance(value, dict):
        return [figure for item in value.values() for figure in figures(item)]
    if isinstance(value, list):
        return [figure for item in value for figure in figures(item)]
    return [value] if isinstance(value, int | float) else []


def test_every_record_is_finite_and_positive(record):
    found = figures(record.model_dump(mode="json", exclude={"sampling"}))
    assert len(found) > 50 and all(math.isfinite(figure) and figure > 0 for figure in found)
    assert [engine.name for engine in record.engines] == ["torch", "openvino"]
    assert record.left_out == () and record.training is not None
    assert all(engine.end_to_end is not None and engine.end_to_end.network_share <= 1 for engine in record.engines)
    assert {(entry.image_format, entry.side) for entry in record.encode} == {
        (kind, side) for kind in ("png", "webp") for side in (32, 512)
    }


def test_rates_follow_from_the_times_they_come_with(record):
    for engine in record.engines:
        for rate, each in (
            (engine.unet, record.operations.unet),
            (engine.decoder, record.operations.decoder),
            (engine.end_to_end, record.operations.image),
        ):
            assert rate.per_second == pytest.approx(rate.rows / rate.timing.seconds, rel=1e-3)
            assert rate.tflops == pytest.approx(rate.per_second * each / 1e12, rel=2e-3)
            assert rate.share == pytest.approx(rate.tflops / record.ceiling(engine.ceiling).tflops, rel=2e-3)
            assert rate.share <= 1


def test_the_table_fits_in_80_columns(record):
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    console.print(table(record), markup=False)
    text = console.export_text()
    assert "end to end" in text and "ceiling" in text and "…" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_what_takes_too_long_is_left_out_and_said(engine, recipe):
    hasty = QUICK.model_copy(update={"rounds": 1, "longest_round": 1e-9})
    record = bench(contenders(recipe, ["openvino"]), engine.model, engine.folder.parent, hasty)
    assert record.engines[0].end_to_end is None and record.training is None
    assert len(record.left_out) == 2


def test_operations_are_two_a_multiply_add():
    assert count(nn.Linear(7, 5, bias=False), torch.zeros(3, 7)) == 2 * 3 * 7 * 5
    convolution = nn.Conv2d(4, 6, 3, padding=1, bias=False)
    assert count(convolution, torch.zeros(1, 4, 8, 8)) == 2 * 6 * 8 * 8 * 4 * 9


def test_attention_is_counted():
    class Attention(nn.Module):
        def forward(self, x):
            return nn.functional.scaled_dot_product_attention(x, x, x)

    assert count(Attention(), torch.zeros(1, 2, 16, 8)) == 2 * (2 * 2 * 16 * 16 * 8)


def test_an_image_costs_its_passes_and_a_decode(random_mini, engine):
    for guidance, rows in ((1.0, 3), (2.0, 6)):
        schedule = Schedule.of_model(random_mini, Sampling(steps=3, guidance_scale=guidance))
        found = count_operations(random_mini, engine.shapes, schedule)
        assert found.image == rows * found.unet + found.decoder
    weights = sum(p.numel() for p in load_generator(random_mini).unet.parameters())
    assert found.unet > 2 * weights  # every weight is used at least once, most at many positions


def test_training_costs_about_three_forward_passes():
    from fglfast.training.model import build_model

    forward = count(build_model("resnet10-narrow", ["a", "b"]), torch.zeros(1, 3, 32, 32))
    assert 2.5 < count_training("resnet10-narrow", 32) / forward <= 3


def test_rounds_are_interleaved_and_warmed_up():
    now, seen, waits = [0.0], [], []

    def run(name, seconds):
        def work():
            seen.append(name)
            now[0] += seconds

        return work

    timings = interleaved(
        {"a": run("a", 1.0), "b": run("b", 2.0)}, 3, clock=lambda: now[0], synchronise=lambda: waits.append(len(seen))
    )
    assert seen == ["a", "b"] * 4
    assert waits == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8]  # before and after each run
    assert {name: timing.seconds for name, timing in timings.items()} == {"a": 1.0, "b": 2.0}
    assert all(timing.rounds == 3 for timing in timings.values())


def test_timing_is_the_median_and_the_range():
    timing = Timing.of([3.0, 1.0, 2.0, 9.0, 2.0])
    assert (timing.seconds, timing.fastest, timing.slowest, timing.rounds) == (2.0, 1.0, 9.0, 5)
    assert timing.spread == 2.0


def test_contenders_share_all_but_backend_and_precision(recipe):
    made = contenders(recipe, ["torch,openvino:float32", "torch"], batch=2)
    assert [entry.backend for entry in made] == ["torch", "openvino", "torch"]
    assert all((entry.unet_batch, entry.vae_batch) == (2, 2) for entry in made)
    assert contenders(recipe, []) == [recipe]
    with pytest.raises(UsageError, match="abacus"):
        contenders(recipe, ["abacus"])
    with pytest.raises(UsageError, match="precision"):
        contenders(recipe, ["torch:float7"])


def test_a_missing_backend_is_named_with_its_command(recipe, monkeypatch):
    monkeypatch.setattr("fglfast.engine.backends._version", lambda package: None)
    with pytest.raises(MissingExtraError):
        contenders(recipe, ["openvino"])


def test_pictures_compress_like_photographs():
    pixels = photograph_like(2, 256)
    assert pixels.shape == (2, 256, 256, 3) and pixels.dtype == np.uint8
    encoding = Encoding("png", 256, 9)  # more images than pictures: they repeat
    encoding()
    raw = pixels[0].nbytes * 9
    assert 0.4 * raw < encoding.bytes < 0.7 * raw


def test_json_is_one_object(random_mini, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "fglfast.lab.bench.measure.BenchSettings", lambda **asked: QUICK.model_copy(update={"rounds": 1})
    )
    out, page, recipe = tmp_path / "out.json", tmp_path / "out.html", tmp_path / "small.toml"
    recipe.write_text(
        f'model = "{random_mini}"\nimage_size = 32\nunet_batch = 4\nvae_batch = 4\n[sampling]\nsteps = 1\n'
    )
    options = ["--recipe", str(recipe), "--backend", "torch", "--engines", str(tmp_path / "engines")]
    written = ["--out", str(out), "--report", str(page)]
    done = CliRunner().invoke(app, ["bench", *options, "--batch-size", "2", "--steps", "2", *written, "--json"])
    assert done.exit_code == 0, done.output
    assert "2 steps at guidance" in page.read_text(encoding="utf-8")
    shown = json.loads(done.stdout)
    assert shown == json.loads(out.read_text()) and shown["batch"] == 2 and shown["sampling"]["steps"] == 2
    usable_file(out, "result of fglfast bench")
    out.write_text('{"model": "of somebody else"}')
    refused = CliRunner().invoke(app, ["bench", *options, *written])
    assert refused.exit_code == 2 and "is no result of fglfast bench" in refused.stderr


def test_the_readme_holds_the_tables_that_the_results_make():
    text = README.read_text(encoding="utf-8")
    assert renewed(text) == text and "<!-- table:" in text


def test_the_results_page_is_the_one_that_the_results_make():
    assert PAGE.read_text(encoding="utf-8") == page()


def test_every_result_has_its_place_on_the_page():
    shown = {name for own, section in SECTIONS.items() for name in (own, *section.beside)}
    assert {path.stem for path in RESULTS.glob("*.json")} - {"pytest-benchmark"} <= shown
    assert all((RESULTS / section.picture).exists() for section in SECTIONS.values() if section.picture)


def test_a_marked_table_is_renewed():
    made = renewed("before\n<!-- table:sampling -->\n| old |\n\nafter\n")
    assert made == f"before\n<!-- table:sampling -->\n{markdown('sampling')}\nafter\n" and "old" not in made


def test_a_record_makes_a_table_for_the_readme(record):
    head, rows = engines(record.model_dump(mode="json"))
    assert len(rows) >= 3 * 2 + 4 + 1 + len(record.ceilings) and all(len(row) == len(head) for row in rows)


@pytest.mark.parametrize(
    ("options", "code", "word"),
    [
        (["--backend", "abacus"], 2, "abacus"),
        (["--backend", "torch:float7"], 2, "float7"),
        (["--recipe", "nothing"], 4, "nothing"),
        (["--model", "./none"], 4, "none"),
        (["--arch", "nothing", "--backend", "torch"], 2, "nothing"),
        (["--random-weights"], 2, "family"),
        (["--rounds", "0"], 2, "rounds"),
    ],
)
def test_errors_have_their_exit_codes(options, code, word, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = CliRunner().invoke(app, ["bench", *options])
    assert done.exit_code == code, done.output
    assert word in done.output and "Traceback" not in done.output


def test_the_page_shows_every_rate_and_needs_nothing_else(record, tmp_path):
    evil = record.model_copy(update={"model": "<script>x</script>", "left_out": ("<b>slow</b>",)})
    pages = []
    for name in ("a.html", "b.html"):
        write_page(evil, "fglfast bench --report a.html", tmp_path / name)
        pages.append((tmp_path / name).read_text(encoding="utf-8"))
    text = pages[0]
    assert pages[1] == text and "<script" not in text and "<b>slow" not in text
    assert not [word for word in ("http:", "https:", "src=", "<link", "@import") if word in text]
    for engine in record.engines:
        for rate in (engine.unet, engine.decoder, engine.end_to_end):
            assert f"<td>{number(rate.per_second)} " in text and f"<td>{rate.share:.0%}</td>" in text
    widths = [float(width) for width in re.findall(r'class="bar" style="width: ([\d.]+)%', text)]
    assert len(widths) == 3 * 2 + 1 + 4 and max(widths) <= 100
    assert widths[0] == pytest.approx(
        widths[1] * _shares(record)[0] / _shares(record)[1], rel=0.03
    )  # of rounded shares


def _shares(record):
    return sorted((engine.end_to_end.share for engine in record.engines), reverse=True)


def test_the_page_starts_with_the_unet_where_nothing_ran_end_to_end(record, tmp_path):
    engines = tuple(engine.model_copy(update={"end_to_end": None}) for engine in record.engines)
    write_page(record.model_copy(update={"engines": engines, "training": None}), "", tmp_path / "a.html")
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    best = max(engine.unet.per_second for engine in engines)
    assert f"<h1>UNet pass: {number(best)} rows/s" in text and "End to end</h2>" not in text

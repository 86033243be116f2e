"""Verbs that measure: what this machine does, how fast, and which recipe is worth its seconds."""

import math
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from fglfast.base.config import MOST_SEED
from fglfast.base.console import emit_json, stdout
from fglfast.base.errors import MissingExtraError, UsageError
from fglfast.training.settings import TrainSettings, check_arch
from fglfast.verbs.command import LOST, MACHINE, SERVER, tell, verb
from fglfast.verbs.documented import checked, option
from fglfast.verbs.opening import asked_recipe, find_model, open_engine
from fglfast.verbs.options import (
    DEFAULT_ENGINES,
    Allow,
    AllowSamePrompt,
    AsJson,
    Engines,
    OtherGuidance,
    OtherModel,
    OtherPrecision,
    OtherSize,
    OtherSteps,
    RandomWeights,
    RecipeName,
    TrustedCounts,
    check_merged,
    read_payloads,
)

STEPS, GUIDANCE, INTERVALS, IMAGES_PER_CLASS = ["6,12"], ["1,1.5"], ["0:1,0.2:0.8"], ["150,300"]  # what tune tries


@verb(MACHINE)
def bench(
    recipe: RecipeName = None,
    model: OtherModel = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(help="BACKEND or BACKEND:PRECISION, repeated or with commas: all are measured side by side."),
    ] = None,
    precision: OtherPrecision = None,
    image_size: OtherSize = None,
    batch_size: Annotated[int | None, typer.Option(min=2, help="How many images are drawn together.")] = None,
    steps: OtherSteps = None,
    guidance: OtherGuidance = None,
    random_weights: RandomWeights = False,
    rounds: Annotated[int, typer.Option(min=1, help="Timed rounds of each measurement; the median counts.")] = 5,
    longest_round: Annotated[
        float, typer.Option(min=0.1, help="Longest round in seconds; what would take longer is left out.")
    ] = 300,
    arch: Annotated[str, typer.Option(help="Global model whose training step is timed.")] = "resnet18",
    out: Annotated[Path | None, typer.Option(help="File to write the result to (.json).")] = None,
    report: Annotated[Path | None, typer.Option(help="File to write an HTML page with a plot to.")] = None,
    engines: Engines = DEFAULT_ENGINES,
    as_json: AsJson = False,
) -> None:
    """Measure how fast this machine draws, encodes and trains, and what share of its ceiling that is."""
    from fglfast.base.writable import usable_file

    for file, kind in ((out, "result of fglfast bench"), (report, "page of fglfast")):
        if file:
            usable_file(file, kind)
    settings = asked_recipe(recipe, model, precision=precision, image_size=image_size)
    settings = settings.model_copy(update={"sampling": settings.sampling.changed(steps, guidance)})
    from fglfast.lab.bench.measure import BenchSettings, contenders
    from fglfast.lab.bench.measure import bench as run
    from fglfast.lab.bench.table import table
    from fglfast.report.bench_page import write_page

    recipes = contenders(settings, backend or (), batch_size)
    asked = checked(BenchSettings, rounds=rounds, longest_round=longest_round, arch=arch)
    record = run(recipes, find_model(settings, engines, random_weights), engines, asked)
    for file in filter(None, (out, report)):
        file.parent.mkdir(parents=True, exist_ok=True)
    if out:
        record.save(out)
    if report:
        write_page(record, shlex.join(["fglfast", *sys.argv[1:]]), report)
    if as_json:
        emit_json(record.model_dump(mode="json"))
    else:
        stdout.print(table(record), markup=False)


@verb(SERVER)
def tune(
    embeddings: Annotated[str, typer.Option(help="Payload files whose prompts are drawn.")],
    validation: Annotated[
        str, typer.Option(help="Real images that the choice is made on: PATH[:SPLIT]; never the test images.")
    ],
    budget: Annotated[float, typer.Option(help="Seconds of synthesis and training that the chosen recipe may take.")],
    out: Annotated[Path, typer.Option(help="Folder of all candidates, the page and the chosen recipe.")],
    recipe: RecipeName = None,
    model: OtherModel = None,
    precision: OtherPrecision = None,
    drawn_size: OtherSize = None,
    steps: Annotated[
        list[str], typer.Option(help="Numbers of sampling steps to try, repeated or with commas.")
    ] = STEPS,
    guidance: Annotated[
        list[str], typer.Option(help="Guidance scales to try, repeated or with commas; 1 is unguided.")
    ] = GUIDANCE,
    interval: Annotated[
        list[str],
        typer.Option(help="LOW:HIGH ranges of noise levels to guide, as shares of all, repeated or with commas."),
    ] = INTERVALS,
    images_per_class: Annotated[
        list[str], typer.Option(help="Numbers of synthetic images of each class to try, repeated or with commas.")
    ] = IMAGES_PER_CLASS,
    arch: Annotated[str, option(TrainSettings, "arch")] = "resnet18-narrow",
    epochs: Annotated[int, option(TrainSettings, "epochs")] = 20,
    image_size: Annotated[int, option(TrainSettings, "image_size")] = 64,
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Seed of synthesis and of training.")] = 0,
    curve: Annotated[
        bool,
        typer.Option("--curve", help="Also train pilots, and show what other numbers of images are foretold to bring."),
    ] = False,
    allow: Allow = None,
    allow_same_prompt: AllowSamePrompt = False,
    trusted_counts: TrustedCounts = None,
    engines: Engines = DEFAULT_ENGINES,
    as_json: AsJson = False,
) -> None:
    """Find the recipe that reaches the highest accuracy within a budget of server-seconds; resumes.

    Steps, guidance and images per class are tried. As the validation images choose, the accuracy on them is optimistic:
    report that on test images.
    """
    if not 0 < budget < math.inf:
        raise UsageError(f"--budget {budget:g} is not a number of seconds", "for example 120")
    from fglfast.images.dataset import read_dataset
    from fglfast.lab.tuning.candidates import Grid

    grid = Grid.parse(steps, guidance, interval, images_per_class)
    check_arch(arch)
    train = checked(TrainSettings, arch=arch, epochs=epochs, image_size=image_size, seed=seed)
    merged = read_payloads(embeddings, allow)
    check_merged(merged, allow_same_prompt, trusted_counts)
    judges = read_dataset(validation)
    from fglfast.lab.tuning.records import TuneSettings
    from fglfast.lab.tuning.sweep import check_input, check_work
    from fglfast.lab.tuning.sweep import tune as run
    from fglfast.report.tune_page import write_page

    asked = checked(TuneSettings, grid=grid, budget=budget, train=train, curve=curve)
    check_input(merged, judges, asked)
    settings = asked_recipe(recipe, model, precision=precision, image_size=drawn_size)
    engine = open_engine(settings, engines, check=partial(check_work, merged, judges, settings, asked, out))
    tuned = run(engine, merged, judges, settings, asked, out)
    winner = ["fglfast", "synthesize", "--recipe", str(out / "recipe.toml"), "--embeddings", embeddings]
    winner += ["--allow", str(allow)] if allow else []
    winner += ["--allow-same-prompt"] if allow_same_prompt else []
    winner += [word for name in trusted_counts or () for word in ("--trusted-counts", name)]
    winner += ["--images-per-class", str(tuned.best.candidate.images_per_class), "--seed", str(seed), "--out", "synth"]
    write_page(tuned, shlex.join(winner), out)
    best = tuned.best
    line = f"{best.candidate.words}: {best.accuracy:.1%} of the validation images in {best.seconds:.0f} s"
    tell(
        {"page": str(out / "tune.html"), "command": shlex.join(winner), **tuned.model_dump(mode="json")},
        as_json,
        f"{line}\npage: {out / 'tune.html'}\ndraw with it: {shlex.join(winner)}",
    )


@verb(MACHINE, LOST)
def doctor(as_json: AsJson = False) -> None:
    """Try what works on this machine, from packages to training, and say how to mend what does not."""
    from dataclasses import asdict

    from fglfast.lab.doctor import counts, diagnose, table

    checks = diagnose()
    found = counts(checks)
    if as_json:
        emit_json({"checks": [asdict(check) for check in checks], **found})
    else:
        stdout.print(table(checks))
        stdout.print(f"{found['works']} work, {found['missing']} missing, {found['broken']} broken")
    for check in checks:
        if check.required and check.state != "works":
            raise MissingExtraError(f"fglfast needs {check.name}: {check.detail}", check.mend)

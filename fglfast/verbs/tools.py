"""Verbs beside the data flow: measuring, finding a recipe, looking at the machine."""

import math
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from fglfast.base.console import emit_json, stdout
from fglfast.base.errors import MissingExtraError, UsageError
from fglfast.verbs.options import (
    DEFAULT_ENGINES,
    Allow,
    AllowSamePrompt,
    AsJson,
    Engines,
    RandomWeights,
    RecipeName,
    find_model,
    fleeting_verb,
    open_engine,
    read_payloads,
    read_recipe,
    tell,
    verb,
)

STEPS, GUIDANCE, INTERVALS, IMAGES_PER_CLASS = ["6,12"], ["1,1.5"], ["0:1,0.2:0.8"], ["150,300"]  # what tune tries


@verb
def bench(
    recipe: RecipeName = "mini",
    model: Annotated[str | None, typer.Option(help="Overrides the recipe's model.", show_default=False)] = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(
            help="BACKEND or BACKEND:PRECISION, repeated or with commas: measured side by side.", show_default=False
        ),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=2, help="Images drawn together.", show_default=False)] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Overrides the recipe's steps.", show_default=False)] = None,
    guidance: Annotated[
        float | None, typer.Option(min=0, help="Overrides the recipe's guidance scale.", show_default=False)
    ] = None,
    random_weights: RandomWeights = False,
    rounds: Annotated[int, typer.Option(min=1, help="Timed rounds; the median counts.")] = 5,
    longest_round: Annotated[float, typer.Option(min=0.1, help="Seconds; parts that take longer are left out.")] = 300,
    arch: Annotated[str, typer.Option(help="Global model whose training step is timed.")] = "resnet18",
    out: Annotated[Path | None, typer.Option(help="Write the JSON here too.", show_default=False)] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write an HTML page with a plot here.", show_default=False)
    ] = None,
    engines: Engines = DEFAULT_ENGINES,
    as_json: AsJson = False,
) -> None:
    """Measure UNet, VAE, end-to-end synthesis, encoding and training step against this machine's ceiling."""
    from fglfast.base.files import usable_file, write_atomic
    from fglfast.lab.bench.measure import BenchSettings, contenders
    from fglfast.lab.bench.measure import bench as run
    from fglfast.lab.bench.table import table
    from fglfast.report.bench_page import write_page

    for file in filter(None, (out, report)):
        usable_file(file)
    settings = read_recipe(recipe)
    sampling = settings.sampling.changed(steps, guidance)
    settings = settings.model_copy(update={"model": model or settings.model, "sampling": sampling})
    recipes = contenders(settings, backend or (), batch_size)
    asked = BenchSettings(rounds=rounds, longest_round=longest_round, arch=arch)
    record = run(recipes, find_model(settings, engines, random_weights), engines, asked)
    for file in filter(None, (out, report)):
        file.parent.mkdir(parents=True, exist_ok=True)
    if out:
        write_atomic(out, record.model_dump_json(indent=2) + "\n")
    if report:
        write_page(record, shlex.join(["fglfast", *sys.argv[1:]]), report)
    if as_json:
        emit_json(record.model_dump(mode="json"))
    else:
        stdout.print(table(record), markup=False)


@verb
def tune_steps(
    embeddings: Annotated[str, typer.Option(help="Payload files whose prompts are drawn.")],
    out: Annotated[Path, typer.Option(help="The recipe to write (.toml).")],
    recipe: RecipeName = "mini",
    model: Annotated[str | None, typer.Option(help="Overrides the recipe's model.", show_default=False)] = None,
    steps: Annotated[int, typer.Option(min=1, help="To place.")] = 4,
    grid: Annotated[int, typer.Option(min=2, help="Equal steps of the fine trajectory.")] = 60,
    trajectories: Annotated[int, typer.Option(min=1, help="How many.")] = 64,
    allow: Allow = None,
    engines: Engines = DEFAULT_ENGINES,
    as_json: AsJson = False,
) -> None:
    """Place a flow model's steps where its trajectories bend (BOSS), and write them into a recipe."""
    from fglfast.base.files import usable_file, write_atomic
    from fglfast.distill.steps import place
    from fglfast.generator.load import read_shapes
    from fglfast.synthesis.conditioning import check_fit

    usable_file(out)
    merged = read_payloads(embeddings, allow)
    settings = read_recipe(recipe)

    def check(folder: Path, image_size: int) -> None:
        check_fit(merged, folder, read_shapes(folder, image_size))

    engine = open_engine(recipe, model, None, engines, check=check)
    placed = place(engine, merged, settings, steps, grid, trajectories)
    changes = {"scheduler": "flow-euler", "steps": steps, "timesteps": placed.timesteps}
    sampling = settings.sampling.model_copy(update=changes)
    changed = settings.model_copy(update={"model": model or settings.model, "sampling": sampling})
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, changed.to_toml())
    result = {"recipe": str(out), **placed.model_dump(mode="json")}
    shown = ", ".join(f"{timestep:g}" for timestep in placed.timesteps)
    tell(result, as_json, f"{out}: steps at {shown}; cost {placed.cost:.3g}, equal steps {placed.uniform_cost:.3g}")


@verb
def tune(
    embeddings: Annotated[str, typer.Option(help="Payload files whose prompts are drawn.")],
    validation: Annotated[
        str,
        typer.Option(help="Real images that judge, PATH[:SPLIT]; never the test images: a choice is made on them."),
    ],
    budget: Annotated[float, typer.Option(help="Seconds of synthesis and training that the winner may take.")],
    out: Annotated[Path, typer.Option(help="Folder of candidates, page and winning recipe.")],
    recipe: RecipeName = "mini",
    model: Annotated[str | None, typer.Option(help="Overrides the recipe's model.", show_default=False)] = None,
    steps: Annotated[list[str], typer.Option(help="Repeated or with commas, as all lists.")] = STEPS,
    guidance: Annotated[list[str], typer.Option(help="Scales; 1 is unguided.")] = GUIDANCE,
    interval: Annotated[
        list[str], typer.Option(help="LOW:HIGH noise levels that are guided, as shares of all.")
    ] = INTERVALS,
    images_per_class: Annotated[list[str], typer.Option(help="Synthetic images of each class.")] = IMAGES_PER_CLASS,
    arch: Annotated[str, typer.Option(help="Global model.")] = "resnet18-narrow",
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of each global model.")] = 20,
    image_size: Annotated[int, typer.Option(min=8, max=4096, help="Training images' side, in pixels.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Of plan and training.")] = 0,
    allow: Allow = None,
    allow_same_prompt: AllowSamePrompt = False,
    engines: Engines = DEFAULT_ENGINES,
    as_json: AsJson = False,
) -> None:
    """Find the steps, guidance and images per class that a budget of server-seconds buys most accuracy with; resumes.

    The winner is chosen on the validation images, so its accuracy there is optimistic: report that on test images.
    """
    if not 0 < budget < math.inf:
        raise UsageError(f"--budget {budget:g} is no number of seconds", "for example 120")
    from fglfast.images.dataset import read_dataset
    from fglfast.lab.tuning.candidates import Grid
    from fglfast.lab.tuning.records import TuneSettings
    from fglfast.lab.tuning.sweep import check_input, check_work
    from fglfast.lab.tuning.sweep import tune as run
    from fglfast.payload.merge import check_prompts
    from fglfast.report.tune_page import write_page
    from fglfast.training.settings import TrainSettings, check_arch

    grid = Grid.parse(steps, guidance, interval, images_per_class)
    check_arch(arch)
    train = TrainSettings(arch=arch, epochs=epochs, image_size=image_size, seed=seed)
    asked, settings = TuneSettings(grid=grid, budget=budget, train=train), read_recipe(recipe)
    merged = read_payloads(embeddings, allow)
    check_prompts(merged, allow_same_prompt, "--allow-same-prompt")
    judges = read_dataset(validation)
    check_input(merged, judges, asked)
    settings = settings.model_copy(update={"model": model or settings.model})
    check = partial(check_work, merged, judges, settings, asked, out)
    engine = open_engine(recipe, model, None, engines, check=check)
    tuned = run(engine, merged, judges, settings, asked, out)
    winner = ["fglfast", "synthesize", "--recipe", str(out / "recipe.toml"), "--embeddings", embeddings]
    winner += ["--allow", str(allow)] if allow else []
    winner += ["--allow-same-prompt"] if allow_same_prompt else []
    winner += ["--images-per-class", str(tuned.best.candidate.images_per_class), "--seed", str(seed), "--out", "synth"]
    write_page(tuned, shlex.join(winner), out)
    best = tuned.best
    line = f"{best.candidate.words}: {best.accuracy:.1%} of the validation images in {best.seconds:.0f} s"
    tell(
        {"page": str(out / "tune.html"), "command": shlex.join(winner), **tuned.model_dump(mode="json")},
        as_json,
        f"{line}\npage: {out / 'tune.html'}\ndraw with it: {shlex.join(winner)}",
    )


@fleeting_verb
def doctor(as_json: AsJson = False) -> None:
    """Try what works here: packages, devices, backends, attention kernels, training; and say what mends the rest."""
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

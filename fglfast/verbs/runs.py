"""Verbs that go through all stages: a demonstration, an experiment, their pages."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from fglfast.base.console import emit_json, stdout
from fglfast.base.errors import MissingExtraError
from fglfast.verbs.options import (
    DEFAULT_ENGINES,
    AllowSamePrompt,
    AsJson,
    Engines,
    RecipeName,
    fleeting_verb,
    tell,
    verb,
)


@verb
def demo(
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("fglfast-demo"),
    private: Annotated[
        str, typer.Option(help="The clients' images: PATH[:SPLIT], or the bundled sample.")
    ] = "fashion:private",
    test: Annotated[str, typer.Option(help="Real images to evaluate on.")] = "fashion:test",
    clients: Annotated[int, typer.Option(min=1, help="Number of clients.")] = 5,
    beta: Annotated[float, typer.Option(min=1e-4, help="Dirichlet concentration of the label skew.")] = 0.01,
    prompt_level: Annotated[Literal["class", "instance"], typer.Option(help="Prompts of a client.")] = "class",
    recipe: RecipeName = "mini-few",
    images_per_class: Annotated[int, typer.Option(min=1, help="Synthetic images of each class.")] = 300,
    arch: Annotated[str, typer.Option(help="Global model.")] = "resnet18-narrow",
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of the global model.")] = 20,
    image_size: Annotated[int, typer.Option(help="Side in pixels that images are resized to for training.")] = 64,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    allow_same_prompt: AllowSamePrompt = False,
    as_json: AsJson = False,
) -> None:
    """Run one-shot Federated Generative Learning end to end and write an HTML report."""
    from fglfast.base.files import sole
    from fglfast.pipeline.one_shot import OneShot, run_one_shot
    from fglfast.report.run_page import write_run_page

    settings = OneShot(
        private=private,
        test=test,
        clients=clients,
        beta=beta,
        prompt_level=prompt_level,
        recipe=recipe,
        images_per_class=images_per_class,
        arch=arch,
        epochs=epochs,
        image_size=image_size,
        seed=seed,
        allow_same_prompt=allow_same_prompt,
    )
    with sole(out):
        record, page = run_one_shot(settings, out), write_run_page(out)
    if as_json:
        emit_json({"accuracy": record.evaluation.accuracy, "report": str(page), **record.model_dump(mode="json")})
        return
    upload, model = max(client.upload_bytes for client in record.clients), record.model_bytes
    stdout.print(
        f"accuracy on {record.evaluation.images} real test images: [bold]{record.evaluation.accuracy:.1%}[/bold]"
    )
    stdout.print(
        f"largest upload of a client: {upload:,} bytes, 1/{model // max(upload, 1):,} of the model's {model:,}"
    )
    if record.taught_by:
        stdout.print(record.taught_by, markup=False)
        stdout.print(f"report: {page.resolve()}", markup=False, soft_wrap=True)


@verb
def run(
    experiment: Annotated[str, typer.Argument(help="A .toml file, or a preset's name.")],
    data: Annotated[
        str | None, typer.Option(help="Private images, instead of the experiment's.", show_default=False)
    ] = None,
    test: Annotated[
        str | None, typer.Option(help="Real test images, instead of the experiment's.", show_default=False)
    ] = None,
    public: Annotated[
        str | None,
        typer.Option(help="Labelled images that the server has itself, for `public-only`.", show_default=False),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of all runs; runs/NAME.", show_default=False)] = None,
    engines: Engines = DEFAULT_ENGINES,
    as_json: AsJson = False,
) -> None:
    """Compare FGL with the server alone, FedAvg, FedProx, centralized and local training; resumes."""
    try:
        from fglfast.federation.arena import run_experiment
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] == "flwr":
            raise MissingExtraError("rounds need Flower", "pip install 'fglfast[fed]'") from error
        raise
    from fglfast.base.files import sole
    from fglfast.federation.experiment import find_experiment
    from fglfast.federation.summary import table
    from fglfast.report.arena_page import write_page

    changes = {key: value for key, value in (("data", data), ("test", test), ("public", public)) if value}
    folder = out or Path("runs") / Path(experiment).stem
    asked, page = find_experiment(experiment).model_copy(update=changes), folder / "arena.html"
    with sole(folder):
        arena = run_experiment(asked, folder, engines)
        write_page(arena, page)
    if as_json:
        emit_json({"page": str(page), **arena.model_dump(mode="json")})
        return
    stdout.print(table(arena))
    if arena.taught_by:
        stdout.print(arena.taught_by, markup=False)
        stdout.print(f"report: {page.resolve()}", markup=False, soft_wrap=True)


@fleeting_verb
def report(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run, as demo leaves it.")],
    as_json: AsJson = False,
) -> None:
    """Write a run's HTML page anew from its record and images."""
    from fglfast.report.run_page import write_run_page

    page = write_run_page(run)
    tell({"report": str(page)}, as_json, f"report: {page.resolve()}")

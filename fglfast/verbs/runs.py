"""Verbs of whole runs: a demonstration, an experiment, the page of either, an audit."""

from pathlib import Path
from typing import Annotated

import typer

from fglfast.base.console import emit_json, stdout
from fglfast.base.errors import UsageError
from fglfast.base.wording import beside
from fglfast.pipeline.settings import Demo, OneShot
from fglfast.shards.description import FACTS, page_of
from fglfast.training.settings import TrainSettings, check_arch
from fglfast.verbs.command import LOST, RUNS, tell, verb
from fglfast.verbs.documented import checked, option
from fglfast.verbs.options import (
    DEFAULT_ENGINES,
    AllowSamePrompt,
    AsJson,
    Engines,
    OtherPrecision,
    OtherSize,
    PromptLevel,
    refuse_given,
)

DEMO = Demo()
SHADOWS = 8  # of each method that an audit attacks


@verb(RUNS)
def demo(
    out: Annotated[Path, typer.Option(help="Folder of the run; a second call goes on where it stopped.")] = Path(
        "fglfast-demo"
    ),
    private: Annotated[str, option(Demo, "private")] = DEMO.private,
    test: Annotated[str, option(Demo, "test")] = DEMO.test,
    clients: Annotated[int, option(Demo, "clients")] = DEMO.clients,
    beta: Annotated[float, option(Demo, "beta")] = DEMO.beta,
    prompt_level: PromptLevel = DEMO.prompt_level,
    recipe: Annotated[str, option(OneShot, "recipe")] = DEMO.recipe,
    precision: OtherPrecision = DEMO.precision,
    drawn_size: OtherSize = DEMO.drawn_size,
    images_per_class: Annotated[int, option(OneShot, "images_per_class")] = DEMO.images_per_class,
    arch: Annotated[str, option(TrainSettings, "arch")] = DEMO.train.arch,
    epochs: Annotated[int, option(TrainSettings, "epochs")] = DEMO.train.epochs,
    image_size: Annotated[int | None, option(TrainSettings, "image_size")] = DEMO.train.image_size,
    seed: Annotated[int, option(Demo, "seed")] = DEMO.seed,
    allow_same_prompt: AllowSamePrompt = DEMO.allow_same_prompt,
    as_json: AsJson = False,
) -> None:
    """Run one-shot Federated Generative Learning end to end on simulated clients, and write an HTML page."""
    check_arch(arch)
    from fglfast.base.files import sole
    from fglfast.pipeline.demo import CLAIM, run_demo
    from fglfast.report.run_page import write_run_page

    asked = checked(
        Demo,
        private=private,
        test=test,
        clients=clients,
        beta=beta,
        prompt_level=prompt_level,
        recipe=recipe,
        precision=precision,
        drawn_size=drawn_size,
        images_per_class=images_per_class,
        train=checked(
            TrainSettings, **DEMO.train.model_dump() | {"arch": arch, "epochs": epochs, "image_size": image_size}
        ),
        seed=seed,
        allow_same_prompt=allow_same_prompt,
    )
    with sole(out, CLAIM):
        record, page = run_demo(asked, out), write_run_page(out)
    if as_json:
        emit_json({"accuracy": record.evaluation.accuracy, "report": str(page), **record.model_dump(mode="json")})
        return
    upload, model = max(client.upload_bytes for client in record.clients), record.model_bytes
    stdout.print(f"accuracy on {record.evaluation.n} real test images: [bold]{record.evaluation.accuracy:.1%}[/bold]")
    stdout.print(f"largest upload of a client: {upload:,} bytes, {beside(upload, model)} the model's {model:,}")
    _say_where(record.taught_by, page)


@verb(RUNS)
def run(
    experiment: Annotated[str, typer.Argument(help="File of the experiment (.toml), or the name of a shipped one.")],
    data: Annotated[str | None, typer.Option(help="Private images, instead of the experiment's: PATH[:SPLIT].")] = None,
    test: Annotated[
        str | None, typer.Option(help="Real test images, instead of the experiment's: PATH[:SPLIT].")
    ] = None,
    public: Annotated[
        str | None, typer.Option(help="Labelled images of the server's own, for the method public-only: PATH[:SPLIT].")
    ] = None,
    captions: Annotated[
        str | None,
        typer.Option(
            help="Captions of the private images, instead of the experiment's: attributes, a model or a file."
        ),
    ] = None,
    domain: Annotated[
        str | None, typer.Option(help="A word for the style of the private images, instead of the experiment's.")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Recipe of the generator, instead of the experiment's: a shipped one's name or a .toml file."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of all its runs; runs/NAME unless given.")] = None,
    engines: Engines = DEFAULT_ENGINES,
    as_json: AsJson = False,
) -> None:
    """Compare FGL with FedAvg, FedProx, local and central training, and others; a second call goes on."""
    from fglfast.base.files import sole
    from fglfast.federation.experiment import FILE, find_experiment

    asked_for = {"data": data, "test": test, "public": public, "captions": captions, "domain": domain, "recipe": recipe}
    changes = {key: value for key, value in asked_for.items() if value}
    folder = out or Path("runs") / Path(experiment).stem
    asked, page = find_experiment(experiment).model_copy(update=changes), folder / "arena.html"
    if captions and asked.prompt_level != "instance":
        raise UsageError(
            f"--captions: {asked.prompt_level}-level prompts have none",
            'let the experiment say prompt_level = "instance"',
        )
    from fglfast.federation.arena import run_experiment
    from fglfast.federation.summary import gains, gains_table, table
    from fglfast.report.arena_page import write_page

    with sole(folder, FILE):
        arena = run_experiment(asked, folder, engines)
        write_page(arena, page)
    if as_json:
        emit_json({"page": str(page), **arena.model_dump(mode="json")})
        return
    stdout.print(table(arena))
    if gains(arena):
        stdout.print(gains_table(arena))
    _say_where(arena.taught_by, page)


def _say_where(taught_by: str, page: Path) -> None:
    """The last lines of a run: what its generator had learned from, and its page."""
    if taught_by:
        stdout.print(taught_by, markup=False)
    stdout.print(f"report: {page.resolve()}", markup=False, soft_wrap=True)


@verb(RUNS, LOST)
def report(
    folder: Annotated[
        Path, typer.Argument(help="Folder that a finished demo or run left, or any synthetic data set's.")
    ],
    against: Annotated[
        str | None, typer.Option(help="Real images that a synthetic data set's are compared with.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write the HTML page of a finished demo or run anew, from its record; of a synthetic data set, from its images."""
    if (folder / FACTS).exists():
        page = _data_page(folder, against)
    elif against:
        raise UsageError("--against is for a synthetic data set", "give its folder, or leave --against out")
    elif (folder / "arena.json").exists():
        from fglfast.federation.records import Arena
        from fglfast.report.arena_page import write_page

        page = folder / "arena.html"
        write_page(Arena.from_json(folder / "arena.json"), page)
    else:
        from fglfast.report.run_page import write_run_page

        page = write_run_page(folder)
    tell({"report": str(page)}, as_json, f"report: {page.resolve()}")


def _data_page(folder: Path, against: str | None) -> Path:
    from fglfast.base.writable import usable_file
    from fglfast.images.dataset import read_dataset
    from fglfast.lab.survey.survey import survey
    from fglfast.report.survey_page import write_page

    page = page_of(folder)
    usable_file(page, "page of fglfast")
    write_page(survey(folder, read_dataset(against) if against else None), page)
    return page


@verb(RUNS)
def audit(
    run: Annotated[Path | None, typer.Argument(help="Folder that fglfast run left; or give --model.")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Which of the run's seeds is audited; its first unless given.")
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(help="Methods of the run whose models are attacked, with commas.", show_default="fgl,fedavg"),
    ] = None,
    shadows: Annotated[
        int | None,
        typer.Option(
            min=0,
            show_default="8",
            help="Shadow models of each method, 4 or more; each takes as long as the run. 8 are a weak attack, its "
            "authors take 64 to 256; ask for more at any time, those that are there are kept. 0: by the loss alone.",
        ),
    ] = None,
    model: Annotated[Path | None, typer.Option(help="Folder of a global model, audited instead of a run.")] = None,
    members: Annotated[
        str | None, typer.Option(help="Private images that the --model comes from: PATH[:SPLIT].")
    ] = None,
    nonmembers: Annotated[
        str | None, typer.Option(help="Images of the same kind that the --model has never seen: PATH[:SPLIT].")
    ] = None,
    synthetic: Annotated[
        Path | None, typer.Option(help="Folder of the synthetic images that the --model was trained on.")
    ] = None,
    payload: Annotated[
        Path | None, typer.Option(readable=False, help="Payload of the client that holds the --members.")
    ] = None,
    generator: Annotated[
        str | None, typer.Option(help="Generator that the --payload was made for, as for embed.", show_default="mini")
    ] = None,
    captions: Annotated[
        str | None,
        typer.Option(help="Captions of the --members, the same that embed was given.", show_default="attributes"),
    ] = None,
    template: Annotated[
        str | None, typer.Option(help="Prompt template of the --payload, the same that embed was given.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the page; RUN/audit unless given.")] = None,
    engines: Engines = DEFAULT_ENGINES,
    as_json: AsJson = False,
) -> None:
    """Attack a run or a model as an intruder would, and write a page; a second call goes on where it stopped.

    The attacks: membership inference, inversion of uploads, and synthetic images that are copies of private ones.
    """
    from fglfast.base.files import sole
    from fglfast.base.writable import usable_folder
    from fglfast.lab.audit.opened import open_run

    if (run is None) == (model is None) or (model is not None and not (members and nonmembers)):
        raise UsageError(
            "audit needs either a run or a model", "give a RUN, or --model with --members and --nonmembers"
        )
    _check_kind(model, "a model's", members=members, nonmembers=nonmembers, synthetic=synthetic, payload=payload)
    _check_kind(run, "a run's", seed=seed, methods=methods, shadows=shadows)
    _check_kind(payload, "a --payload's", generator=generator, captions=captions, template=template)
    shadows = SHADOWS if shadows is None else shadows
    if 0 < shadows < 4:
        raise UsageError(f"--shadows {shadows}: too few to tell anything", "give 4 or more, or 0")
    folder = out or (run or Path()) / "audit"
    usable_folder(folder)
    opened = open_run(run, seed) if run else None
    attacked = opened.methods(methods.split(",") if methods else ()) if opened else ()
    with sole(folder, "audit.json", "shadows"):
        if opened:
            from fglfast.lab.audit.of_run import audit_run

            found, pairs = audit_run(opened, attacked, shadows, folder, engines)
        else:
            from fglfast.client.captions import ATTRIBUTES
            from fglfast.generator.text import resolve_model
            from fglfast.lab.audit.of_files import Files, audit_files

            assert model is not None and members and nonmembers
            made_for, told = resolve_model(generator or "mini"), captions or ATTRIBUTES
            files = Files(model, members, nonmembers, synthetic, payload, made_for, told, template)
            found, pairs = audit_files(files)
        from fglfast.report.audit_page import write_page

        found.save(folder / "audit.json")
        write_page(found, pairs, folder / "audit.html")
    page = folder / "audit.html"
    lines = [
        f"{attack.attacked}, {attack.kind}: area {attack.roc.auc.words}"
        + (f", {attack.roc.caught[0].words} found at 1% wrong" if attack.roc.caught[0] else "")
        for attack in found.attacks
    ]
    result = {"page": str(page), **found.model_dump(mode="json")}
    tell(result, as_json, "\n".join([*lines, f"report: {page.resolve()}"]))


def _check_kind(asked: Path | None, whose: str, **options: object) -> None:
    """Refuse what is said of an audit that is not asked for."""
    if asked is None:
        refuse_given(f"is for {whose} audit, which is not asked for", "leave it out", **options)

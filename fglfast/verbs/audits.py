"""The verb that attacks what other verbs left."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fglfast.base.errors import MissingExtraError, UsageError
from fglfast.verbs.options import DEFAULT_ENGINES, AsJson, Engines, ModelName, tell, verb


@verb
def audit(
    run: Annotated[Path | None, typer.Argument(help="Folder of a finished fglfast run.", show_default=False)] = None,
    seed: Annotated[int | None, typer.Option(help="Of the run; its first.", show_default=False)] = None,
    methods: Annotated[
        str | None, typer.Option(help="Of the run, with commas: whose models are attacked.", show_default="fgl,fedavg")
    ] = None,
    shadows: Annotated[
        int,
        typer.Option(
            min=0,
            help="Shadow models of each method; each takes as long as the run. 8 are a weak attack, its authors take "
            "64 to 256: ask for more at any time, those that are there are kept. 0: loss only.",
        ),
    ] = 8,
    model: Annotated[
        Path | None, typer.Option(help="Instead of a run: folder of a global model.", show_default=False)
    ] = None,
    members: Annotated[
        str | None, typer.Option(help="Private images behind it, PATH[:SPLIT].", show_default=False)
    ] = None,
    nonmembers: Annotated[
        str | None, typer.Option(help="Images of the same kind that are not behind it.", show_default=False)
    ] = None,
    synthetic: Annotated[
        Path | None, typer.Option(help="Folder of the synthetic images that it was trained on.", show_default=False)
    ] = None,
    payload: Annotated[
        Path | None, typer.Option(help="Upload of the client that holds the members.", show_default=False)
    ] = None,
    generator: ModelName = "mini",
    captions: Annotated[str, typer.Option(help="Of the members, as embed was told.")] = "attributes",
    out: Annotated[Path | None, typer.Option(help="Folder of the page; RUN/audit.", show_default=False)] = None,
    engines: Engines = DEFAULT_ENGINES,
    as_json: AsJson = False,
) -> None:
    """Attack a run or a model: membership inference, inversion of uploads, copies; one page of it all. Resumes."""
    from fglfast.base.files import sole, write_atomic
    from fglfast.report.audit_page import write_page

    if (run is None) == (model is None) or (model is not None and not (members and nonmembers)):
        raise UsageError("what is audited is not clear", "give a RUN, or --model with --members and --nonmembers")
    if 0 < shadows < 4:
        raise UsageError(f"--shadows {shadows} are too few to tell anything", "give 4 or more, or 0")
    folder = out or (run or Path()) / "audit"
    with sole(folder):
        if run is not None:
            found, pairs = _of_run(run, seed, methods, shadows, folder, engines)
        else:
            from fglfast.generator.text import resolve_model
            from fglfast.lab.audit.of_files import Files, audit_files

            assert model is not None and members and nonmembers
            files = Files(model, members, nonmembers, synthetic, payload, resolve_model(generator), captions)
            found, pairs = audit_files(files)
        write_atomic(folder / "audit.json", found.model_dump_json(indent=1) + "\n")
        write_page(found, pairs, folder / "audit.html")
    page = folder / "audit.html"
    lines = [
        f"{attack.attacked}, {attack.kind}: area {attack.roc.auc.words}"
        + (f", {attack.roc.caught[0].words} found at 1% wrong" if attack.roc.caught[0] else "")
        for attack in found.attacks
    ]
    result = {"page": str(page), **found.model_dump(mode="json")}
    tell(result, as_json, "\n".join([*lines, f"report: {page.resolve()}"]))


def _of_run(
    run: Path, seed: int | None, methods: str | None, shadows: int, out: Path, engines: Path
) -> tuple[Any, list[Any]]:
    try:
        from fglfast.lab.audit.of_run import audit_run, open_run
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] == "flwr":
            raise MissingExtraError("a run is audited with Flower", "pip install 'fglfast[fed]'") from error
        raise
    opened = open_run(run, seed)
    return audit_run(opened, opened.methods(methods.split(",") if methods else ()), shadows, out, engines)

"""What all verbs share: options, errors as exit codes, opening an engine. Imports nothing heavy at the top."""

import glob
import os
import signal
import warnings
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, ParamSpec

import typer

from fglfast.base.console import emit_json, signed, speaker, stderr, stdout
from fglfast.base.errors import BadInputError, ExitCode, FglError, UsageError
from fglfast.base.limits import as_limit
from fglfast.base.ranks import Rank, find_rank, take_place

app = typer.Typer(
    help="Federated Generative Learning: clients send prompt embeddings once, the server draws a data set and trains.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
P = ParamSpec("P")
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
Engines = Annotated[Path, typer.Option(help="Folder that holds compiled engines by key.", envvar="FGLFAST_ENGINES")]
ModelName = Annotated[str, typer.Option(help="mini, a diffusers directory, or a hub id.")]
RecipeName = Annotated[str, typer.Option(help="A shipped recipe's name or a .toml file.")]
BackendOption = Annotated[
    str | None,
    typer.Option(help="auto, torch, torch-compile, onnxruntime, openvino or tensorrt.", show_default=False),
]
RandomWeights = Annotated[
    bool,
    typer.Option("--random-weights", help="Measure the recipe's architecture without its weights."),
]
BatchSize = Annotated[
    str | None,
    typer.Option(help="Rows of one UNet pass, or auto: measured, the VAE's too.", show_default=False, metavar="N|auto"),
]
Allow = Annotated[
    Path | None,
    typer.Option(
        help="Clients and their public keys (.toml): only payloads that they signed are read.", show_default=False
    ),
]
AllowSamePrompt = Annotated[
    bool,
    typer.Option("--allow-same-prompt", help="Draw classes that send the same prompt too: alike, but for their label."),
]
KEPT = "what is finished is kept; run the same command to go on"
LOST = "nothing was kept; run the same command to begin again"
DEFAULT_ENGINES = Path("engines/build")


def verb(function: Callable[P, None]) -> Callable[P, None]:
    """Make a function a command; its errors become one clear line and the right exit code."""
    return app.command(name=function.__name__.replace("_", "-"))(exits(function))


def fleeting_verb(function: Callable[P, None]) -> Callable[P, None]:
    """As `verb`, of a command that keeps nothing before it is done: interrupted, it says so."""
    return app.command(name=function.__name__.replace("_", "-"))(exits(function, LOST))


def exits(function: Callable[P, None], interrupted: str = KEPT) -> Callable[P, None]:
    """Turn errors into one clear line and the right exit code; `interrupted` is what an interruption leaves."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        warnings.filterwarnings("ignore")
        try:
            function(*args, **kwargs)
        except FglError as error:
            _complain(error.message, error.hint)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            _complain("interrupted", interrupted)
            raise typer.Exit(ExitCode.INTERRUPTED) from None
        except BrokenPipeError:
            raise typer.Exit(ExitCode.FAILURE) from None
        except Exception as error:
            if os.environ.get("FGLFAST_DEBUG"):
                raise
            bug = FglError(_line(error), "this is a bug in fglfast; FGLFAST_DEBUG=1 shows the traceback")
            known = as_limit(error) or bug
            _complain(known.message, known.hint)
            raise typer.Exit(ExitCode.FAILURE) from None

    return run


def _line(error: Exception) -> str:
    """An error's kind and the first line of what it says."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no message'])[0]}"


def join_ranks() -> Rank:
    """Find out which of several processes this one is, take its GPU, and sign what it says."""
    rank = find_rank()
    if rank.world_size > 1:
        speaker.name, speaker.leads = str(rank), rank.number == 0
        take_place(rank)
    return rank


def open_engine(
    recipe: str,
    model: str | None,
    backend: str | None,
    engines: Path,
    batch_size: str | None = None,
    random_weights: bool = False,
    check: Callable[[Path, int], None] | None = None,
) -> Any:
    """The compiled engine of a recipe, some of its settings changed on the command line.

    `check` is given the model's folder and the image size before anything is compiled: what it refuses is said at once.
    """
    from fglfast.engine.backends import chosen
    from fglfast.engine.build import build_engine as build

    settings = read_recipe(recipe)
    changes = {"model": model, "backend": backend, "unet_batch": _rows(batch_size)}
    settings = settings.model_copy(update={key: value for key, value in changes.items() if value is not None})
    chosen(settings.backend, settings.precision)  # refused before a model is fetched
    folder = find_model(settings, engines, random_weights)
    if check:
        check(folder, settings.image_size)
    if batch_size == "auto":
        from fglfast.engine.batch_search import tune_batches

        settings = tune_batches(settings, folder, engines)
    return build(settings, folder, engines)


def _rows(batch_size: str | None) -> int | None:
    if batch_size is None or batch_size == "auto":
        return None
    if not batch_size.isdecimal() or not 2 <= int(batch_size) <= 4096:
        raise UsageError(f"--batch-size {batch_size} is neither auto nor a number of 2 to 4096", "for example 64")
    return int(batch_size)


def find_model(recipe: Any, engines: Path, random_weights: bool) -> Path:
    """The model folder of a recipe, or one of its architecture with random weights."""
    if not random_weights:
        folder: Path = recipe.model_folder()
        return folder
    if recipe.family is None:
        raise UsageError("this recipe names no family to draw random weights for", "use recipe sd15, sd21-base or sdxl")
    from fglfast.generator.families import random_model

    return random_model(recipe.family, engines / f"random-{recipe.family}")


def read_recipe(name: str) -> Any:
    """A recipe by name or path."""
    from fglfast.engine.recipe import find_recipe

    return find_recipe(name)


def payload_files(pattern: str) -> list[Path]:
    """The files of a pattern, sorted; whatever part of it is there as it is written is no pattern."""
    found = [Path()]
    for part in Path(pattern).parts:
        found = [path for folder in found for path in _entries(folder, part)]
    if not found:
        raise BadInputError(f"no payload file matches {pattern!r}", "make one with fglfast embed; quote the pattern")
    return sorted(found)


def _entries(folder: Path, part: str) -> list[Path]:
    """What one part of a pattern names in a folder: brackets are a file's name where there is such a file."""
    if os.path.lexists(folder / part):
        return [folder / part]
    return [folder / name for name in glob.glob(part, root_dir=folder)]  # noqa: PTH207 (leaves hidden files out)


def read_payloads(pattern: str, allow: Path | None) -> Any:
    """The rows of all payloads that a pattern names, with `allow` only if those who may send signed them."""
    from fglfast.payload import load_payload
    from fglfast.payload.merge import merge_payloads

    allowed = read_allowed(allow)
    return merge_payloads(load_payload(path, allowed=allowed) for path in payload_files(pattern))


def read_allowed(allow: Path | None) -> Any:
    """Who may send, or None for anyone."""
    from fglfast.payload import AllowList

    return AllowList.from_toml(allow) if allow else None


def tell(result: dict[str, Any], as_json: bool, line: str) -> None:
    """Print a result: one JSON object, or the line for people."""
    if as_json:
        emit_json(result)
    else:
        stdout.print(signed(line), markup=False, soft_wrap=True)


def _complain(message: str, hint: str) -> None:
    stderr.print(signed(f"error: {message}"), markup=False, style="red", soft_wrap=True)
    if hint:
        stderr.print(signed(f"  hint: {hint}"), markup=False, soft_wrap=True)

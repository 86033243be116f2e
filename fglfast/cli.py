"""One function a verb. Each imports its stage inside: `--help` never loads torch."""

import glob
import os
import signal
import warnings
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec

import typer

from fglfast import __version__
from fglfast.console import emit_json, note, stderr, stdout
from fglfast.errors import BadInputError, ExitCode, FglError, UsageError

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
    typer.Option(help="auto, torch, onnxruntime, openvino or tensorrt; overrides the recipe.", show_default=False),
]
DEFAULT_ENGINES = Path("engines/build")


def verb(function: Callable[P, None]) -> Callable[P, None]:
    """Turn errors into one clear line and the right exit code."""

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
            _complain("interrupted", "what is finished is kept; run the same command to go on")
            raise typer.Exit(ExitCode.INTERRUPTED) from None
        except BrokenPipeError:
            raise typer.Exit(ExitCode.FAILURE) from None
        except Exception as error:
            if os.environ.get("FGLFAST_DEBUG"):
                raise
            _complain(
                f"{type(error).__name__}: {error}", "this is a bug in fglfast; FGLFAST_DEBUG=1 shows the traceback"
            )
            raise typer.Exit(ExitCode.FAILURE) from None

    return app.command(name=function.__name__.replace("_", "-"))(run)


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Federated Generative Learning: clients send prompt embeddings once, the server draws a data set and trains."""
    if version:
        stdout.print(__version__)
        raise typer.Exit()


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
    recipe: RecipeName = "mini",
    images_per_class: Annotated[int, typer.Option(min=1, help="Synthetic images of each class.")] = 200,
    arch: Annotated[str, typer.Option(help="Global model.")] = "resnet18-narrow",
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of the global model.")] = 20,
    image_size: Annotated[int, typer.Option(help="Side in pixels that images are resized to for training.")] = 64,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    as_json: AsJson = False,
) -> None:
    """Run one-shot Federated Generative Learning end to end and write an HTML report."""
    from fglfast.oneshot import OneShot, run_one_shot

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
    )
    record, page = run_one_shot(settings, out)
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
    stdout.print(f"report: {page.resolve()}", soft_wrap=True)


@verb
def embed(
    data: Annotated[str, typer.Argument(help="Private images: PATH[:SPLIT] (class folders, parquet, datasets, npz).")],
    out: Annotated[Path, typer.Option(help="The payload file to write.")],
    model: ModelName = "mini",
    prompt_level: Annotated[
        Literal["class", "instance"], typer.Option(help="One prompt a class, or one an image.")
    ] = "class",
    send: Annotated[Literal["embeddings", "tokens"], typer.Option(help="What the payload carries.")] = "embeddings",
    client: Annotated[
        str | None, typer.Option(help="Client name; the file's stem unless given.", show_default=False)
    ] = None,
    template: Annotated[str | None, typer.Option(help="Prompt template with {label}.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Turn private images into prompt text embeddings: the one file a client uploads."""
    from fglfast.client.embed import embed as embed_dataset
    from fglfast.dataset import read_dataset
    from fglfast.payload import save_payload
    from fglfast.text import resolve_model

    payload = embed_dataset(read_dataset(data), client or out.stem, resolve_model(model), prompt_level, send, template)
    size = save_payload(payload, out)
    result = {"file": str(out), "bytes": size, "rows": len(payload.labels), "images": int(payload.counts.sum())}
    _tell(result, as_json, f"{out}: {result['rows']} rows from {result['images']} images, {size:,} bytes")


@verb
def inspect(
    file: Annotated[Path, typer.Argument(help="A payload file.")],
    as_json: AsJson = False,
) -> None:
    """Validate a payload and show what it holds."""
    from rich.table import Table

    from fglfast.payload import load_payload

    payload, size = load_payload(file), file.stat().st_size if file.exists() else 0
    header = payload.header
    kind = "embeddings" if payload.embeddings is not None else "token_ids"
    tensor = payload.embeddings if payload.embeddings is not None else payload.token_ids
    assert tensor is not None
    by_class = {
        name: int(payload.counts[payload.labels == label].sum()) for label, name in enumerate(header.class_names)
    }
    result = {
        "file": str(file),
        "bytes": size,
        "client": header.client,
        "prompt_level": header.prompt_level,
        "text_encoder": header.text_encoder,
        "privacy": header.privacy.model_dump() if header.privacy else None,
        "tensor": kind,
        "shape": list(tensor.shape),
        "images_by_class": by_class,
        "digest": payload.digest(),
    }
    if as_json:
        emit_json(result)
        return
    table = Table(title=f"{file.name}: a valid payload", show_header=False)
    for key, value in result.items():
        shown = ", ".join(f"{k} {v}" for k, v in value.items() if v) if isinstance(value, dict) else str(value)
        table.add_row(key.replace("_", " "), typer.unstyle(shown))
    stdout.print(table, markup=False)


@verb
def build_engine(
    recipe: RecipeName = "mini",
    model: Annotated[str | None, typer.Option(help="Overrides the recipe's model.", show_default=False)] = None,
    backend: BackendOption = None,
    engines: Engines = DEFAULT_ENGINES,
    as_json: AsJson = False,
) -> None:
    """Compile a generator and prove it equal to float32 eager; a second call finds it."""
    engine = _engine(recipe, model, backend, engines)
    parity = engine.manifest.parity
    result = {
        "key": engine.key,
        "folder": str(engine.folder),
        "backend": engine.manifest.key.build.backend,
        "cached": engine.cached,
        "seconds": engine.manifest.seconds,
        "parity": parity.model_dump(mode="json"),
    }
    worst = max(parity.text_encoder, parity.unet, parity.vae_decoder)
    state = "found" if engine.cached else f"built in {engine.manifest.seconds:.0f} s"
    _tell(result, as_json, f"{engine.folder}: {state}, relative error {worst:.1e}, PSNR {parity.psnr:.0f} dB")


@verb
def synthesize(
    embeddings: Annotated[str, typer.Option(help="Payload files; a quoted pattern such as 'clients/*.safetensors'.")],
    out: Annotated[Path, typer.Option(help="Folder of the data set.")],
    images_per_class: Annotated[int, typer.Option(min=1, help="Images of each class.")] = 500,
    recipe: RecipeName = "mini",
    model: Annotated[str | None, typer.Option(help="Overrides the recipe's model.", show_default=False)] = None,
    backend: BackendOption = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Overrides the recipe's steps.", show_default=False)] = None,
    guidance: Annotated[
        float | None, typer.Option(min=0, help="Overrides the recipe's guidance scale.", show_default=False)
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=2, help="Rows of one UNet pass.", show_default=False)] = None,
    seed: Annotated[int, typer.Option(min=0, help="Plan seed.")] = 0,
    shard_size: Annotated[int, typer.Option(min=1, help="Images a tar shard.")] = 512,
    image_format: Annotated[Literal["png", "webp"], typer.Option(help="Encoding of the images.")] = "png",
    format: Annotated[
        Literal["shards", "imagefolder"], typer.Option(help="imagefolder unpacks the shards too.")
    ] = "shards",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print plan, bytes and time, and stop.")] = False,
    engines: Engines = DEFAULT_ENGINES,
    as_json: AsJson = False,
) -> None:
    """Draw a labelled synthetic data set from the clients' payloads; goes on where it was stopped."""
    from fglfast.engine.recipe import Sampling
    from fglfast.payload import load_payload, merge_payloads
    from fglfast.synthesis import synthesize as stage
    from fglfast.synthesis.folder import export_imagefolder

    merged = merge_payloads([load_payload(path) for path in _files(embeddings)])
    engine, defaults = _engine(recipe, model, backend, engines, batch_size), _recipe(recipe).sampling
    settings = stage.SynthesisSettings(
        images_per_class=images_per_class,
        seed=seed,
        shard_size=shard_size,
        image_format=image_format,
        sampling=Sampling(
            steps=defaults.steps if steps is None else steps,
            guidance_scale=defaults.guidance_scale if guidance is None else guidance,
        ),
    )
    if dry_run:
        plan = stage.estimate(engine, merged, settings, out)
        _tell(plan, as_json, "\n".join(f"{key.replace('_', ' ')}: {value}" for key, value in plan.items()))
        return
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    done = stage.synthesize(engine, merged, settings, out, rank, world)
    if format == "imagefolder" and rank == 0:
        shards = stage.plan_synthesis(engine, merged, settings).shards
        note(f"unpacked to {export_imagefolder(out, merged.class_names, shards)}")
    rate = done.images / done.seconds if done.seconds else 0.0
    result = {
        "folder": str(out),
        "images": done.images,
        "found": done.found,
        "seconds": round(done.seconds, 3),
        "images_per_second": round(rate, 2),
        "network_share": round(done.network_share, 4),
        "bytes": done.bytes,
        "engine": engine.key,
    }
    pace = f"{done.seconds:.1f} s ({rate:.1f} images/s), {done.network_share:.0%} of it in UNet and VAE"
    line = f"{out}: {done.images} images in {pace}"
    _tell(result, as_json, line if done.images else f"{out}: all {done.found} images were there already")


@verb
def train(
    data: Annotated[Path, typer.Argument(help="Folder made by synthesize.")],
    out: Annotated[Path, typer.Option(help="Folder of the global model.")],
    arch: Annotated[
        str, typer.Option(help="resnet10-narrow, resnet18-narrow, resnet18, resnet34, resnet50, or a JSON config.")
    ] = "resnet18",
    epochs: Annotated[int, typer.Option(min=1)] = 30,
    batch_size: Annotated[
        int | None, typer.Option(min=2, help="Images a step, over all processes.", show_default=False)
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.", show_default=False)] = None,
    image_size: Annotated[int | None, typer.Option(help="Resize images.", show_default=False)] = None,
    processes: Annotated[int, typer.Option(min=0, help="Processes; 0 takes one a GPU, or one.")] = 0,
    deepspeed: Annotated[Path | None, typer.Option(help="Your DeepSpeed JSON.", show_default=False)] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    as_json: AsJson = False,
) -> None:
    """Train the global model on synthetic images with DeepSpeed; goes on where it was stopped."""
    from fglfast.training.launch import train as launch
    from fglfast.training.settings import TrainSettings

    asked: dict[str, Any] = {
        "arch": arch,
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "image_size": image_size,
        "deepspeed": deepspeed,
        "seed": seed,
    }
    settings = TrainSettings(**{key: value for key, value in asked.items() if value is not None})
    result = launch(data, out, settings, processes or "auto")
    accuracy = "" if result.val_accuracy is None else f", {result.val_accuracy:.1%} on held-out synthetic images"
    line = f"{result.model}: {result.epochs} epochs of {result.images} images in {result.seconds:.0f} s{accuracy}"
    _tell(result.model_dump(mode="json"), as_json, line)


@verb
def evaluate(
    model: Annotated[Path, typer.Argument(help="Folder of a global model.")],
    data: Annotated[str, typer.Argument(help="Real test images: PATH[:SPLIT].")],
    as_json: AsJson = False,
) -> None:
    """Test the global model on real images: accuracy, per class, confusion, calibration."""
    from rich.table import Table

    from fglfast.dataset import read_dataset
    from fglfast.training.evaluate import evaluate as run

    found = run(model, read_dataset(data))
    if as_json:
        emit_json(found.model_dump(mode="json"))
        return
    table = Table("class", "accuracy", "images", title=f"accuracy {found.accuracy:.2%} on {found.n} images")
    for name, entry in found.per_class.items():
        table.add_row(name, "–" if entry.accuracy is None else f"{entry.accuracy:.1%}", str(entry.n))
    stdout.print(table)
    stdout.print(f"expected calibration error {found.ece:.3f}")


@verb
def report(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run, as demo leaves it.")],
    as_json: AsJson = False,
) -> None:
    """Write a run's HTML page anew from its record and images."""
    from fglfast.oneshot import report_run

    page = report_run(run)
    _tell({"report": str(page)}, as_json, f"report: {page.resolve()}")


@verb
def pretrain(
    data: Annotated[str, typer.Option(help="Public images: PATH[:SPLIT].")],
    out: Annotated[Path, typer.Option(help="Folder for checkpoints, sample grids and the model.")],
    vae_steps: Annotated[int, typer.Option(min=1, help="Steps of the VAE, batch 32.")] = 12_000,
    flow_steps: Annotated[int, typer.Option(min=1, help="Steps of text encoder and UNet, batch 64.")] = 10_000,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Where to train.")] = "cpu",
    as_json: AsJson = False,
) -> None:
    """Train a small text-to-image model of your own on public images; goes on where it was stopped."""
    os.environ.setdefault("DS_ACCELERATOR", device)  # diffusers imports DeepSpeed, which else warns that it guesses
    from fglfast.dataset import read_dataset
    from fglfast.generator.pretrain import PretrainSettings
    from fglfast.generator.pretrain import pretrain as run

    settings = PretrainSettings.budget(vae_steps, flow_steps, device)
    model = run(read_dataset(data), out, settings)
    _tell({"model": str(model)}, as_json, f"model: {model}")


def _engine(recipe: str, model: str | None, backend: str | None, engines: Path, batch_size: int | None = None) -> Any:
    from fglfast.engine.backends import NAMES, find_backend
    from fglfast.engine.build import build_engine as build
    from fglfast.text import resolve_model

    settings = _recipe(recipe)
    if backend and backend != "auto":
        find_backend(backend)
    changes = {"model": model, "backend": backend, "unet_batch": batch_size}
    settings = settings.model_copy(update={key: value for key, value in changes.items() if value is not None})
    if settings.backend not in ("auto", *NAMES):
        raise UsageError(f"no backend named {settings.backend!r}", f"choose one of: auto, {', '.join(NAMES)}")
    return build(settings, resolve_model(settings.model, settings.revision, settings.mirror), engines)


def _recipe(name: str) -> Any:
    from fglfast.engine.recipe import find_recipe

    return find_recipe(name)


def _files(pattern: str) -> list[Path]:
    """The files of a pattern, sorted; a plain path counts as one."""
    found = sorted(Path(name) for name in glob.glob(pattern))  # noqa: PTH207 (takes absolute patterns too)
    if not found:
        raise BadInputError(f"no payload file matches {pattern!r}", "make one with fglfast embed; quote the pattern")
    return found


def _tell(result: dict[str, Any], as_json: bool, line: str) -> None:
    if as_json:
        emit_json(result)
    else:
        stdout.print(line, markup=False, soft_wrap=True)


def _complain(message: str, hint: str) -> None:
    stderr.print(f"error: {message}", markup=False, style="red", soft_wrap=True)
    if hint:
        stderr.print(f"  hint: {hint}", markup=False, soft_wrap=True)

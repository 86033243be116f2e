"""One-shot Federated Generative Learning end to end; run twice, it redoes nothing that is there."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from fglfast.base.config import Settings
from fglfast.base.console import note
from fglfast.base.files import claim
from fglfast.base.machine import machine_facts, package_versions
from fglfast.client.embed import embed
from fglfast.engine.build import Engine, build_engine
from fglfast.engine.manifest import device_name
from fglfast.engine.recipe import Recipe, find_recipe
from fglfast.generator.text import taught_by
from fglfast.images.dataset import read_dataset
from fglfast.images.labelled import LabelledImages
from fglfast.images.partition import partition_dirichlet
from fglfast.payload import load_payload, save_payload
from fglfast.payload.merge import Merged, check_prompts, merge_payloads
from fglfast.pipeline.record import (
    ClassAccuracy,
    ClientRecord,
    EngineRecord,
    Epoch,
    Evaluated,
    RunRecord,
    Stage,
)
from fglfast.synthesis.settings import SynthesisSettings
from fglfast.synthesis.synthesize import SynthesisResult, synthesize
from fglfast.training.evaluate import evaluate
from fglfast.training.launch import train
from fglfast.training.settings import TrainResult, TrainSettings


class OneShot(Settings):
    """Settings of a one-shot run."""

    private: str = "fashion:private"
    test: str = "fashion:test"
    clients: int = 5
    beta: float = 0.01
    prompt_level: Literal["class", "instance"] = "class"
    recipe: str = "mini-few"
    images_per_class: int = 300
    arch: str = "resnet18-narrow"
    epochs: int = 20
    image_size: int = 64
    seed: int = 0
    allow_same_prompt: bool = False


class Stages:
    """Wall time of each stage, in order."""

    def __init__(self) -> None:
        self.done: list[Stage] = []

    @contextmanager
    def stage(self, name: str, what: str) -> Iterator[dict[str, int]]:
        """Time a block; it may set `bytes` in the mapping it is given."""
        note(f"[{len(self.done) + 1}] {name}: {what}")
        started, facts = time.monotonic(), {"bytes": 0}
        yield facts
        self.done.append(
            Stage(name=name, seconds=round(time.monotonic() - started, 2), bytes=facts["bytes"], note=what)
        )


def run_one_shot(settings: OneShot, out: Path) -> RunRecord:
    """Partition, embed, build, synthesize, train, evaluate.

    Args:
        settings: the run.
        out: its folder; what is in it already is used if it fits, refused if it belongs to another run.

    Returns:
        The record, also in `out/run.json`.
    """
    claim(out / "demo.json", settings.model_dump(mode="json"), "another run")
    stages, recipe = Stages(), find_recipe(settings.recipe)
    model = recipe.model_folder()
    private, test = read_dataset(settings.private), read_dataset(settings.test)
    with stages.stage("embed", f"{settings.clients} clients, Dirichlet beta {settings.beta:g}") as facts:
        clients = _embed_clients(private, settings, model, out / "clients")
        facts["bytes"] = sum(client.upload_bytes for client in clients)
    merged = merge_payloads(load_payload(_payload_path(out / "clients", client.name)) for client in clients)
    check_prompts(merged, settings.allow_same_prompt, "--allow-same-prompt")
    with stages.stage("engine", f"{recipe.model} on {recipe.backend}") as facts:
        engine = build_engine(recipe, model, out / "engines")
        facts["bytes"] = _folder_bytes(engine.folder)
    with stages.stage("synthesize", f"{settings.images_per_class} images a class") as facts:
        made = _synthesize(engine, merged, settings, recipe, out / "synthetic")
        facts["bytes"] = _folder_bytes(out / "synthetic")
    with stages.stage("train", f"{settings.arch}, {settings.epochs} epochs, DeepSpeed") as facts:
        trained = train(out / "synthetic", out / "model", _train_settings(settings), "auto")
        facts["bytes"] = _model_bytes(trained.model)
    with stages.stage("evaluate", f"{len(test)} real test images"):
        evaluated = _evaluate(trained.model, test)
    record = _record(settings, private, clients, engine, made, trained, evaluated, stages)
    record.save(out / "run.json")
    return record


def _embed_clients(private: LabelledImages, settings: OneShot, model: Path, folder: Path) -> list[ClientRecord]:
    folder.mkdir(exist_ok=True)
    parts = partition_dirichlet(private.labels, settings.clients, settings.beta, settings.seed)
    clients = []
    for number, indices in enumerate(parts):
        name, own = f"client{number:03d}", private.select(indices)
        payload = embed(own, name, model, settings.prompt_level)
        size = save_payload(payload, _payload_path(folder, name))
        images = tuple(int(count) for count in own.counts())
        clients.append(ClientRecord(name=name, images_by_class=images, rows=len(payload.labels), upload_bytes=size))
    return clients


def _synthesize(engine: Engine, merged: Merged, settings: OneShot, recipe: Recipe, out: Path) -> SynthesisResult:
    asked = SynthesisSettings(images_per_class=settings.images_per_class, seed=settings.seed, sampling=recipe.sampling)
    return synthesize(engine, merged, asked, out)


def _train_settings(settings: OneShot) -> TrainSettings:
    return TrainSettings(arch=settings.arch, epochs=settings.epochs, image_size=settings.image_size, seed=settings.seed)


def _evaluate(model: Path, test: LabelledImages) -> Evaluated:
    found = evaluate(model, test)
    return Evaluated(
        accuracy=found.accuracy,
        images=found.n,
        loss=found.loss,
        calibration_error=found.ece,
        per_class=tuple(
            ClassAccuracy(name=name, accuracy=entry.accuracy, images=entry.n) for name, entry in found.per_class.items()
        ),
        confusion=tuple(tuple(row) for row in found.confusion),
    )


def _record(
    settings: OneShot,
    private: LabelledImages,
    clients: list[ClientRecord],
    engine: Engine,
    made: SynthesisResult,
    trained: TrainResult,
    evaluated: Evaluated,
    stages: Stages,
) -> RunRecord:
    parity = engine.manifest.parity
    return RunRecord(
        command="fglfast demo",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=machine_facts(device_name()),
        versions=package_versions(),
        settings=settings.model_dump(mode="json"),
        class_names=private.class_names,
        taught_by=taught_by(engine.model),
        private_source=settings.private,
        test_source=settings.test,
        clients=tuple(clients),
        engine=EngineRecord(
            key=engine.key,
            backend=engine.manifest.key.build.backend,
            cached=engine.cached,
            relative_error=max(parity.text_encoder, parity.unet, parity.vae_decoder),
            psnr=parity.psnr,
        ),
        resumed=bool(made.found),
        images=made.images + made.found,
        redrawn=made.redrawn,
        images_per_second=round(made.images / made.seconds, 2) if made.images else 0.0,
        network_share=round(made.network_share, 4),
        model_arch=settings.arch,
        model_parameters=trained.parameters,
        model_bytes=_model_bytes(trained.model),
        history=tuple(Epoch(**{key: row[key] for key in Epoch.model_fields if key in row}) for row in trained.history),
        evaluation=evaluated,
        stages=tuple(stages.done),
    )


def _payload_path(folder: Path, client: str) -> Path:
    return folder / f"{client}.safetensors"


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _model_bytes(model: Path) -> int:
    return sum(path.stat().st_size for path in model.glob("*.safetensors"))

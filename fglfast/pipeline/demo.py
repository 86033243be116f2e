"""A demonstration of one-shot Federated Generative Learning on simulated clients, from private images to a record."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from fglfast.base.files import check_claim, claim
from fglfast.base.machine import machine_facts, package_versions
from fglfast.client.embed import embed
from fglfast.engine.recipe import find_recipe
from fglfast.generator.parts import name_of
from fglfast.generator.text import taught_by
from fglfast.images.dataset import read_dataset
from fglfast.images.labelled import LabelledImages
from fglfast.images.partition import partition_dirichlet
from fglfast.payload import load_payload, save_payload
from fglfast.payload.merge import check_prompts, merge_payloads
from fglfast.pipeline.record import ClientRecord, EngineRecord, Epoch, RunRecord
from fglfast.pipeline.settings import Demo
from fglfast.pipeline.sources import claim_sources
from fglfast.pipeline.stages import Stages
from fglfast.training.results import Evaluation

if TYPE_CHECKING:
    from fglfast.pipeline.one_shot import Shot

CLAIM = "demo.json"  # whose the folder is


def run_demo(asked: Demo, out: Path) -> RunRecord:
    """Partition, embed, build, synthesize, train, evaluate; the record is `out/run.json` too.

    What is in the folder already is used if it fits, and refused if it belongs to another run.
    """
    claimed = out / CLAIM, asked.model_dump(mode="json"), "another run"
    check_claim(*claimed)
    stages, model = Stages(out), find_recipe(asked.recipe).model_folder()
    private, test = read_dataset(asked.private), read_dataset(asked.test)
    claim(*claimed)  # now that all of it can be read: a slip of the pen claims nothing
    claim_sources(out, asked.recipe, private=private, test=test)
    clients = stages.run(
        "embed",
        f"{asked.clients} clients, Dirichlet beta {asked.beta:g}",
        lambda: _embed_clients(private, asked, model, out / "clients"),
        lambda made: sum(client.upload_bytes for client in made),
    )
    merged = merge_payloads(load_payload(out / "clients" / f"{client.name}.safetensors") for client in clients)
    check_prompts(merged, asked.allow_same_prompt, "--allow-same-prompt")
    from fglfast.pipeline.one_shot import one_shot  # with PyTorch and diffusers, which the clients need not wait for
    from fglfast.training.evaluate import evaluate

    shot = one_shot(merged, asked, asked.seed, out, out / "engines", stages)
    evaluated = stages.run("evaluate", f"{len(test)} real test images", lambda: evaluate(shot.trained.model, test))
    record = _record(asked, private, clients, shot, evaluated, stages)
    record.save(out / "run.json")
    return record


def _embed_clients(private: LabelledImages, asked: Demo, model: Path, folder: Path) -> list[ClientRecord]:
    folder.mkdir(exist_ok=True)
    parts = partition_dirichlet(private.labels, asked.clients, asked.beta, asked.seed)
    clients = []
    for number, indices in enumerate(parts):
        name, own = f"client{number:03d}", private.select(indices)
        payload = embed(own, name, model, asked.prompt_level)
        size = save_payload(payload, folder / f"{name}.safetensors")
        images = tuple(int(count) for count in own.counts())
        clients.append(ClientRecord(name=name, images_by_class=images, rows=len(payload.labels), upload_bytes=size))
    return clients


def _record(
    asked: Demo,
    private: LabelledImages,
    clients: list[ClientRecord],
    shot: "Shot",
    evaluated: Evaluation,
    stages: Stages,
) -> RunRecord:
    from fglfast.engine.manifest import device_name
    from fglfast.pipeline.one_shot import weights_bytes

    parity, made, trained = shot.engine.manifest.parity, shot.made, shot.trained
    build = shot.engine.build
    return RunRecord(
        command="fglfast demo",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=machine_facts(device_name()),
        versions=package_versions(),
        settings=asked.model_dump(mode="json"),
        class_names=private.class_names,
        generator=name_of(shot.engine.model),
        taught_by=taught_by(shot.engine.model),
        private_source=asked.private,
        test_source=asked.test,
        clients=tuple(clients),
        engine=EngineRecord(
            key=shot.engine.key,
            backend=build.backend,
            precision=build.precision,
            cached=shot.engine.cached,
            relative_error=max(parity.text_encoder, parity.unet, parity.vae_decoder),
            psnr=parity.psnr,
        ),
        resumed=bool(made.found),
        images=made.images + made.found,
        redrawn=made.redrawn,
        images_per_second=round(made.images / made.seconds, 2) if made.images else 0.0,
        network_share=round(made.network_share, 4),
        model_arch=asked.train.arch,
        model_parameters=trained.parameters,
        model_bytes=weights_bytes(trained.model),
        history=tuple(Epoch(**{key: row[key] for key in Epoch.model_fields if key in row}) for row in trained.history),
        evaluation=evaluated,
        stages=tuple(stages.done),
    )

"""A million images from a hundred clients: what planning, resuming and bookkeeping cost beside the generator."""

import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.results_file import save_result
from fglfast.payload import Payload, PayloadHeader, load_payload, save_payload
from fglfast.payload.merge import merge_payloads
from fglfast.shards.tar import shard_name
from fglfast.synthesis.plan import Item, make_plan

TEXT = (77, 768)  # Stable Diffusion 1.5's text embedding


def main(
    clients: int = 100,
    classes: int = 1000,
    held: Annotated[int, typer.Option(help="Classes a client holds.")] = 200,
    images_per_class: int = 1000,
    tokens: int = TEXT[0],
    width: int = TEXT[1],
) -> None:
    """Write the clients' payloads, then load, merge, plan, resume and keep books."""
    with tempfile.TemporaryDirectory() as folder:
        _write_payloads(Path(folder), clients, classes, held, (tokens, width))
        before = _peak_mib()
        started = time.perf_counter()
        merged = merge_payloads(load_payload(path) for path in sorted(Path(folder).glob("*.safetensors")))
        loaded = time.perf_counter()
        plan = make_plan(merged, images_per_class, 0, 512, {})
        plan.digest()
        planned = time.perf_counter()
        for number in range(0, plan.shards, 2):
            (Path(folder) / shard_name(number)).touch()
        touched = time.perf_counter()
        remaining = plan.remaining(Path(folder))
        resumed = time.perf_counter()
        kept = [json.dumps(_facts(item)) for number in remaining[:40] for item in plan.shard(number)]
        booked = time.perf_counter()
        measured = {
            "images": plan.images,
            "rows": len(merged.labels),
            "payload_bytes": sum(path.stat().st_size for path in Path(folder).glob("*.safetensors")),
            "load_and_merge_seconds": round(loaded - started, 2),
            "plan_seconds": round(planned - loaded, 3),
            "resume_seconds": round(resumed - touched, 3),
            "bookkeeping_microseconds_per_image": round(1e6 * (booked - resumed) / len(kept), 2),
            "peak_mib": _peak_mib(),
            "peak_mib_before": before,
        }
    typer.echo(json.dumps(measured))
    save_result(
        "scale", {"clients": clients, "classes": classes, "classes_a_client": held, "text": [tokens, width], **measured}
    )


def _write_payloads(folder: Path, clients: int, classes: int, held: int, text: tuple[int, int]) -> None:
    """Class-level payloads: clients that hold the same class send the same embedding."""
    names = tuple(f"class {label}" for label in range(classes))
    draw = np.random.default_rng(0)
    for client in range(clients):
        labels = np.sort(draw.choice(classes, held, replace=False)).astype(np.int64)
        rows = [np.random.default_rng(label).standard_normal(text, dtype=np.float32) for label in labels]
        header = PayloadHeader(client=f"{client:04d}", class_names=names, prompt_level="class", text_encoder="0" * 64)
        payload = Payload(header, np.stack(rows).astype(np.float16), None, labels, draw.integers(1, 500, held))
        save_payload(payload, folder / f"{client:04d}.safetensors")


def _facts(item: Item) -> dict[str, object]:
    return {"class": item.label, "row": item.digest, "ordinal": item.ordinal}


def _peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    typer.run(main)

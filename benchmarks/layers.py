"""Where a UNet pass spends its time: by kind of layer and kernel, as OpenVINO itself counts it."""

from collections import defaultdict
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.engines import BATCH, Case, generator
from benchmarks.results_file import save_result
from fglfast.engine.backends.ov import blob_of, properties
from fglfast.engine.build import build_engine
from fglfast.engine.exported import UNET
from fglfast.lab.bench.measure import contenders

ROUNDS = 5
# What multiplies; the rest reads and writes memory.
PRODUCTS = ("Convolution", "FullyConnected", "FullyConnectedQuantizedLegacy", "MatMul", "ScaledDotProductAttention")


def main(
    case: Annotated[Case, typer.Argument()] = Case.UNET_35M,
    precisions: Annotated[str, typer.Option(help="Of OpenVINO's engines, with commas.")] = "float32,bfloat16,int8",
    engines: Path = Path("engines/build"),
) -> None:
    """Run each engine's UNet with its own counters on one core, and save what each kind of layer took."""
    recipe, model = generator(case, engines)
    rows = []
    names = [f"openvino:{precision}" for precision in precisions.split(",")]
    for precision, contender in zip(precisions.split(","), contenders(recipe, names, BATCH[case]), strict=True):
        folder = build_engine(contender, model, engines).folder
        taken = layers(folder / blob_of(UNET), precision)
        whole = sum(taken.values())
        rows.append(
            {
                "precision": precision,
                "milliseconds": round(whole, 2),
                "products": round(sum(each for name, each in taken.items() if multiplies(name)) / whole, 4),
                "layers": {name: round(each / whole, 4) for name, each in taken.items() if each / whole >= 0.01},
            }
        )
        typer.echo(rows[-1])
    save_result(f"layers-{case.value}", {"case": case.value, "rows": rows})


def multiplies(name: str) -> bool:
    """Whether a kind of layer, by "Kind, kernel", is arithmetic rather than reading and writing of memory."""
    return name.partition(",")[0] in PRODUCTS


def layers(blob: Path, precision: str) -> dict[str, float]:
    """Milliseconds of each kind of layer, by "Kind, kernel", the longest first: of the fastest of some passes."""
    import numpy as np
    import openvino

    counted = properties(UNET, precision, ranks=1) | {"PERF_COUNT": True, "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": 1}
    compiled: Any = openvino.Core().import_model(BytesIO(blob.read_bytes()), "CPU", counted)
    numbers = np.random.default_rng(0)
    inputs = [numbers.standard_normal(tuple(one.shape)).astype(np.float32) for one in compiled.inputs]
    request: Any = compiled.create_infer_request()
    fastest: dict[str, float] = {}
    for _ in range(ROUNDS):
        request.infer(dict(enumerate(inputs)))
        taken: dict[str, float] = defaultdict(float)
        for layer in request.get_profiling_info():
            taken[f"{layer.node_type}, {layer.exec_type}"] += 1000 * layer.real_time.total_seconds()
        if not fastest or sum(taken.values()) < sum(fastest.values()):
            fastest = dict(taken)
    return dict(sorted(fastest.items(), key=lambda pair: -pair[1]))


if __name__ == "__main__":
    typer.run(main)

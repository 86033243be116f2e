"""What a client costs that has nothing of a server: bytes installed, seconds to start and for its images."""

import json
import subprocess
import tempfile
import venv
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image

from benchmarks.results_file import save_result
from fglfast.base.timing import interleaved

ROOT = Path(__file__).parent.parent
CLASSES = 10
# Files of each distribution as it was installed; bytecode is what Python makes of them, here or when they first run.
SIZES = """
import json
from importlib.metadata import distributions
found = {}
for each in distributions():
    files = [(str(file).endswith(".pyc"), each.locate_file(file)) for file in each.files or ()]
    sizes = [(made, path.stat().st_size) for made, path in files if path.is_file()]
    found[each.name.lower()] = [sum(size for made, size in sizes if made == kind) for kind in (False, True)]
print(json.dumps(found))
"""


def main(
    images: Annotated[int, typer.Option(help="Images of the embedded data set.")] = 1000,
    side: Annotated[int, typer.Option(help="Their side in pixels; JPEG.")] = 256,
    rounds: int = 5,
    size_only: Annotated[bool, typer.Option("--size-only", help="Measure no seconds: the machine is busy.")] = False,
) -> None:
    """Install the package without extras into a fresh environment, and measure it there."""
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        python = _environment(home / "environment")
        before = _sizes(python)
        subprocess.run([python, "-m", "pip", "install", "--quiet", str(ROOT)], check=True)
        measured = sizes(before, _sizes(python))
        if not size_only:
            _write_images(home / "photos", images, side)
            measured |= {"images": images, "side": side, "rounds": rounds, "seconds": _seconds(python, home, rounds)}
    typer.echo(json.dumps(measured))
    save_result("client", measured)


def sizes(before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]]) -> dict[str, Any]:
    """Bytes that an installation brought: of its files, of the bytecode made of them, and of each distribution."""
    brought = {name: size for name, size in after.items() if name not in before}
    files, bytecode = (sum(size[kind] for size in brought.values()) for kind in (0, 1))
    largest = sorted(brought, key=lambda name: -brought[name][0])
    return {
        "distributions": len(brought),
        "bytes": files,
        "bytecode_bytes": bytecode,
        "bytes_by_distribution": {name: brought[name][0] for name in largest},
    }


def _environment(folder: Path) -> Path:
    venv.create(folder, with_pip=True)
    return next(path for path in (folder / "bin" / "python", folder / "Scripts" / "python.exe") if path.exists())


def _sizes(python: Path) -> dict[str, tuple[int, int]]:
    said = subprocess.run([python, "-I", "-c", SIZES], capture_output=True, text=True, check=True).stdout
    return {name: (files, bytecode) for name, (files, bytecode) in json.loads(said).items()}


def _write_images(folder: Path, images: int, side: int) -> None:
    draw = np.random.default_rng(0)
    for number in range(images):
        place = folder / f"class {number % CLASSES}"
        place.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(draw.integers(0, 256, (side // 16, side // 16, 3), dtype=np.uint8))
        coarse.resize((side, side), Image.Resampling.BICUBIC).save(place / f"{number}.jpg")


def _seconds(python: Path, home: Path, rounds: int) -> dict[str, float]:
    """Median seconds of each command."""
    fglfast, out = [str(python), "-I", "-m", "fglfast"], str(home / "ann.safetensors")
    commands = {
        "version": [*fglfast, "--version"],
        "embed": [*fglfast, "embed", str(home / "photos"), "--send", "tokens", "--out", out],
        "inspect": [*fglfast, "inspect", out, "--json"],
    }
    run = partial(subprocess.run, check=True, capture_output=True, cwd=home)
    timings = interleaved({name: partial(run, command) for name, command in commands.items()}, rounds)
    return {name: round(timing.seconds, 3) for name, timing in timings.items()}


if __name__ == "__main__":
    typer.run(main)

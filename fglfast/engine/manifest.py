"""The key of an engine and the manifest beside it.

The checksums find damage, not malice: who can write an engine's folder can write its manifest. Opening an engine runs
its runtime's parsers and what was compiled, so a folder of engines must be one's own.
"""

import hashlib
import json
from pathlib import Path

import torch

from fglfast.base.config import Settings, checked_json
from fglfast.base.errors import BadInputError
from fglfast.base.files import file_digest
from fglfast.base.machine import cores, processor_name
from fglfast.base.untrusted import read_bytes
from fglfast.base.wording import many
from fglfast.engine.parity import CAPS, Parity, allowances
from fglfast.engine.recipe import Build
from fglfast.generator.shapes import Shapes

FILE = "manifest.json"
FORMAT_VERSION = 4
MAX_BYTES, MAX_FILES = 1 << 20, 5000
DRIVER = Path("/sys/module/nvidia/version")  # CUDA tells the API version only


class Key(Settings):
    """Everything that, if changed, makes another engine."""

    format_version: int = FORMAT_VERSION
    weights: str
    build: Build
    versions: dict[str, str]
    device: str

    def digest(self) -> str:
        """The engine's name: the first 16 hex digits of the key's sha256."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


class Manifest(Settings):
    """What is written beside a finished engine.

    Attributes:
        key: what the engine was built from.
        model: the model folder it came from, for people.
        shapes: sizes of its latents and text.
        parity: what the gate measured, and what it allowed.
        reference: who sampled what it measured against: a pipeline of diffusers, or fglfast's own sampler in PyTorch.
        fusions: fused operators of each network's graph, where the backend has a graph to count them in.
        files: sha256 of every other file in the engine's folder.
        seconds: what export, compilation and the gate took.
    """

    key: Key
    model: str
    shapes: Shapes
    parity: Parity
    reference: str
    fusions: dict[str, dict[str, int]]
    files: dict[str, str]
    seconds: float


def read_manifest(engine: Path) -> Manifest:
    """Read and check the manifest of an engine's folder.

    Raises:
        BadInputError: missing, too large, malformed, its key is not the folder's name, or its own figures are out of
            the gate's bounds.
    """
    path = engine / FILE
    try:
        manifest = checked_json(Manifest, read_bytes(path, MAX_BYTES), MAX_FILES, strict=True)
    except OSError as error:
        raise BadInputError(
            f"{engine}: not an engine ({error.strerror})", "build it with fglfast build-engine"
        ) from error
    except ValueError as error:
        raise BadInputError(f"{path}: {error}", "delete the engine's folder and build it again") from error
    if manifest.key.digest() != engine.name:
        raise BadInputError(f"{path}: its key {manifest.key.digest()} is not the folder's name", "build it again")
    precision, parity = manifest.key.build.precision, manifest.parity
    same_gate = precision in CAPS and parity.allowed == allowances(parity.eager, precision)
    if problem := parity.problem() if same_gate else "it passed another gate":
        raise BadInputError(f"{path}: {problem}", "build it again")
    return manifest


def check_files(engine: Path, manifest: Manifest) -> None:
    """Compare every file with the manifest.

    Raises:
        BadInputError: a file is missing, added or changed, or a link.
    """
    for path in engine.rglob("*"):
        if path.is_symlink():
            raise BadInputError(f"{path}: a link, where an engine has files", "build it again")
    found = file_hashes(engine)
    for name in sorted(found.keys() | manifest.files.keys()):
        if found.get(name) != manifest.files.get(name):
            raise BadInputError(f"{engine / name}: missing or changed since the engine was built", "build it again")


def file_hashes(engine: Path) -> dict[str, str]:
    """sha256 of every file below an engine's folder but the manifest, by relative name."""
    hashes = {}
    for path in sorted(engine.rglob("*")):
        if path.is_file() and path.name != FILE:
            hashes[path.relative_to(engine).as_posix()] = file_digest(path)
    return hashes


def device_name() -> str:
    """What the engine is compiled for: the GPU and its driver, or the processor and the cores this process may use."""
    if torch.cuda.is_available():
        capability = ".".join(map(str, torch.cuda.get_device_capability()))
        driver = DRIVER.read_text().strip() if DRIVER.exists() else "unknown"
        return f"{torch.cuda.get_device_name()}, compute capability {capability}, driver {driver}"
    return f"{processor_name()}, {many(cores(), 'core')}"

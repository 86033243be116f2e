"""Where a model's exported networks lie, beside the engines that they are compiled to; each is made once."""

from pathlib import Path

from fglfast.base.console import note
from fglfast.base.files import exclusive, fill_once, lock_of
from fglfast.engine import backends
from fglfast.engine.export import export
from fglfast.engine.exported import Route
from fglfast.engine.manifest import Key
from fglfast.engine.quantize import save_calibration
from fglfast.engine.recipe import Build
from fglfast.engine.trajectory import Reference
from fglfast.generator.parts import name_of


def export_folder(key: Key, engines: Path) -> Path:
    """Where a model's exported networks lie: named by that of the key which they depend on."""
    own = ("openvino",) if key.versions.get("export") == str(Route(openvino=True)) else ("onnx", "onnxscript")
    depends = ("torch", "diffusers", "transformers", *own, "export")
    versions = {name: key.versions[name] for name in depends if name in key.versions}
    size = key.build.image_size
    plain = Build(backend="export", precision="float32", image_size=size, unet_batch=0, vae_batch=0)
    return engines / f"exported-{Key(weights=key.weights, build=plain, versions=versions, device='any').digest()}"


def export_for(key: Key, reference: Reference, folder: Path) -> None:
    """What an engine of some key is compiled from: networks, and for eight bits what they are calibrated on."""
    export_once(reference, backends.find_backend(key.build.backend).route(key.build.precision), folder)
    if key.build.precision == "int8":
        with exclusive(lock_of(folder)):
            save_calibration(reference, folder)


def export_once(reference: Reference, route: Route, folder: Path) -> None:
    """Export a model's networks into a folder, unless they are there; of several processes one does it, others wait."""

    def make(unfinished: Path) -> None:
        note(f"exporting {name_of(reference.model)}: {route}")
        export(reference.generator(), reference.shapes, unfinished, route)

    fill_once(folder, make)

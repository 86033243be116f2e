"""Hostile engine manifests and recipes. What is accepted is held against the text, and against sha256 of the files."""

import hashlib
import json
import random
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.hostile.case import BAD_NAMES, ODD, Case, Expected, damaged, edited, plain_json, respelled, same
from fglfast.engine.manifest import FORMAT_VERSION, Manifest, check_files, read_manifest
from fglfast.engine.recipe import Recipe

NETWORKS = ("text_encoder.blob", "unet.blob")


class Manifests:
    """An engine's folder: two files and a manifest."""

    def __init__(self) -> None:
        blobs = {name: bytes([number]) * 300 for number, name in enumerate(NETWORKS)}
        bounds = {"relative_error": 2e-3, "psnr": 45.0}
        parity = {"text_encoder": 1e-6, "text_projection": 1e-6, "unet": 1e-5, "vae_decoder": 1e-5, "psnr": 90.0}
        build = {"backend": "openvino", "precision": "float32", "image_size": 32, "unet_batch": 8, "vae_batch": 4}
        versions = {"openvino": "2026.0", "torch": "2.8"}
        self.manifest: dict[str, Any] = {
            "key": {
                "format_version": FORMAT_VERSION,
                "weights": "ab" * 32,
                "build": build,
                "versions": versions,
                "device": "a cpu",
            },
            "model": "mini",
            "parity": {**parity, "bounds": bounds},
            "reference": "StableDiffusionPipeline",
            "fusions": {"unet.onnx": {"Attention": 4}},
            "files": {name: hashlib.sha256(content).hexdigest() for name, content in blobs.items()},
            "seconds": 1.5,
        }
        self.name = _key_digest(self.manifest["key"])
        self.blobs = {f"{self.name}/{name}": content for name, content in blobs.items()}
        self.files = self.blobs | {f"{self.name}/manifest.json": json.dumps(self.manifest, indent=2).encode()}

    def case(self, draw: random.Random) -> Case:
        """Another manifest, or other files."""
        what = draw.choice(("damage", "edit", "edit", "field", "field", "files", "listed", "spelling", "text"))
        text = self.files[f"{self.name}/manifest.json"]
        expected: Expected = "either"
        if what == "damage":
            _, text = damaged(draw, text, b"\xff\x00{}[]" * 50)
        elif what == "edit":
            text = json.dumps(edited(draw, self.manifest)[1]).encode()
        elif what == "spelling":
            text, expected = respelled(draw, self.manifest).encode(), "accepted"
        elif what == "text":
            text, expected = draw.choice(_texts(text)), "refused"
        elif what in ("field", "listed"):
            changed = json.loads(text)
            what, expected = (_fields if what == "field" else _listed)(draw, changed)
            text = json.dumps(changed).encode()
        else:
            return self._files(draw)
        return Case(what, self.blobs | {f"{self.name}/manifest.json": text}, expected)

    def read(self, folder: Path) -> Manifest:
        """By the program."""
        manifest = read_manifest(folder / self.name)
        check_files(folder / self.name, manifest)
        return manifest

    def lie(self, case: Case, folder: Path, accepted: Manifest) -> str:
        """By the text and the files."""
        said, twice = plain_json((folder / self.name / "manifest.json").read_bytes())
        told = accepted.model_dump(mode="json")
        said["key"].setdefault("format_version", FORMAT_VERSION)
        if twice or not same(told, said):
            return "the manifest says otherwise"
        there = {path.name: path for path in (folder / self.name).rglob("*") if path.name != "manifest.json"}
        hashes = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in there.items()}
        if any(path.is_symlink() for path in there.values()) or hashes != said["files"]:
            return "files that it does not list"
        parity = said["parity"]
        worst = max(parity[name] for name in ("text_encoder", "text_projection", "unet", "vae_decoder"))
        if not (worst <= 2e-3 and parity["psnr"] >= 45.0):
            return "figures out of bounds"
        return "" if _key_digest(said["key"]) == self.name else "another key"

    def _files(self, draw: random.Random) -> Case:
        files: dict[str, bytes | None] = dict(self.files)
        name = f"{self.name}/{draw.choice(NETWORKS)}"
        how = draw.choice(("changed", "gone", "more", "linked", "linked folder"))
        links = {}
        if how == "changed":
            files[name] = damaged(draw, self.blobs[name], b"x" * 300)[1]
        elif how == "gone":
            files[name] = None
        elif how == "more":
            files[f"{self.name}/{draw.choice(('extra.blob', 'deep/unet.blob'))}"] = b"x"
        elif how == "linked":
            files[name], links = None, {name: draw.choice(("/etc/passwd", "/dev/zero", "../other"))}
        else:
            links = {f"{self.name}/deep": "/etc"}
        return Case(f"files: {how}", files, "accepted" if files == self.files and not links else "refused", links)


def _texts(text: bytes) -> tuple[bytes, ...]:
    return (
        text[:-1] + b', "model": "again"}',
        b"[" * 100_000,
        b'{"files": {' + b",".join(b'"%d": "x"' % number for number in range(20_000)) + b"}}",
        b'{"files": [' + b"[]," * 200_000 + b"1]}",
        b"{" + b" " * (2 << 20) + b"}",
        text.replace(b"1.5", b"NaN"),
        text.replace(b"90.0", b"Infinity"),
        text.replace(b"1.5", b"1e999999"),
        text.decode().encode("utf-16"),
        b"",
    )


def _fields(draw: random.Random, manifest: dict[str, Any]) -> tuple[str, Expected]:
    """A value that breaks a rule."""
    how = draw.choice(("key", "parity", "bounds", "type"))
    if how == "key":
        part = draw.choice(("weights", "device", "format_version"))
        manifest["key"][part] = draw.choice([value for value in ODD if value != manifest["key"][part]])
    elif how == "parity":
        manifest["parity"][draw.choice(("unet", "vae_decoder", "text_encoder"))] = draw.choice((0.1, 1e30, None, "0"))
    elif how == "bounds":
        manifest["parity"]["bounds"] = {"relative_error": 1e9, "psnr": -1e9}
    else:
        part = draw.choice(("model", "fusions", "files", "seconds", "parity", "key"))
        manifest[part] = draw.choice(
            [value for value in ODD if not isinstance(value, _TYPES[part]) or isinstance(value, bool)]
        )
    return f"field: {how}", "refused"


_TYPES: dict[str, Any] = {
    **{"model": str, "fusions": dict, "files": dict, "seconds": (int, float), "parity": dict, "key": dict}
}


def _listed(draw: random.Random, manifest: dict[str, Any]) -> tuple[str, Expected]:
    """Other names and sums in the list of files."""
    name = draw.choice(NETWORKS)
    total = manifest["files"].pop(name)
    if draw.random() < 0.5:
        manifest["files"][draw.choice(("../" + name, "/" + name, "./" + name, name + "\0", *BAD_NAMES))] = total
    elif draw.random() < 0.5:
        manifest["files"][name] = draw.choice((total.upper(), total[:-1], "", "0" * 64))
    return "listed", "refused"


def _key_digest(key: dict[str, Any]) -> str:
    """As the README of an engine would tell it: sha256 of the key's JSON, keys sorted, no spaces."""
    text = json.dumps({"format_version": FORMAT_VERSION, **key}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


RECIPE = """model = "mini"
backend = "openvino"
precision = "float32"
image_size = 32
unet_batch = 8
vae_batch = 4

[sampling]
steps = 4
scheduler = "flow-euler"
timesteps = [1000.0, 750.0, 500.0, 250.0]
guidance_scale = 1.5
guidance_interval = [0.0, 1.0]
"""
VALUES = (
    *(
        "-1",
        "0",
        "1",
        "7",
        "4096",
        "5000",
        "1e3",
        "nan",
        "inf",
        "true",
        '"x"',
        '"\\u001b[2J"',
        "[]",
        "[[]]",
        "{}",
        "0x10",
    ),
    *(
        "1979-05-27",
        "1_000",
        "9" * 5000,
        '"' + "x" * 5000 + '"',
        "[" * 3000,
        "{a = 1}",
        "[0.0, 2.0]",
        "[1.0, 0.0, nan]",
    ),
)
KNOWN = {
    "model",
    "revision",
    "mirror",
    "family",
    "backend",
    "precision",
    "image_size",
    "unet_batch",
    "vae_batch",
    "sampling",
}
KNOWN_SAMPLING = {"steps", "scheduler", "spacing", "timesteps", "guidance_scale", "guidance_interval"}


class Recipes:
    """A recipe."""

    def __init__(self) -> None:
        self.files = {"r.toml": RECIPE.encode()}

    def case(self, draw: random.Random) -> Case:
        """Damaged bytes, another value, another line, or much of something."""
        lines = RECIPE.splitlines()
        what = draw.choice(("damage", "value", "value", "line", "much", "unknown"))
        expected: Expected = "either"
        if what == "damage":
            return Case(what, {"r.toml": damaged(draw, self.files["r.toml"], b"[a]\nb.c.d = 1\n" * 9)[1]})
        if what == "value":
            place = draw.choice([number for number, line in enumerate(lines) if "=" in line])
            lines[place] = f"{lines[place].split('=')[0]}= {draw.choice(VALUES)}"
        elif what == "line":
            lines.insert(
                draw.randrange(len(lines)), draw.choice((*lines, "[sampling]", "[[sampling]]", "=", "[", "a.b.c = 1"))
            )
        elif what == "unknown":
            lines.insert(draw.choice((0, len(lines))), f"{draw.choice(('more', 'Model', '__class__', 'steps2'))} = 1")
            expected = "refused"
        else:
            lines, expected = [draw.choice(_MUCH)()], "refused"
        return Case(what, {"r.toml": "\n".join(lines).encode()}, expected)

    def read(self, folder: Path) -> Recipe:
        """By the program."""
        return Recipe.from_toml(folder / "r.toml")

    def lie(self, case: Case, folder: Path, accepted: Recipe) -> str:
        """By the text, and by writing it again."""
        said = tomllib.loads((folder / "r.toml").read_text(encoding="utf-8"))
        sampling = said.get("sampling", {})
        if said.keys() - KNOWN or sampling.keys() - KNOWN_SAMPLING:
            return "an unknown key"
        if any(
            getattr(accepted, key) != said[key] for key in said.keys() & {"model", "backend", "precision", "image_size"}
        ):
            return "it says otherwise"
        steps, timesteps = accepted.sampling.steps, accepted.sampling.timesteps
        low, high = accepted.sampling.guidance_interval
        sizes = (
            8 <= accepted.image_size <= 4096 and 2 <= accepted.unet_batch <= 4096 and 1 <= accepted.vae_batch <= 4096
        )
        guided = 0 <= accepted.sampling.guidance_scale <= 50 and 0 <= low <= 1 and 0 <= high <= 1
        placed = timesteps is None or (len(timesteps) == steps and sorted(timesteps, reverse=True) == list(timesteps))
        if not (sizes and guided and placed and 1 <= steps <= 1000):
            return "a value out of range"
        (folder / "again.toml").write_text(accepted.to_toml())
        return "" if Recipe.from_toml(folder / "again.toml") == accepted else "it changes when written again"


_MUCH: tuple[Callable[[], str], ...] = (
    lambda: "a" + ".a" * 25_000 + " = 1",
    lambda: "a = " + "[" * 30_000,
    lambda: "\n".join(f"k{number} = 1" for number in range(6000)),
    lambda: "#" * (1 << 20),
    lambda: "\n".join("a." * 300 + f"b{number} = 1" for number in range(90)),
    lambda: "\n".join(f"[a{number}]" for number in range(7000)),
)

FACTS: dict[str, Callable[[], Any]] = {"manifest": Manifests, "recipe": Recipes}

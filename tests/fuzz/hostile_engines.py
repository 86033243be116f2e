"""Hostile engine manifests and recipes. What is accepted is held against the text, and against sha256 of the files."""

import hashlib
import json
import tomllib
from pathlib import Path
from typing import Any

from hostile import BAD_NAMES, ODD, Case, Draw, Expected, damaged, edited, one, plain_json, respelled, same
from hypothesis import strategies as st

from fglfast.engine.manifest import FORMAT_VERSION, Manifest, check_files, read_manifest
from fglfast.engine.recipe import Recipe

NETWORKS = ("text_encoder.blob", "unet.blob")
BLOBS = {name: bytes([number]) * 300 for number, name in enumerate(NETWORKS)}
ERRORS = ("text_encoder", "text_projection", "unet", "vae_decoder")
MANIFEST: dict[str, Any] = {
    "key": {
        "format_version": FORMAT_VERSION,
        "weights": "ab" * 32,
        "build": {"backend": "openvino", "precision": "float32", "image_size": 32, "unet_batch": 8, "vae_batch": 4},
        "versions": {"openvino": "2026.0", "torch": "2.8"},
        "device": "a cpu",
    },
    "model": "mini",
    "shapes": {"latent": [4, 8, 8], "tokens": 16, "text_length": 16, "text_width": 64, "projected_width": 512},
    "parity": {
        **dict.fromkeys(ERRORS, 1e-6),
        "psnr": 90.0,
        "eager": dict.fromkeys(ERRORS, 0.0),
        "allowed": dict.fromkeys(ERRORS, 2e-3),
    },
    "reference": "StableDiffusionPipeline",
    "fusions": {"unet.onnx": {"Attention": 4}},
    "files": {name: hashlib.sha256(content).hexdigest() for name, content in BLOBS.items()},
    "seconds": 1.5,
}
TYPES: dict[str, Any] = {
    **{"model": str, "shapes": dict, "fusions": dict, "files": dict, "seconds": (int, float), "parity": dict},
    "key": dict,
}


def _key_digest(key: dict[str, Any]) -> str:
    """As the README of an engine would tell it: sha256 of the key's JSON, keys sorted, no spaces."""
    text = json.dumps({"format_version": FORMAT_VERSION, **key}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


FOLDER = _key_digest(MANIFEST["key"])
TEXT = f"{FOLDER}/manifest.json"
FILES = {f"{FOLDER}/{name}": content for name, content in BLOBS.items()} | {
    TEXT: json.dumps(MANIFEST, indent=2).encode()
}


class Manifests:
    """An engine's folder: two files and a manifest."""

    def __init__(self) -> None:
        self.files = FILES

    def cases(self) -> st.SearchStrategy[Case]:
        """Another manifest, or other files."""
        damage = damaged(FILES[TEXT], b"\xff\x00{}[]" * 50).map(lambda made: _manifest("damage", made[1]))
        edit = edited(MANIFEST).map(lambda made: _manifest("edit", json.dumps(made).encode()))
        spelling = respelled(MANIFEST).map(lambda made: _manifest("spelling", made.encode(), "accepted"))
        text = one(TEXTS).map(lambda made: _manifest("text", made, "refused"))
        return damage | edit | edit | _fields() | _fields() | _listed() | _files() | spelling | text

    def read(self, folder: Path) -> Manifest:
        """By the program."""
        manifest = read_manifest(folder / FOLDER)
        check_files(folder / FOLDER, manifest)
        return manifest

    def lie(self, folder: Path, accepted: Manifest) -> str:
        """By the text and the files."""
        said, twice = plain_json((folder / TEXT).read_bytes())
        told = accepted.model_dump(mode="json")
        said["key"].setdefault("format_version", FORMAT_VERSION)
        if twice or not same(told, said):
            return "the manifest says otherwise"
        there = {path.name: path for path in (folder / FOLDER).rglob("*") if path.name != "manifest.json"}
        hashes = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in there.items()}
        if any(path.is_symlink() for path in there.values()) or hashes != said["files"]:
            return "files that it does not list"
        parity = said["parity"]
        for name in ERRORS:
            allowed = min(1e-2, max(2e-3, 2.5 * parity["eager"][name]))
            if parity["allowed"][name] != allowed or not parity[name] <= allowed:
                return "figures out of bounds"
        if not parity["psnr"] >= 20.0:
            return "another image"
        return "" if _key_digest(said["key"]) == FOLDER else "another key"


def _manifest(what: str, text: bytes, expected: Expected = "either") -> Case:
    return Case(what, FILES | {TEXT: text}, expected)


SOUND = FILES[TEXT]
TEXTS = (
    SOUND[:-1] + b', "model": "again"}',
    b"[" * 100_000,
    b'{"files": {' + b",".join(b'"%d": "x"' % number for number in range(20_000)) + b"}}",
    b'{"files": [' + b"[]," * 200_000 + b"1]}",
    b"{" + b" " * (2 << 20) + b"}",
    SOUND.replace(b"1.5", b"NaN"),
    SOUND.replace(b"90.0", b"Infinity"),
    SOUND.replace(b"1.5", b"1e999999"),
    SOUND.decode().encode("utf-16"),
    b"",
)


@st.composite
def _fields(draw: Draw) -> Case:
    """A value that breaks a rule."""
    manifest = json.loads(SOUND)
    how = draw(one(("key", "parity", "allowed", "type")))
    if how == "key":
        part = draw(one(("weights", "device", "format_version")))
        manifest["key"][part] = draw(ODD.filter(lambda value: value != MANIFEST["key"][part]))
    elif how == "parity":
        manifest["parity"][draw(one(("unet", "vae_decoder", "text_encoder")))] = draw(one((0.1, 1e30, None, "0")))
    elif how == "allowed":
        manifest["parity"]["allowed"] = dict.fromkeys(ERRORS, 1e9)
    else:
        part = draw(one(list(TYPES)))
        wrong = ODD.filter(lambda value: not isinstance(value, TYPES[part]) or isinstance(value, bool))
        manifest[part] = draw(wrong)
    return _manifest(f"field: {how}", json.dumps(manifest).encode(), "refused")


@st.composite
def _listed(draw: Draw) -> Case:
    """Other names and sums in the list of files."""
    manifest, name = json.loads(SOUND), draw(one(NETWORKS))
    total = manifest["files"].pop(name)
    more = draw(
        st.none()
        | one(("../" + name, "/" + name, "./" + name, name + "\0", *BAD_NAMES)).map(lambda other: (other, total))
        | one((total.upper(), total[:-1], "", "0" * 64)).map(lambda other: (name, other))
    )
    manifest["files"] |= dict([more] if more else [])
    return _manifest("listed", json.dumps(manifest).encode(), "refused")


@st.composite
def _files(draw: Draw) -> Case:
    files: dict[str, bytes | None] = dict(FILES)
    name = f"{FOLDER}/{draw(one(NETWORKS))}"
    how, links = draw(one(("changed", "gone", "more", "linked", "linked folder"))), {}
    if how == "changed":
        files[name] = draw(damaged(FILES[name], b"x" * 300))[1]
    elif how == "gone":
        files[name] = None
    elif how == "more":
        files[f"{FOLDER}/{draw(one(('extra.blob', 'deep/unet.blob')))}"] = b"x"
    elif how == "linked":
        links = {name: draw(one(("/etc/passwd", "/dev/zero", "../other")))}
    else:
        links = {f"{FOLDER}/deep": "/etc"}
    return Case(f"files: {how}", files, "accepted" if files == FILES and not links else "refused", links)


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
LINES = tuple(RECIPE.splitlines())
VALUES = one(
    (
        *("-1", "0", "1", "7", "4096", "5000", "1e3", "nan", "inf", "true", '"x"', '"\\u001b[2J"', "[]", "[[]]", "{}"),
        *("0x10", "1979-05-27", "1_000", "9" * 5000, '"' + "x" * 5000 + '"', "[" * 3000, "{a = 1}", "[0.0, 2.0]"),
        *("[1.0, 0.0, nan]",),
    )
) | ODD.map(json.dumps)
MUCH = (
    "a" + ".a" * 25_000 + " = 1",
    "a = " + "[" * 30_000,
    "\n".join(f"k{number} = 1" for number in range(6000)),
    "#" * (1 << 20),
    "\n".join("a." * 300 + f"b{number} = 1" for number in range(90)),
    "\n".join(f"[a{number}]" for number in range(7000)),
)
KNOWN = {
    *("model", "revision", "mirror", "lora", "lora_weight", "family", "backend", "precision"),
    *("image_size", "unet_batch", "vae_batch", "sampling"),
}
KNOWN_SAMPLING = {"steps", "scheduler", "spacing", "timesteps", "guidance_scale", "guidance_interval"}


class Recipes:
    """A recipe."""

    def __init__(self) -> None:
        self.files = {"r.toml": RECIPE.encode()}

    def cases(self) -> st.SearchStrategy[Case]:
        """Damaged bytes, another value, another line, or much of something."""
        settings = one([place for place, line in enumerate(LINES) if "=" in line])
        place = st.integers(0, len(LINES) - 1)
        strange = one(("more", "Model", "__class__", "steps2"))
        value = st.builds(lambda at, value: _with(at, f"{LINES[at].split('=')[0]}= {value}", 1), settings, VALUES)
        line = st.builds(_with, place, one((*LINES, "[sampling]", "[[sampling]]", "=", "[", "a.b.c = 1")))
        unknown = st.builds(lambda at, key: _with(at, f"{key} = 1"), one((0, len(LINES))), strange)
        damage = damaged(RECIPE.encode(), b"[a]\nb.c.d = 1\n" * 9).map(lambda made: Case("damage", {"r.toml": made[1]}))
        return (
            damage
            | value.map(lambda text: _recipe("value", text))
            | value.map(lambda text: _recipe("value", text))
            | line.map(lambda text: _recipe("line", text))
            | unknown.map(lambda text: _recipe("unknown", text, "refused"))
            | one(MUCH).map(lambda text: _recipe("much", text, "refused"))
        )

    def read(self, folder: Path) -> Recipe:
        """By the program."""
        return Recipe.from_toml(folder / "r.toml")

    def lie(self, folder: Path, accepted: Recipe) -> str:
        """By the text, and by writing it again."""
        said = tomllib.loads((folder / "r.toml").read_text(encoding="utf-8"))
        sampling = said.get("sampling", {})
        if said.keys() - KNOWN or sampling.keys() - KNOWN_SAMPLING:
            return "an unknown key"
        told = said.keys() & {"model", "backend", "precision", "image_size"}
        if any(getattr(accepted, key) != said[key] for key in told):
            return "it says otherwise"
        steps, timesteps = accepted.sampling.steps, accepted.sampling.timesteps
        low, high = accepted.sampling.guidance_interval
        batches = 2 <= accepted.unet_batch <= 4096 and 1 <= accepted.vae_batch <= 4096
        guided = 0 <= accepted.sampling.guidance_scale <= 50 and 0 <= low <= 1 and 0 <= high <= 1
        placed = timesteps is None or (len(timesteps) == steps and sorted(timesteps, reverse=True) == list(timesteps))
        if not (8 <= accepted.image_size <= 4096 and batches and guided and placed and 1 <= steps <= 1000):
            return "a value out of range"
        (folder / "again.toml").write_text(accepted.to_toml())
        return "" if Recipe.from_toml(folder / "again.toml") == accepted else "it changes when written again"


def _with(place: int, line: str, instead: int = 0) -> str:
    """The recipe with another line, instead of so many."""
    return "\n".join((*LINES[:place], line, *LINES[place + instead :]))


def _recipe(what: str, text: str, expected: Expected = "either") -> Case:
    return Case(what, {"r.toml": text.encode("utf-8", "surrogatepass")}, expected)

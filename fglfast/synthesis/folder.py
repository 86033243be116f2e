"""The folder of a synthetic data set: its facts, its card, its lock. Knows nothing of how images are made."""

import json
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fglfast.errors import BadInputError, UsageError
from fglfast.files import exclusive, is_held, write_atomic
from fglfast.synthesis.shards import read_shard, shard_name

FACTS = "dataset.json"
FORMAT_VERSION = 1
LOCKS = ".locks"


def claim(out: Path, facts: dict[str, Any]) -> None:
    """Write the data set's card and facts, or check that those there are of the same plan; ranks take turns.

    Raises:
        UsageError: the folder belongs to another plan; both hashes are shown.
    """
    (out / LOCKS).mkdir(parents=True, exist_ok=True)
    with exclusive(out / LOCKS / "claim"):
        _claim(out, facts)


def _claim(out: Path, facts: dict[str, Any]) -> None:
    path = out / FACTS
    if path.exists():
        there = read_facts(out).get("plan")
        if there != facts["plan"]:
            raise UsageError(
                f"{out} holds a data set of plan {str(there)[:16]}, this is plan {facts['plan'][:16]}",
                "choose another --out, or delete the folder to start anew",
            )
        return
    if any(out.glob("*.tar")):
        raise UsageError(f"{out} holds tar files but no {FACTS}", "choose another --out")
    write_atomic(out / "README.md", _card(facts))
    write_atomic(path, json.dumps({"format_version": FORMAT_VERSION, **facts}, indent=2, ensure_ascii=False) + "\n")


def read_facts(out: Path) -> dict[str, Any]:
    """The facts of a data set folder.

    Raises:
        BadInputError: missing or malformed.
    """
    path = out / FACTS
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInputError(
            f"{path}: not a data set's facts ({error})", "point at a folder made by synthesize"
        ) from error
    if not isinstance(facts, dict) or facts.get("format_version") != FORMAT_VERSION:
        raise BadInputError(f"{path}: format_version is not {FORMAT_VERSION}", "make the data set again")
    return facts


def engine_of(shard: Path) -> str | None:
    """The engine that drew a shard's first image; None when the shard is not there, or cannot be read."""
    with suppress(OSError, tarfile.TarError, ValueError, KeyError, StopIteration):
        content = next(content for name, content in read_shard(shard) if name.endswith(".json"))
        return str(json.loads(content)["engine"])
    return None


@contextmanager
def locked(out: Path, rank: int = 0, world_size: int = 1) -> Iterator[None]:
    """Keep a second run out of a claimed folder: each rank holds a lock file of its own.

    A run of as many ranks meets those files, and one of another number looks for them: two that wrote the same shard
    could leave it damaged under its final name.

    Raises:
        UsageError: another run is at work here.
    """
    locks, own = out / LOCKS, f"-of-{world_size}"
    with exclusive(locks / f"{rank}{own}", wait=False) as free:
        others = (path for path in locks.glob("*-of-*") if not path.name.endswith(own))
        if not free or any(map(is_held, others)):
            raise UsageError(f"{out}: another run is writing here", "wait for it, or choose another --out")
        yield


def export_imagefolder(out: Path, class_names: tuple[str, ...], shards: int) -> Path | None:
    """Unpack the shards of a complete folder to `out/imagefolder/CLASS/KEY.png`; images already there are left alone.

    Returns:
        The folder; None when another rank is at it.
    """
    with exclusive(out / LOCKS / "imagefolder", wait=False) as free:
        return _export_imagefolder(out, class_names, shards) if free else None


def _export_imagefolder(out: Path, class_names: tuple[str, ...], shards: int) -> Path:
    target = out / "imagefolder"
    folders = [target / safe_name(name, label) for label, name in enumerate(class_names)]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    for number in range(shards):
        files = dict(read_shard(out / shard_name(number)))
        for name, content in files.items():
            key, _, kind = name.rpartition(".")
            path = folders[int(files[f"{key}.cls"])] / name
            if kind in {"png", "webp"} and not path.exists():
                write_atomic(path, content)
    return target


def safe_name(name: str, label: int) -> str:
    """A class name as a folder name: no separators, no leading dot, never empty."""
    kept = "".join(letter if letter.isalnum() or letter in " -_." else "_" for letter in name).strip(" .")
    return kept if kept == name else f"{label:04d} {kept}".strip()


def _card(facts: dict[str, Any]) -> str:
    """A Hugging Face data-set card."""
    names = "\n".join(f"- {_plain(name)}" for name in facts["class_names"])
    sampling = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in facts["sampling"].items())
    return f"""---
task_categories: [image-classification]
tags: [synthetic, federated-generative-learning, webdataset]
---
# A synthetic data set by fglfast

{facts["images"]} images of {facts["image_size"]}x{facts["image_size"]} pixels, {facts["images_per_class"]} a class,
in {facts["shards"]} WebDataset shards (`KEY.{facts["image_format"]}`, `KEY.cls`, `KEY.json`).
**No image is a photograph**: each was drawn by a diffusion model from a prompt embedding that a federated client sent
(Federated Generative Learning, arXiv 2306.16064).

- generator: `{_plain(facts["model"])}`, weights `{facts["weights"][:16]}`
- sampling: {sampling}, plan seed {facts["seed"]}
- clients: {len(facts["clients"])}; plan `{facts["plan"][:16]}`

Every `KEY.json` names the image's class, embedding row, ordinal, seed, client, payload hash and engine, from which
it can be drawn again. Labels are the prompts' classes, unchecked: expect some noise. The images inherit the
generator's biases and licence.

## Classes
{names}
"""


def _plain(text: str) -> str:
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>#|" else letter for letter in text)

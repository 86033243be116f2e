"""The folder of a synthetic data set: its facts, its card, its lock. Knows nothing of how images are made."""

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fglfast.errors import BadInputError, UsageError
from fglfast.files import write_atomic
from fglfast.synthesis.shards import read_shard, shard_name

FACTS = "dataset.json"
FORMAT_VERSION = 1


def claim(out: Path, facts: dict[str, Any]) -> None:
    """Write the data set's facts, or check that those there are of the same plan.

    Raises:
        UsageError: the folder belongs to another plan; both hashes are shown.
    """
    out.mkdir(parents=True, exist_ok=True)
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
    write_atomic(path, json.dumps({"format_version": FORMAT_VERSION, **facts}, indent=2, ensure_ascii=False) + "\n")
    write_atomic(out / "README.md", _card(facts))


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


@contextmanager
def locked(out: Path, shared: bool) -> Iterator[None]:
    """Keep a second run out of the folder; the ranks of one run share it.

    Raises:
        UsageError: another run is at work here.
    """
    with (out / ".lock").open("w") as stream:
        try:
            fcntl.flock(stream, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(f"{out}: another run is writing here", "wait for it, or choose another --out") from error
        yield


def export_imagefolder(out: Path, class_names: tuple[str, ...], shards: int) -> Path:
    """Unpack the shards to `out/imagefolder/CLASS/KEY.png`; images already there are left alone."""
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

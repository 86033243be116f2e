"""The folder of a synthetic data set: its facts, its card, its lock. Knows nothing of how images are made."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fglfast.base.errors import BadInputError, UsageError
from fglfast.base.files import exclusive, is_held, write_atomic
from fglfast.base.folders import leads_out
from fglfast.base.untrusted import read_object
from fglfast.base.wording import differences
from fglfast.payload.merge import by_client
from fglfast.shards import checksums
from fglfast.shards.tar import read_samples

FACTS = "dataset.json"
FORMAT_VERSION = 1
MOST_FACTS = 16 << 20  # bytes
FOLLOWS = {"format_version", "plan", "images", "shards", "clients", "payloads"}  # from the other facts
LOCKS, IMAGES = ".locks", "imagefolder"
NAME_BYTES = 200  # of an engine's name that is told


def claim(out: Path, facts: dict[str, Any]) -> None:
    """Write the data set's card and facts, or check that those there are of the same plan; ranks take turns.

    Raises:
        UsageError: the folder belongs to another plan; what differs is said.
        BadInputError: a part of the folder is a link to somewhere else.
    """
    refuse_links(out)
    (out / LOCKS).mkdir(parents=True, exist_ok=True)
    with exclusive(out / LOCKS / "claim"):
        _claim(out, facts)


def _claim(out: Path, facts: dict[str, Any]) -> None:
    refuse_another(out, facts)
    path = out / FACTS
    if path.exists():
        return
    write_atomic(out / "README.md", _card(facts))
    write_atomic(path, json.dumps({"format_version": FORMAT_VERSION, **facts}, indent=2, ensure_ascii=False) + "\n")


def refuse_another(out: Path, facts: dict[str, Any]) -> None:
    """As `claim`, writing nothing."""
    if not (out / FACTS).exists():
        if any(out.glob("*.tar")):
            raise UsageError(f"{out} holds tar files but no {FACTS}", "choose another --out")
        return
    there = read_facts(out)
    if there.get("plan") != facts["plan"]:
        raise UsageError(
            f"{out} holds another data set: {differences(_told(there), _told(facts)) or 'its plan differs'}",
            "choose another --out, or delete the folder to start anew",
        )


def _told(facts: dict[str, Any]) -> dict[str, Any]:
    """Of a data set's facts those that a person chose, the payloads by name."""
    senders = [facts[key] if isinstance(facts.get(key), list) else [] for key in ("clients", "payloads")]
    return {key: value for key, value in facts.items() if key not in FOLLOWS} | by_client(*senders)


def read_facts(out: Path) -> dict[str, Any]:
    """The facts of a data set folder.

    Raises:
        BadInputError: missing or malformed, or a part of the folder is a link to somewhere else.
    """
    refuse_links(out)
    path = out / FACTS
    facts = read_object(path, MOST_FACTS, "point at a folder made by synthesize")
    if facts.get("format_version") != FORMAT_VERSION:
        raise BadInputError(f"{path}: format_version is not {FORMAT_VERSION}", "make the data set again")
    return facts


def refuse_links(out: Path) -> None:
    """Refuse a folder whose parts, which are read and written, lie elsewhere.

    Raises:
        BadInputError: naming the link.
    """
    for name in (FACTS, LOCKS, IMAGES, checksums.FOLDER):
        if leads_out(out / name, out):
            raise BadInputError(f"{out / name}: a link out of the data set", "put what it leads to there, or delete it")


def engine_of(shard: Path) -> str | None:
    """The engine that drew a shard's first image; None when the shard is not there, or cannot be read."""
    with suppress(BadInputError, KeyError, StopIteration):
        return str(next(read_samples(shard))[1].facts["engine"])[:NAME_BYTES]
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


def _card(facts: dict[str, Any]) -> str:
    """A Hugging Face data-set card."""
    names = "\n".join(f"- {_plain(name)}" for name in facts["class_names"])
    sampling = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in facts["sampling"].items())
    return f"""---
task_categories: [image-classification]
tags: [synthetic, federated-generative-learning, webdataset]
configs:
- config_name: default
  data_files:
  - split: train
    path: "train-*.tar"
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

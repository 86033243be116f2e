"""A client kit: the text side of a generator as a folder, so that a client speaks to it without having it.

A kit is laid out as a diffusers directory is, and holds the tokenizers, the text encoders' configs and the prompts; if
it was asked for, also the text encoders' weights, which make embeddings. Its `kit.json` lists the sha256 of every file
of the generator's text side, those that are left out among them: what a payload calls the text encoder's fingerprint
follows from that list. The sha256 of the prompts stands beside it, in no fingerprint. Loads no network.
"""

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from fglfast.base.config import Settings, checked_json, first_problem
from fglfast.base.errors import BadInputError, UsageError
from fglfast.base.files import file_digest, finished_folder
from fglfast.base.names import ClassName
from fglfast.base.untrusted import read_bytes
from fglfast.base.writable import usable_folder
from fglfast.generator.configs import check_folder
from fglfast.generator.kinds import INDEX
from fglfast.generator.parts import BLOCK, PARTS, part
from fglfast.generator.weights import counted_files
from fglfast.images.decoding import MOST_SIDE

FILE, PROMPTS = "kit.json", "prompts.json"
SIDES = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
WEIGHTS = ".safetensors"
READ = (".json", ".txt", WEIGHTS)  # kinds of files that a model folder is read from
MOST_FILES, MOST_BYTES = 200, 1 << 20  # of the list
HINT = "ask the server for the kit again; fglfast kit writes one"

Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Name = Annotated[str, Field(pattern=rf"^({'|'.join(SIDES)})/[A-Za-z0-9_][A-Za-z0-9_.-]{{0,120}}$")]
Other = Annotated[str, Field(pattern=r"^prompts\.json$")]


class Kit(Settings):
    """What `kit.json` says.

    Attributes:
        format_version: of this file.
        model: what the generator is called at its server, for people.
        image_size: side in pixels of the images that it draws.
        files: sha256 of each file of its text side, by `folder/name`.
        others: sha256 of the other files of the kit, by name; None of a kit made before they were listed.
    """

    format_version: Literal[1] = 1
    model: ClassName
    image_size: Annotated[int, Field(ge=1, le=MOST_SIDE)]
    files: Annotated[dict[Name, Digest], Field(min_length=1, max_length=MOST_FILES)]
    others: dict[Other, Digest] | None = None


def fingerprint(files: Mapping[str, str]) -> str:
    """The fingerprint of a text side whose files have these sha256."""
    digest = hashlib.sha256()
    for side in SIDES:
        for name in sorted(name for name in files if name.startswith(f"{side}/")):
            digest.update(f"{name}\0".encode() + bytes.fromhex(files[name]))
    return digest.hexdigest()


def text_files(model: Path) -> dict[str, str]:
    """sha256 of each file of a model folder's text side, by `folder/name`."""
    return {name: file_digest(path) for name, path in _text_side(model)}


def _text_side(model: Path) -> Iterator[tuple[str, Path]]:
    for side in SIDES:
        for path in counted_files(part(model, side)):
            yield f"{side}/{path.name}", path


def find_kit(folder: Path) -> Kit | None:
    """What a folder's `kit.json` says; None where there is none, and of a whole generator, which speaks for itself.

    Raises:
        BadInputError: it cannot be used.
    """
    path = folder / FILE
    if not path.is_file() or (folder / INDEX).exists():
        return None
    try:
        return checked_json(Kit, read_bytes(path, MOST_BYTES))
    except (OSError, ValueError) as error:
        raise BadInputError(f"{path}: {error}", HINT) from error


def check_kit(folder: Path) -> Kit:
    """Open a kit, a stranger's or not, and hold its files to its list.

    Raises:
        BadInputError: it is none, leads out of itself, asks for code, or a file is missing or is not what was listed.
    """
    kit = find_kit(folder)
    if kit is None:
        raise BadInputError(f"{folder}: not a kit (no {FILE})", HINT)
    check_folder(folder)
    there = text_files(folder)
    for name in kit.files.keys() | there.keys():
        if name not in there and not name.endswith(WEIGHTS):
            raise BadInputError(f"{folder}: {name} is missing", HINT)
        if name in there and there[name] != kit.files.get(name):
            raise BadInputError(f"{folder}: {name} is not the file that {FILE} lists", HINT)
    if kit.others is not None:
        _check_others(folder, kit.others)
    return kit


def _check_others(folder: Path, listed: Mapping[str, str]) -> None:
    """Hold what lies at the top of a kit to its list; what nothing is read from, such as a README, may lie there."""
    for name, digest in listed.items():
        if not (folder / name).is_file():
            raise BadInputError(f"{folder}: {name} is missing", HINT)
        if file_digest(folder / name) != digest:
            raise BadInputError(f"{folder}: {name} is not the file that {FILE} lists", HINT)
    for path in sorted(folder.iterdir()):
        part_of_model = path.name in set(PARTS) - set(SIDES) or path.match(BLOCK)
        read = path.suffix.lower() in READ and not path.name.startswith(".")
        if (part_of_model or read) and path.name not in {FILE, *listed}:
            raise BadInputError(f"{folder}: {FILE} does not list {path.name}", HINT)


def write_kit(model: Path, out: Path, name: str, image_size: int, weights: bool = False) -> int:
    """Write the kit of a generator, from its folder or one of its text side alone; returns how many bytes it has.

    The kit appears whole or not at all, and takes the place of an older one. The text encoders' weights go with it if
    that is asked for.

    Raises:
        UsageError: `out` holds something else, or cannot be written.
        BadInputError: the text side has a file of a name that no kit takes, or none at all.
    """
    usable_folder(out)
    if out.is_dir() and any(out.iterdir()) and not (out / FILE).exists():
        raise UsageError(f"{out}: holds something that is no kit", "choose another --out")
    prompts = part(model, PROMPTS)
    others = {PROMPTS: file_digest(prompts)} if prompts.exists() else {}
    try:
        kit = Kit(model=name, image_size=image_size, files=text_files(model), others=others)
    except ValidationError as error:
        raise BadInputError(f"{model}: no kit can list its files ({first_problem(error)})", "rename them") from error
    with finished_folder(out) as unfinished:
        for file, path in _text_side(model):
            if weights or path.suffix != WEIGHTS:
                (unfinished / file).parent.mkdir(exist_ok=True)
                shutil.copyfile(path, unfinished / file)
        if prompts.exists():
            shutil.copyfile(prompts, unfinished / prompts.name)
        kit.save(unfinished / FILE)
    return sum(path.stat().st_size for path in out.rglob("*") if path.is_file())

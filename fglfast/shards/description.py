"""`dataset.json`: what a data set of shards says of itself. The folder may be a stranger's."""

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ConfigDict, Field, ValidationError

from fglfast.base.config import Settings, first_problem
from fglfast.base.errors import BadInputError, IncompleteError
from fglfast.base.files import write_atomic
from fglfast.base.folders import leads_out
from fglfast.base.names import ClassNames
from fglfast.base.untrusted import json_object, read_bytes
from fglfast.images.decoding import MOST_SIDE
from fglfast.shards import checksums

FACTS, LOCKS = "dataset.json", ".locks"
IMAGES, PARQUET = "imagefolder", "parquet"  # other forms of the same images
UPDATE = ".update"  # a data set that is to take the place of the one around it, while it is made
SWAP = ".swap"  # a data set that is taking the place of the one around it
FORMAT_VERSION = 3  # since it, rows take turns; since 2, images are named by what their row holds
VERSIONS = (1, 2, 3)
MOST_FACTS = 64 << 20  # bytes: a hundred thousand rows of two hundred
MOST_CLIENTS, MOST_VALUES = 100_000, 3_000_000
AGAIN = "make the data set again with this version's synthesize"


class Description(Settings):
    """What every data set says; other keys are for those who know more of it.

    Attributes:
        format_version: of the whole folder.
        plan: names what its images are; data sets of one plan are the same.
        class_names: by label.
        images: how many there are.
        shards: in so many files.
        image_size: side in pixels.
        model: the name of the generator that drew them; empty if none did.
    """

    model_config = ConfigDict(extra="ignore")

    format_version: int = FORMAT_VERSION
    plan: str = Field(min_length=1, max_length=128)
    class_names: ClassNames
    images: int = Field(ge=1)
    shards: int = Field(ge=1)
    image_size: int = Field(ge=1, le=MOST_SIDE)
    model: str = ""

    @property
    def by_place(self) -> bool:
        """Whether images are surely named by their place in the data set: today's synthesize drew them."""
        return self.format_version == FORMAT_VERSION and bool(self.model)


D = TypeVar("D", bound=Description)


def page_of(folder: Path) -> Path:
    """Where the page of a data set lies: beside the folder, which may be published as it is."""
    return folder.resolve().with_name(f"{folder.resolve().name}.html")


def read_description(folder: Path) -> Description:
    """What every data set says, as `read_as` reads it."""
    return read_as(Description, folder)


def read_as(kind: type[D], folder: Path) -> D:
    """Read and check `dataset.json`, which has to say what a kind of description does.

    Raises:
        BadInputError: it is missing, of another version or not as it must be, or a part of the folder lies elsewhere.
        IncompleteError: an update was stopped while it took its place.
    """
    refuse_links(folder)
    path = folder / FACTS
    try:
        content = read_bytes(path, MOST_FACTS)
    except OSError as error:
        if (folder / SWAP).is_dir():
            hint = "run the synthesize --update or forget again that was stopped: it goes on"
            raise IncompleteError(
                f"{folder}: an update of this data set was stopped just before it was whole", hint
            ) from error
        raise BadInputError(
            f"{folder} is not a synthetic data set: {path} cannot be read", "give a folder made by synthesize"
        ) from error
    try:
        version = json_object(content, MOST_CLIENTS, most_values=MOST_VALUES).get("format_version")
        if version not in VERSIONS:
            known = f"{VERSIONS[0]} to {VERSIONS[-1]}"
            raise BadInputError(f"{path}: format version {version!r}, this program reads {known}", AGAIN)
        return kind.model_validate_json(content, strict=True)
    except ValidationError as error:
        raise BadInputError(f"{path}: {first_problem(error)}", AGAIN) from error
    except ValueError as error:
        raise BadInputError(f"{path}: not strict JSON ({error})", AGAIN) from error


def write_description(folder: Path, description: Description) -> None:
    """Write `dataset.json`; the same description gives the same bytes."""
    facts = [f"{_text(key)}: {_lines(value)}" for key, value in description.model_dump(mode="json").items()]
    write_atomic(folder / FACTS, "{\n  " + ",\n  ".join(facts) + "\n}\n")


def _lines(value: Any) -> str:
    """A value on a line; a list of objects has a line for each, or a hundred thousand rows would take a million."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "[\n    " + ",\n    ".join(map(_text, value)) + "\n  ]"
    return _text(value)


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def refuse_links(folder: Path) -> None:
    """Refuse a folder whose parts, which are read and written, lie elsewhere.

    Raises:
        BadInputError: naming the link.
    """
    for name in (FACTS, LOCKS, IMAGES, PARQUET, SWAP, UPDATE, checksums.FOLDER):
        if leads_out(folder / name, folder):
            hint = "put what it leads to there, or delete it"
            raise BadInputError(f"{folder / name}: a link that leads out of the data set", hint)

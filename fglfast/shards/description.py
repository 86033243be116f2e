"""`dataset.json`: what a data set of shards says of itself. The folder may be a stranger's."""

import json
from pathlib import Path
from typing import TypeVar

from pydantic import ConfigDict, Field, ValidationError

from fglfast.base.config import Settings, first_problem
from fglfast.base.errors import BadInputError
from fglfast.base.files import write_atomic
from fglfast.base.folders import leads_out
from fglfast.base.names import ClassNames
from fglfast.base.untrusted import json_object, read_bytes
from fglfast.images.decoding import MOST_SIDE
from fglfast.shards import checksums

FACTS, LOCKS = "dataset.json", ".locks"
IMAGES, PARQUET = "imagefolder", "parquet"  # other forms of the same images
FORMAT_VERSION = 1
MOST_FACTS = 16 << 20  # bytes
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
    """

    model_config = ConfigDict(extra="ignore")

    format_version: int = FORMAT_VERSION
    plan: str = Field(min_length=1, max_length=128)
    class_names: ClassNames
    images: int = Field(ge=1)
    shards: int = Field(ge=1)
    image_size: int = Field(ge=1, le=MOST_SIDE)


D = TypeVar("D", bound=Description)


def read_description(folder: Path) -> Description:
    """What every data set says, as `read_as` reads it."""
    return read_as(Description, folder)


def read_as(kind: type[D], folder: Path) -> D:
    """Read and check `dataset.json`.

    Args:
        kind: how much has to be said.
        folder: of the data set.

    Raises:
        BadInputError: it is missing, of another version or not as it must be, or a part of the folder lies elsewhere.
    """
    refuse_links(folder)
    path = folder / FACTS
    try:
        content = read_bytes(path, MOST_FACTS)
    except OSError as error:
        raise BadInputError(
            f"{folder} is not a synthetic data set: {path} cannot be read", "give a folder made by synthesize"
        ) from error
    try:
        version = json_object(content).get("format_version")
        if version != FORMAT_VERSION:
            raise BadInputError(f"{path}: format version {version!r}, this program reads {FORMAT_VERSION}", AGAIN)
        return kind.model_validate_json(content, strict=True)
    except ValidationError as error:
        raise BadInputError(f"{path}: {first_problem(error)}", AGAIN) from error
    except ValueError as error:
        raise BadInputError(f"{path}: not strict JSON ({error})", AGAIN) from error


def write_description(folder: Path, description: Description) -> None:
    """Write `dataset.json`; the same description gives the same bytes."""
    facts = description.model_dump(mode="json")
    write_atomic(folder / FACTS, json.dumps(facts, indent=2, ensure_ascii=False) + "\n")


def refuse_links(folder: Path) -> None:
    """Refuse a folder whose parts, which are read and written, lie elsewhere.

    Raises:
        BadInputError: naming the link.
    """
    for name in (FACTS, LOCKS, IMAGES, PARQUET, checksums.FOLDER):
        if leads_out(folder / name, folder):
            hint = "put what it leads to there, or delete it"
            raise BadInputError(f"{folder / name}: a link out of the data set", hint)

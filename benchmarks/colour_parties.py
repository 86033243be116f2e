"""Who has which of two styles' drawings of the same things: the files of each party. Knows no model.

Things are split by their names, so that no party but the one that judges has a drawing of a test thing in any style:

- **The generator's trainer** (the world, whose captioned pictures such models learn from) has drawings and their
  captions, "name, style", and no class: all of the public style, and a quarter of the private one.
- **The server** has the class list, the generator and labelled drawings of the public style: all, or a tenth.
- **The clients** have half of the things in the private style, each of one or two classes, and their names.
- **The test** is the last quarter, in the private style, without the few drawings that are nearly those of another
  party: some things of two names have one drawing.

So the generator has seen the clients' things in the other style, and other things in theirs; it knows neither which
drawings the clients hold nor which things make a class.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet
from numpy.typing import NDArray

from fglfast.base.errors import BadInputError
from fglfast.base.files import placing, write_atomic
from fglfast.images.dataset import read_dataset
from fglfast.images.labelled import LabelledImages, concatenate
from fglfast.lab.audit.shadows import write_parquet
from fglfast.training.batches import split

SEED = 0  # of the split, which is the generator's too: one for all seeds of a run
TEST, TAUGHT = 0.25, 1 / 3  # of all things; of the others, what the generator sees in the private style
FEW = 0.1  # of the drawings that the server may have labels of
SIDE, ALIKE = 32, 3e-3  # pixels at which drawings are compared; mean squared difference (of 0 to 1) of the same


@dataclass(frozen=True)
class Parties:
    """The files of each party.

    Attributes:
        folder: of the splits `private`, `test`, `public` (a tenth) and `public-all`.
        captions: names of the clients' things, for `embed --captions`.
        generator: what the generator learns from.
        generator_captions: its captions.
        domain: the clients' style.
    """

    folder: Path
    captions: Path
    generator: Path
    generator_captions: Path
    domain: str

    def read(self, split_name: str) -> LabelledImages:
        """A split's images."""
        return read_dataset(f"{self.folder}:{split_name}")


def parties(private: Path, public: Path, folder: Path) -> Parties:
    """Write the parties' files, once, of two tables with columns image, label and caption, each named by its style.

    Both have the same things in the same order; the private one is in the clients' style.
    """
    found = Parties(
        folder / "splits",
        folder / "names.jsonl",
        folder / "generator.parquet",
        folder / "captions.jsonl",
        private.stem,
    )
    if found.generator_captions.exists():  # the last to be written
        return found
    found.folder.mkdir(parents=True, exist_ok=True)
    names = _names(private)
    if names != _names(public):
        raise BadInputError(f"{private}, {public}: other captions", "give two tables of the same things in one order")
    inside, outside = read_dataset(str(private)), read_dataset(str(public))
    held, taught, test = split_things(names, inside.labels)
    known = np.union1d(held, taught)
    few = known[split(outside.labels[known], FEW, SEED)[1]]
    shown = concatenate([outside.select(known), inside.select(taught)])
    new = test[nearest(inside.select(test), concatenate([shown, inside.select(held)])) >= ALIKE]
    for rows, style, name in ((held, inside, "private"), (new, inside, "test"), (few, outside, "public")):
        _write(style.select(rows), found.folder / f"{name}.parquet")
    _write(outside.select(known), found.folder / "public-all.parquet")
    _tell(found.captions, [names[row] for row in held])
    _write(shown, found.generator)
    spoken = [(names[row], public.stem) for row in known] + [(names[row], private.stem) for row in taught]
    _tell(found.generator_captions, [f"{name}, {style}" for name, style in spoken])
    return found


def split_things(names: list[str], labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
    """Rows of the clients, of the generator and of the test; rows of one name stay together."""
    _, first, which = np.unique(names, return_index=True, return_inverse=True)
    rest, test = split(labels[first], TEST, SEED)
    held, taught = split(labels[first][rest], TAUGHT, SEED + 1)
    return tuple(np.flatnonzero(np.isin(which, things)) for things in (rest[held], rest[taught], test))


def nearest(images: LabelledImages, others: LabelledImages) -> NDArray[np.float32]:
    """Mean squared difference of each image [N] from the nearest of others, of pixels from 0 to 1 at 32x32."""
    these_ND, those_MD = (
        np.stack([each.pixels(row, SIDE) for row in range(len(each))]).reshape(len(each), -1) / np.float32(255)
        for each in (images, others)
    )
    squares_NM = (these_ND**2).sum(1)[:, None] + (those_MD**2).sum(1) - 2 * these_ND @ those_MD.T
    found: NDArray[np.float32] = squares_NM.min(1).clip(min=0) / these_ND.shape[1]
    return found


def _names(table: Path) -> list[str]:
    return [str(name) for name in pyarrow.parquet.read_table(table, columns=["caption"])["caption"].to_pylist()]


def _write(images: LabelledImages, path: Path) -> None:
    with placing(path) as unfinished:
        write_parquet(images, unfinished)


def _tell(path: Path, captions: list[str]) -> None:
    lines = [json.dumps({"index": row, "caption": caption}, ensure_ascii=False) for row, caption in enumerate(captions)]
    write_atomic(path, "\n".join(lines) + "\n")

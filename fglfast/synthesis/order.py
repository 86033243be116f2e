"""In which order the images of a class stand: which row, and which of its images, is at a place, and the reverse."""

from functools import lru_cache

import numpy as np

from fglfast.synthesis.allot import Ints

BLOCK = 1024  # images at least that are put in order together, unless there are fewer
KEPT = 2  # blocks of a class that are remembered


class InTurn:
    """Rows in turn: any first part of the class holds them in proportion to their images.

    Image o of a row of n stands where (o + 1/2) / n puts it, among equals that of the first row. So the next image is
    always of a row that is behind its share: the order in which Webster and Sainte-Lague hand out seats. It is worked
    out a block at a time, whenever one is asked for: ten million images take no more memory than a few thousand.

    Args:
        images: of each row [R], at most ten million: then the quotients, as float64, are equal only if they are.
    """

    def __init__(self, images: Ints) -> None:
        self.images = images
        self.blocks = max(1, int(images.sum()) // max(BLOCK, len(images)))
        self._starts = self._first(np.arange(self.blocks + 1)[:, None]).sum(1)
        self._block = lru_cache(KEPT)(self._ordered)

    def at(self, place: int) -> tuple[int, int]:
        """Row of the class, and ordinal, of the image at a place."""
        block = int(np.searchsorted(self._starts, place, side="right")) - 1
        _, rows, ordinals = self._block(block)
        within = place - int(self._starts[block])
        return int(rows[within]), int(ordinals[within])

    def place(self, row: int, ordinal: int) -> int:
        """Place of a row's image."""
        images = int(self.images[row])
        block = (2 * ordinal + 1) * self.blocks // (2 * images)
        quotients, rows, _ = self._block(block)
        quotient = (2 * ordinal + 1) / (2 * images)
        first, last = (int(np.searchsorted(quotients, quotient, side)) for side in ("left", "right"))
        return int(self._starts[block]) + first + int(np.searchsorted(rows[first:last], row))

    def _first(self, block: int | Ints) -> Ints:
        """Each row's first ordinal [..., R] whose quotient is at least that part of 1."""
        firsts: Ints = -((self.blocks - 2 * self.images * block) // (2 * self.blocks))
        return firsts

    def _ordered(self, block: int) -> tuple[np.ndarray[tuple[int], np.dtype[np.float64]], Ints, Ints]:
        """Quotient, row and ordinal of each image of a block, in order."""
        first, end = self._first(block), self._first(block + 1)
        rows = np.repeat(np.arange(len(first)), end - first)
        before = np.cumsum(end - first) - end  # images of the block ahead of a row's ordinal 0
        ordinals = np.arange(len(rows)) - before[rows]
        quotients = (2 * ordinals + 1) / (2 * self.images[rows])
        order = np.lexsort((rows, quotients))
        return quotients[order], rows[order], ordinals[order]


class RowByRow:
    """As `InTurn`, but all of a row's images, then the next row's: as data sets up to format 2 have them."""

    def __init__(self, images: Ints) -> None:
        self._until, self._images = np.cumsum(images), images

    def at(self, place: int) -> tuple[int, int]:
        """Row of the class, and ordinal, of the image at a place."""
        row = int(np.searchsorted(self._until, place, side="right"))
        return row, place - int(self._until[row] - self._images[row])

    def place(self, row: int, ordinal: int) -> int:
        """Place of a row's image."""
        return int(self._until[row] - self._images[row]) + ordinal


Order = InTurn | RowByRow

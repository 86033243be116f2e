"""The splits of a data set: what is named like one, and which is read.

One rule for all layouts: a split that is named is exactly its own; of several one must be named; a single one is taken.
The classes of a split are those it names itself - its class folders, the names its table declares, or the labels it
holds - and whoever compares two splits does so by the names of the classes.
"""

import re
from collections.abc import Sequence

from fglfast.base.errors import BadInputError

WORD = re.compile(
    r"(?<![a-z])(train(ing)?|test(ing)?|val(id(ation)?)?|dev|eval(uation)?|holdout|fold|private|public)"
    r"(set|data|images|imgs)?(?![a-z])",
    re.I,
)
FOLD = re.compile(r"(?<![a-z])fold", re.I)
SHOWN = 20  # splits that a hint lists


def like_a_split(name: str) -> bool:
    """Whether one of a name's words is a usual name of a split, as in `train`, `Test2017` or `validation_set`."""
    return bool(WORD.search(name))


def is_fold(name: str) -> bool:
    """Whether a name is that of one of several folds, whose number is no part's."""
    return bool(FOLD.search(name))


def chosen(source: str, splits: Sequence[str], asked: str | None) -> str:
    """The split to read: the one that is asked for, or the only one; the source is the data set without it.

    Raises:
        BadInputError: it is not there, or none is named and there are several.
    """
    named = [f"{source}:{split}" for split in sorted(splits) if split]
    more = f" and {len(named) - SHOWN} more" if len(named) > SHOWN else ""
    choice = f"name one: {', '.join(named[:SHOWN])}{more}" if named else f"it has no splits, give {source} alone"
    if named and "" in splits:
        choice += "; what names no split cannot be chosen"
    if asked is not None and asked not in splits:
        raise BadInputError(f"{source}: no split named {asked!r}", choice)
    if asked is None and len(splits) > 1:
        raise BadInputError(f"{source}: holds {len(splits)} splits and none is named", choice)
    return splits[0] if asked is None else asked

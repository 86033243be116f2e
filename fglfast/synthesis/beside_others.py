"""How each client's rows look beside those of the others: their norms, and what the others' rows say of their labels.

What travels is all that is looked at, so a client that lies consistently about prompts of its own looks like any other,
and of two clients that alone hold a class and disagree, either may be the liar. A client whose images really differ
agrees more rarely too. It is a reason to look, not a proof.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fglfast.generator.text import load_prompts
from fglfast.payload.merge import Ints, Merged, row_digests
from fglfast.synthesis.accounts import FAR, MOST_COMPARED, Account, OddRow, disagreeing, reckon
from fglfast.synthesis.class_rows import ClassRows
from fglfast.synthesis.plan import Row

Floats = NDArray[np.float64]

BLOCK = 64  # embeddings that are looked at together
BUCKETS = 1024  # for token ids, which are counted
LEAST_COMPARED, ALL_COMPARED = 4, 20_000  # rows of one of many clients, and of all
MOST_ODD = 3  # rows of a client that are named
MOST_CLASSES, MOST_LOOKED_UP = 200, 100  # whose prompts are encoded, and odd rows that are held against them
TIE = 1e-5  # squared distances that are one: classes with the same prompt
DIGITS = 3


@dataclass(frozen=True)
class _Rows:
    """All rows, as they are compared.

    Attributes:
        unit: features [U,F] of the distinct prompts, of length one: their position's mean, or counts of token ids.
        norms: of the distinct prompts [U], in usual norms; None for token ids, which have none.
        content: which prompt each row is [R].
        labels: class of each row [R].
        counts: private images that are said to be behind it [R].
        bounds: where each client's rows begin, and where the last one's end [C+1].
    """

    unit: NDArray[np.float32]
    norms: Floats | None
    content: Ints
    labels: Ints
    counts: Ints
    bounds: Ints

    def of(self, client: int) -> slice:
        """Of one client."""
        return slice(int(self.bounds[client]), int(self.bounds[client + 1]))


def accounts_of(
    rows: tuple[Row, ...], merged: Merged, model: Path | None, known: Mapping[str, int | None]
) -> tuple[Account, ...]:
    """The accounts of all clients of a plan of these rows.

    The text encoder in the folder `model` says what odd rows are nearest to; without one `known` does, by digest, for
    rows that were odd before.
    """
    table = _table(merged)
    taken_R = _taken(table, len(merged.class_names), _draws(merged))
    accounts = []
    for client, account in enumerate(reckon(rows, merged.clients)):
        own = table.of(client)
        compared = taken_R[own] >= 0
        figures: dict[str, Any] = {
            "compared": int(compared.sum()),
            "agreed": int((compared & (taken_R[own] == table.labels[own])).sum()),
        }
        if table.norms is not None and own.start < own.stop:
            norms = table.norms[table.content[own]]
            figures |= {"largest_norm": _rounded(norms.max()), "middle_norm": _rounded(np.median(norms))}
        accounts.append(account.model_copy(update=figures))
    odd = _odd_rows(accounts, table, taken_R)
    return _named(accounts, odd, table, taken_R, merged, _Nearest(merged, model, known))


def _table(merged: Merged) -> _Rows:
    bounds = np.searchsorted(merged.row_client, np.arange(len(merged.clients) + 1))
    if merged.embeddings is None:
        assert merged.token_ids is not None
        features_UF = np.zeros((len(merged.token_ids), BUCKETS))
        np.add.at(features_UF, (np.arange(len(features_UF))[:, None], merged.token_ids % BUCKETS), 1.0)
        norms_U = None
    else:
        blocks = [_looked_at(merged.embeddings[k : k + BLOCK]) for k in range(0, len(merged.embeddings), BLOCK)]
        features_UF = np.concatenate([features for features, _ in blocks])
        norms_U = np.concatenate([norms for _, norms in blocks])
        middles = [float(np.median(norms_U[own])) for own in np.split(merged.content, bounds[1:-1]) if len(own)]
        norms_U /= max(sorted(middles)[(len(middles) - 1) // 2], np.finfo(np.float64).tiny)
    lengths_U1 = np.linalg.norm(features_UF, axis=1, keepdims=True)
    unit_UF = (features_UF / np.maximum(lengths_U1, np.finfo(np.float64).tiny)).astype(np.float32)
    return _Rows(unit_UF, norms_U, merged.content, merged.labels, merged.counts, bounds)


def _looked_at(embeddings_BLD: NDArray[np.float16]) -> tuple[Floats, Floats]:
    """Means over the positions [B,D], and norms [B]."""
    wide_BLD = torch.from_numpy(embeddings_BLD).float()
    return wide_BLD.mean(dim=1).double().numpy(), wide_BLD.flatten(1).norm(dim=1).double().numpy()


def _draws(merged: Merged) -> np.random.Generator:
    """What chooses the rows that are compared: it follows from all payloads, so nobody knows it who makes one."""
    digest = hashlib.sha256(" ".join(merged.digests).encode()).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest[:16], "<u8")))


def _drawn(draws: np.random.Generator, rows: Ints, counts: Ints, most: int) -> Ints:
    """So many of the rows, ascending: the more images behind one, the likelier (Efraimidis and Spirakis 2006)."""
    return np.sort(rows[np.argsort(draws.exponential(size=len(rows)) / counts)[:most]])


def _taken(table: _Rows, classes: int, draws: np.random.Generator) -> Ints:
    """The class that the others' rows take each row for [R]; -1 where it was not asked, or they do not know the class.

    The model of the others' rows is their classes' means, of which each client makes one, so that no client counts more
    than another: a row is of the class whose mean is nearest. At least two classes have to be known.
    """
    clients = len(table.bounds) - 1
    sums_KF, holders_K = np.zeros((classes, table.unit.shape[1])), np.zeros(classes, dtype=np.int64)
    for client in range(clients):
        present, means_PF = _means(table, table.of(client))
        sums_KF[present] += means_PF
        holders_K[present] += 1
    means_KF = (sums_KF / np.maximum(holders_K, 1)[:, None]).astype(np.float32)
    squares_K = np.square(means_KF).sum(axis=1)
    taken_R = np.full(len(table.labels), -1, dtype=np.int64)
    most = int(np.clip(ALL_COMPARED // max(clients, 1), LEAST_COMPARED, MOST_COMPARED))
    for client in range(clients):
        own = table.of(client)
        present, own_PF = _means(table, own)
        others_K = holders_K.copy()
        others_K[present] -= 1
        rows = np.arange(own.start, own.stop)[others_K[table.labels[own]] > 0]
        if len(rows) == 0 or np.count_nonzero(others_K) < 2:
            continue
        rows = _drawn(draws, rows, table.counts[rows], most)
        rows_BF = table.unit[table.content[rows]]
        distances_BK = squares_K - 2 * rows_BF @ means_KF.T
        without_PF = ((sums_KF[present] - own_PF) / np.maximum(others_K[present], 1)[:, None]).astype(np.float32)
        distances_BK[:, present] = np.square(without_PF).sum(axis=1) - 2 * rows_BF @ without_PF.T
        distances_BK[:, others_K == 0] = np.inf
        stated_B = np.take_along_axis(distances_BK, table.labels[rows][:, None], axis=1)[:, 0]
        tied_B = stated_B <= distances_BK.min(axis=1) + TIE
        taken_R[rows] = np.where(tied_B, table.labels[rows], distances_BK.argmin(axis=1))
    return taken_R


def _means(table: _Rows, own: slice) -> tuple[Ints, Floats]:
    """The classes of a client's rows, ascending [P], and the mean of its rows of each [P,F]."""
    present, which, counts = np.unique(table.labels[own], return_inverse=True, return_counts=True)
    sums_PF = np.zeros((len(present), table.unit.shape[1]))
    np.add.at(sums_PF, which, table.unit[table.content[own]])
    return present, sums_PF / counts[:, None]


def _odd_rows(accounts: list[Account], table: _Rows, taken_R: Ints) -> list[list[int]]:
    """The rows of each client that stand out: by their norm, and where it disagrees with the others by their label."""
    doubted = {account.client for account in disagreeing(accounts)}
    found = []
    for client, account in enumerate(accounts):
        own = table.of(client)
        norms = np.ones(own.stop - own.start) if table.norms is None else table.norms[table.content[own]]
        by_norm = np.abs(np.log(np.maximum(norms, np.finfo(np.float64).tiny)))
        away = (taken_R[own] >= 0) & (taken_R[own] != table.labels[own]) & (account.client in doubted)
        order = np.lexsort((-by_norm, ~away))
        odd = [k for k in order[:MOST_ODD].tolist() if away[k] or by_norm[k] > np.log(FAR)]
        found.append([own.start + k for k in odd])
    return found


class _Nearest:
    """Which class's own prompt, as a class-level payload holds it, a row is most like."""

    def __init__(self, merged: Merged, model: Path | None, known: Mapping[str, int | None]) -> None:
        self.merged, self.known, self.left = merged, known, MOST_LOOKED_UP
        few = len(merged.class_names) <= MOST_CLASSES
        self.rows = ClassRows(model) if model and few else None

    def __call__(self, row: int, digest: str) -> int | None:
        """The label; None where nobody can say."""
        if self.rows is None or not self.left:
            return self.known.get(digest)
        self.left -= 1
        template = load_prompts(self.rows.model, self.merged.domains[self.merged.row_client[row]]).class_level
        prompts = [template.format(label=name) for name in self.merged.class_names]
        known_KF = np.stack([self.rows.encoded(prompt)[1].ravel() for prompt in prompts]).astype(np.float64)
        own_F = self._embedding(int(self.merged.content[row])).ravel().astype(np.float64)
        known_KF /= np.linalg.norm(known_KF, axis=1, keepdims=True)
        return int((known_KF @ own_F).argmax())

    def _embedding(self, content: int) -> NDArray[np.floating]:
        if self.merged.embeddings is not None:
            return np.asarray(self.merged.embeddings[content])
        assert self.rows is not None and self.rows.encoder is not None and self.merged.token_ids is not None
        return np.asarray(self.rows.encoder.encode(self.merged.token_ids[content : content + 1])[0])


def _named(
    accounts: list[Account], odd: list[list[int]], table: _Rows, taken_R: Ints, merged: Merged, nearest: _Nearest
) -> tuple[Account, ...]:
    """The accounts with their odd rows."""
    digests = row_digests(merged) if any(odd) else []

    def named(row: int) -> OddRow:
        label, taken = int(table.labels[row]), int(taken_R[row])
        norm = None if table.norms is None else _rounded(table.norms[table.content[row]])
        other = taken if taken not in (-1, label) else None
        near = nearest(row, digests[row])
        return OddRow(label=label, row=digests[row], norm=norm, taken_for=other, nearest=near)

    return tuple(
        account.model_copy(update={"odd": tuple(map(named, rows))}) if rows else account
        for account, rows in zip(accounts, odd, strict=True)
    )


def _rounded(value: float) -> float | None:
    """To a few digits, so that the last bits of another machine's arithmetic do not show."""
    return float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None

"""The payloads of all clients as one table of rows.

Clients that hold the same class send the same prompt: each distinct embedding is kept once, whoever sent it, so a
thousand clients with a thousand classes cost the memory of a thousand embeddings.
"""

import hashlib
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fglfast.base.console import note
from fglfast.base.errors import BadInputError
from fglfast.base.names import drawn
from fglfast.base.wording import some
from fglfast.payload import Payload
from fglfast.payload.header import PayloadHeader, PromptLevel
from fglfast.payload.rows import little_endian

Ints = NDArray[np.int64]
DISTINCTIVE_ROWS = 16
NAMED = 3  # of the classes that send one prompt, and of such groups


@dataclass(frozen=True)
class Merged:
    """The rows of all clients, in order of client name.

    Attributes:
        class_names: all classes, in the order of the labels.
        embeddings: distinct float16 text embeddings [U,L,D], or None.
        token_ids: distinct int32 token ids [U,T], or None; exactly one of the two is there.
        content: which of those each row is [R].
        labels: class of each row [R].
        counts: private images behind each row [R]; their sum fits int64.
        clients: names, ascending.
        domains: the word for the images of each client, in the order of `clients`, or None.
        levels: what a row of each client is, in the order of `clients`.
        row_client: the client of each row [R], indices into `clients`.
        digests: payload hash of each client, in the order of `clients`.
        text_encoder: fingerprint that all payloads share.
    """

    class_names: tuple[str, ...]
    embeddings: NDArray[np.float16] | None
    token_ids: NDArray[np.int32] | None
    content: Ints
    labels: Ints
    counts: Ints
    clients: tuple[str, ...]
    domains: tuple[str | None, ...]
    levels: tuple[PromptLevel, ...]
    row_client: Ints
    digests: tuple[str, ...]
    text_encoder: str


@dataclass(frozen=True)
class _Part:
    """What is kept of one payload."""

    client: str
    domain: str | None
    level: PromptLevel
    digest: str
    content: Ints
    labels: Ints
    counts: Ints


def merge_payloads(payloads: Iterable[Payload]) -> Merged:
    """Stack the rows of all clients, in order of client name; give an iterator to hold one payload at a time.

    Raises:
        BadInputError: none given; or two clients differ in class names, encoder, kind or shape of
            their rows, share a name (see `looks`), or one is a copy of the other; or their images together overflow
            int64.
    """
    parts: dict[str, _Part] = {}
    places: dict[bytes, int] = {}
    distinct: list[NDArray[Any]] = []
    first: Payload | None = None
    senders: dict[str, str] = {}
    named: dict[str, str] = {}
    for payload in payloads:
        _check_rows_there(payload)
        first = first or payload
        client = payload.header.client
        if client in parts:
            raise BadInputError(f"two payloads of one client, {client!r}", "give each client's payload once")
        if (other := named.setdefault(looks(client), client)) != client:
            raise BadInputError(f"clients {other!r} and {client!r} have names that look alike", "one has to change")
        _check_pair(first, payload)
        if (whole := fingerprint(payload)) is not None:
            if whole in senders:
                who = f"clients {senders[whole]!r} and {client!r}"
                raise BadInputError(f"{who} sent the same payload", "leave out the copy")
            senders[whole] = client
        content = np.array([_place(row, places, distinct) for row in payload.prompts()], dtype=np.int64)
        facts = payload.header.domain, payload.header.prompt_level, payload.digest()
        parts[client] = _Part(client, *facts, content, payload.labels, payload.counts)
    if first is None:
        raise BadInputError("no payload to merge", "give at least one client's payload")
    return _table(first, [parts[client] for client in sorted(parts)], np.stack(distinct))


def row_digests(merged: Merged) -> list[str]:
    """What each row [R] is, whoever sent it and of whatever class: sha256 over its content, and its client's domain.

    The domain counts because it chooses the negative prompt, and so the images. Embeddings that travelled in eight bits
    are what those bits mean.
    """
    distinct = merged.embeddings if merged.embeddings is not None else merged.token_ids
    assert distinct is not None
    kind = f"{distinct.dtype.name} {distinct.shape[1:]}".encode()
    contents = [hashlib.sha256(kind + b"\0" + little_endian(row).tobytes()).hexdigest() for row in distinct]
    return [
        contents[content] if (domain := merged.domains[client]) is None else _within(contents[content], domain)
        for content, client in zip(merged.content.tolist(), merged.row_client.tolist(), strict=True)
    ]


def _within(content: str, domain: str) -> str:
    return hashlib.sha256(f"{content} {domain}".encode()).hexdigest()


def by_client(clients: Iterable[str], digests: Iterable[str]) -> dict[str, str]:
    """Payload hashes, each under words that name its client: what two runs differ in is then said by name."""
    return {f"payload of {client}": digest for client, digest in zip(clients, digests, strict=False)}


def looks(client: str) -> str:
    """Equal for client names that people take for one: Unicode form (NFKC), case, spacing, invisible letters aside.

    Those go first: between a letter and its accent they would keep the two from becoming one.
    """
    seen = "".join(letter for letter in drawn(client) if unicodedata.category(letter) != "Cf")
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", seen).casefold())
    return " ".join(folded.split())


def fingerprint(payload: Payload) -> str | None:
    """sha256 of all rows, labels and counts in any order: equal for two clients only if one sent the other's payload.

    None where honest clients may be equal: class-level prompts are the class names, so that an even split of the images
    makes equal payloads, and a few captions may coincide. Noise on embeddings never does, nor does what was
    learned from images.
    """
    privacy, level = payload.header.privacy, payload.header.prompt_level
    noisy = privacy is not None and privacy.noise > 0 and privacy.clip > 0
    own = level in ("learned", "routed") or noisy
    if not own and (level == "class" or len(payload.labels) < DISTINCTIVE_ROWS):
        return None
    facts = zip(payload.prompts(), payload.labels.tolist(), payload.counts.tolist(), strict=True)
    rows = sorted(hashlib.sha256(row.tobytes() + b"%d %d" % (label, count)).digest() for row, label, count in facts)
    return hashlib.sha256(b"".join(rows)).hexdigest()


def same_prompts(merged: Merged, rows: Sequence[bool] | NDArray[np.bool_] | None = None) -> list[tuple[str, ...]]:
    """Classes that have the same row, by name, each group once: a generator draws the same images for them.

    `rows` is a mask [R] of those that are looked at; None is all.
    """
    chosen = np.ones(len(merged.labels), dtype=bool) if rows is None else np.asarray(rows, dtype=bool)
    pairs = np.unique(np.stack([merged.content[chosen], merged.labels[chosen]], axis=1), axis=0)
    labels = np.split(pairs[:, 1], np.flatnonzero(np.diff(pairs[:, 0])) + 1)
    groups = dict.fromkeys(tuple(own.tolist()) for own in labels if len(own) > 1)
    return [tuple(merged.class_names[label] for label in group) for group in groups]


def check_prompts(merged: Merged, allowed: bool, option: str) -> None:
    """Name the classes that send the same prompt; refuse them where that prompt is all that a class has.

    At instance level captions may coincide and others differ: there it is said and no more. `option` is by which a user
    allows it.

    Raises:
        BadInputError: class-level prompts of several classes are the same, and they may not be.
    """
    one_a_class = np.array([level != "instance" for level in merged.levels])[merged.row_client]
    refused = same_prompts(merged, one_a_class)
    if refused and not allowed:
        hint = f"rename or shorten them: case does not count, and what is too long is cut off; or {option}"
        raise BadInputError(same_words(refused), hint)
    if groups := same_prompts(merged):
        note(f"{same_words(groups)}: their images are drawn alike")


def same_words(groups: Sequence[tuple[str, ...]], cut: Collection[str] = ()) -> str:
    """Which classes send the same prompt, on one line, and why if that can be told: those of `cut` were too long."""
    together = [some([repr(name) for name in group], NAMED) + _cause(group, cut) for group in groups]
    count = len({name for group in groups for name in group})
    return f"{count:,} classes send the same prompt as another: " + some(together, NAMED, "; ")


def _cause(group: tuple[str, ...], cut: Collection[str]) -> str:
    if len({name.casefold() for name in group}) == 1:
        return " (which differ in case only)"
    return " (the rest is cut off)" if set(group) & set(cut) else ""


def _table(first: Payload, parts: list[_Part], distinct: NDArray[Any]) -> Merged:
    if sum(sum(part.counts.tolist()) for part in parts) > np.iinfo(np.int64).max:
        raise BadInputError("counts: the clients' images together overflow 64 bits", "leave out clients that lie")
    return Merged(
        class_names=first.header.class_names,
        embeddings=distinct if first.embeddings is not None else None,
        token_ids=distinct if first.token_ids is not None else None,
        content=np.concatenate([part.content for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        counts=np.concatenate([part.counts for part in parts]),
        clients=tuple(part.client for part in parts),
        domains=tuple(part.domain for part in parts),
        levels=tuple(part.level for part in parts),
        row_client=np.repeat(np.arange(len(parts), dtype=np.int64), [len(part.labels) for part in parts]),
        digests=tuple(part.digest for part in parts),
        text_encoder=first.header.text_encoder,
    )


def _place(row: NDArray[Any], places: dict[bytes, int], distinct: list[NDArray[Any]]) -> int:
    """Where a row is among the distinct ones, added if it is new."""
    key = hashlib.sha256(row.tobytes()).digest()
    if key not in places:
        places[key] = len(distinct)
        distinct.append(row.copy())
    return places[key]


def _check_rows_there(payload: Payload) -> None:
    """Refuse routing that no inventory has made rows of."""
    if payload.routes is not None and payload.embeddings is None:
        raise BadInputError(
            f"client {payload.header.client!r} sent routing, which stands for nothing without its adapters",
            "synthesize, verify and forget take those (--inventory FILE); else leave the payload out",
        )


def _check_pair(left: Payload, right: Payload) -> None:
    """Refuse two payloads that cannot be merged."""
    one, other = left.header, right.header
    who = f"clients {one.client!r} and {other.client!r}"
    if one.class_names != other.class_names:
        why = f"{_lacking(one, other)}{_lacking(other, one)}" or ", in the order of their classes"
        raise BadInputError(f"class_names: {who} differ{why}", "embed with one list of them: --classes FILE")
    if one.text_encoder != other.text_encoder:
        raise BadInputError(f"text_encoder: {who} differ", "embed with the same model folder")
    if (left.token_ids is None) != (right.token_ids is None):
        sends = "token_ids, the other embeddings" if right.token_ids is None else "embeddings, the other token_ids"
        raise BadInputError(f"{who} differ: the one sends {sends}", "choose one --send for all clients")
    shapes = left.prompts().shape[1:], right.prompts().shape[1:]
    if shapes[0] != shapes[1]:
        raise BadInputError(f"{who} differ: rows of {shapes[0]} and {shapes[1]}", "embed with one model folder")


def _lacking(header: PayloadHeader, other: PayloadHeader) -> str:
    """In words, the classes of another list that a client's has not; empty if there is none."""
    there = set(header.class_names)
    names = [repr(name) for name in other.class_names if name not in there]
    return f"; {header.client!r} lacks {some(names)}" if names else ""

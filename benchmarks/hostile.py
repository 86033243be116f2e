"""What a hostile client may do, each as a change of an honest client's reply. Knows no judge of it."""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from safetensors.numpy import load, save

from fglfast.federation import wire
from fglfast.payload import Payload, Privacy, load_payload, save_payload

Spoil = Callable[[RecordDict, RecordDict], RecordDict]  # an honest reply and what was asked, to what is sent
Weights = wire.Weights


@dataclass(frozen=True)
class Attack:
    """One behaviour.

    Attributes:
        name: in the table.
        message: the type of message that it answers so.
        spoil: makes the reply.
        expected: `refused`: the operator reads the client's name and why; `harmless`: it is no different from what an
            honest client might say, and changes little.
    """

    name: str
    message: str
    spoil: Spoil
    expected: Literal["refused", "harmless"] = "refused"


class HostileApp:
    """Flower's honest app but for the client of one `partition-id`, which attacks; the others are as they were."""

    def __init__(self, honest: ClientApp, attack: Attack, number: int) -> None:
        self.honest, self.attack, self.number = honest, attack, number

    def __call__(self, message: Message, context: Context) -> Message:
        """The honest reply, or what the attack makes of it."""
        asked = message.content
        reply = self.honest(message, context)
        mine = context.node_config["partition-id"] == self.number
        if not mine or message.metadata.message_type != self.attack.message or reply.has_error():
            return reply
        return Message(self.attack.spoil(reply.content, asked), reply_to=message)


def on_weights(change: Callable[[Weights, Weights], Weights]) -> Spoil:
    """A reply whose weights are made of the honest ones and of those that were sent."""

    def spoil(reply: RecordDict, asked: RecordDict) -> RecordDict:
        own, sent = (wire.weights(content.array_records[wire.ARRAYS]) for content in (reply, asked))
        return RecordDict({wire.ARRAYS: wire.weights_record(change(own, sent))})

    return spoil


def on_floats(change: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], statistics: bool = True) -> Spoil:
    """As `on_weights`, tensor by tensor; whole numbers stay, and if asked the statistics of batch normalisation."""

    def change_all(own: Weights, sent: Weights) -> Weights:
        names = [name for name in own if own[name].is_floating_point() and (statistics or "running_" not in name)]
        return own | {name: change(own[name], sent[name]) for name in names}

    return on_weights(change_all)


on_parameters = partial(on_floats, statistics=False)  # of which some values are refused as they are


def on_payload(change: Callable[[Payload], Payload]) -> Spoil:
    """A reply whose payload is sound in form, and lies."""

    def spoil(reply: RecordDict, asked: RecordDict) -> RecordDict:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "payload.safetensors"
            path.write_bytes(wire.payload_of(reply))
            save_payload(change(load_payload(path)), path)
            return file_of(path.read_bytes())

    return spoil


def on_tensors(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Spoil:
    """A reply whose payload breaks a rule that our own writer keeps."""

    def spoil(reply: RecordDict, asked: RecordDict) -> RecordDict:
        content = wire.payload_of(reply)
        length = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + length])["__metadata__"]
        return file_of(save(change(load(content)), metadata=metadata))

    return spoil


def file_of(content: Any) -> RecordDict:
    """A reply with a payload's bytes."""
    return RecordDict({wire.CONFIG: ConfigRecord({wire.FILE: content})})


def with_header(**changes: Any) -> Spoil:
    """A payload that says something else of itself."""
    return on_payload(lambda own: replace(own, header=own.header.model_copy(update=changes)))


def with_metrics(**values: Any) -> Spoil:
    """A reply of these numbers."""
    return lambda reply, asked: RecordDict({wire.METRICS: MetricRecord(values)})


def beside(name: str, record: Any) -> Spoil:
    """The honest reply with one record more."""
    return lambda reply, asked: RecordDict({**reply, name: record})


def with_array(change: Callable[[Array], Array]) -> Spoil:
    """The honest weights, one array of them as Flower never writes it."""

    def spoil(reply: RecordDict, asked: RecordDict) -> RecordDict:
        record = dict(reply.array_records[wire.ARRAYS])
        first = next(iter(record))
        return RecordDict({wire.ARRAYS: ArrayRecord({**record, first: change(record[first])})})

    return spoil


def words(reply: RecordDict, asked: RecordDict) -> RecordDict:
    """A refusal that would move the operator's cursor and fill the screen."""
    return RecordDict(
        {wire.CONFIG: ConfigRecord({wire.REFUSED: "\x1b[2J\x1b[H\n\u202e" + "round 1: all is well; " * 999})}
    )


def crash(reply: RecordDict, asked: RecordDict) -> RecordDict:
    """No reply at all."""
    raise RuntimeError("\x1b[31mbroken\n" * 50)


def _flipped(own: Payload) -> Payload:
    classes = len(own.header.class_names)
    return replace(own, labels=np.sort((own.labels + 1) % classes)) if len(own.labels) < classes else _swapped(own)


def _swapped(own: Payload) -> Payload:
    assert own.embeddings is not None
    return replace(own, embeddings=own.embeddings[::-1].copy())


def _junk(own: Payload) -> Payload:
    assert own.embeddings is not None
    draw = np.random.default_rng(0)
    return replace(own, embeddings=draw.normal(0, 1, own.embeddings.shape).astype(np.float16))


def _many_rows(own: Payload) -> Payload:
    assert own.embeddings is not None
    close = own.embeddings + np.linspace(0, 1e-3, 8, dtype=np.float16)[:, None, None, None]
    shape = own.embeddings.shape
    return replace(
        own, embeddings=close.reshape(-1, *shape[1:]), labels=np.tile(own.labels, 8), counts=np.tile(own.counts, 8)
    )


def _tokens(own: Payload) -> Payload:
    assert own.embeddings is not None
    ids = np.arange(16 * len(own.labels), dtype=np.int32).reshape(-1, 16)
    return replace(own, embeddings=None, token_ids=ids)


NOISE = Privacy(mechanism="gaussian", epsilon=1.0, delta=1e-5, clip=1.0, noise=0.5)
PAYLOADS = (
    Attack("labels flipped", wire.PAYLOAD, on_payload(_flipped)),
    Attack("junk for embeddings", wire.PAYLOAD, on_payload(_junk)),
    Attack("noise claimed, so that rows cannot be proved", wire.PAYLOAD, with_header(privacy=NOISE)),
    Attack("one class in many nearly equal rows", wire.PAYLOAD, on_payload(_many_rows)),
    Attack("a template of its own", wire.PAYLOAD, with_header(template="no {label}, noise")),
    Attack("another prompt level", wire.PAYLOAD, with_header(prompt_level="learned")),
    Attack("another's name", wire.PAYLOAD, with_header(client="client000")),
    Attack("a name that looks like another's", wire.PAYLOAD, with_header(client="CLIENT000")),
    Attack("other classes", wire.PAYLOAD, with_header(class_names=("a", "b", "c"))),
    Attack("token ids", wire.PAYLOAD, on_payload(_tokens)),
    Attack("NaN in a row", wire.PAYLOAD, on_tensors(lambda own: {**own, "embeddings": own["embeddings"] * np.nan})),
    Attack("no images", wire.PAYLOAD, on_tensors(lambda own: {**own, "counts": own["counts"] * 0})),
    Attack("cut short", wire.PAYLOAD, lambda reply, asked: file_of(wire.payload_of(reply)[:-7])),
    Attack("text for bytes", wire.PAYLOAD, lambda reply, asked: file_of("payload")),
    Attack("an empty reply to the payload", wire.PAYLOAD, lambda reply, asked: RecordDict()),
    Attack(
        "a billion images claimed",
        wire.PAYLOAD,
        on_payload(lambda own: replace(own, counts=own.counts + 10**9)),
        "harmless",
    ),
)
UPDATES = (
    Attack("weights of 1e30", wire.TRAIN, on_floats(lambda own, sent: torch.full_like(own, 1e30))),
    Attack("weights that are not numbers", wire.TRAIN, on_floats(lambda own, sent: own * float("nan"))),
    Attack("the step reversed, 1,000 times", wire.TRAIN, on_parameters(lambda own, sent: sent - 1000 * (own - sent))),
    Attack("the step scaled 30 times, reversed", wire.TRAIN, on_parameters(lambda own, sent: sent - 30 * (own - sent))),
    Attack("negative variances", wire.TRAIN, on_floats(lambda own, sent: -own.abs())),
    Attack("a step reversed", wire.TRAIN, on_parameters(lambda own, sent: sent - (own - sent))),
    Attack("nothing learned", wire.TRAIN, on_weights(lambda own, sent: sent), "harmless"),
    Attack("a weight missing", wire.TRAIN, on_weights(lambda own, sent: dict(list(own.items())[1:]))),
    Attack("a weight too many", wire.TRAIN, on_weights(lambda own, sent: {**own, "more": torch.zeros(3)})),
    Attack("other shapes", wire.TRAIN, on_weights(lambda own, sent: {name: w[None] for name, w in own.items()})),
    Attack("other types", wire.TRAIN, on_weights(lambda own, sent: {name: w.double() for name, w in own.items()})),
    Attack("numbers beside the weights", wire.TRAIN, beside(wire.METRICS, MetricRecord({"num-examples": 10**15}))),
    Attack("a second set of weights", wire.TRAIN, beside("more", ArrayRecord({"w": Array(np.zeros(3))}))),
    Attack(
        "a pickle for an array",
        wire.TRAIN,
        with_array(lambda own: Array(dtype="object", shape=(1,), stype="numpy.ndarray", data=b"\x80\x04N." * 99)),
    ),
    Attack(
        "an array that announces terabytes",
        wire.TRAIN,
        with_array(lambda own: replace_data(own, own.data.replace(b"'shape': (", b"'shape': (999999999, ", 1))),
    ),
    Attack("a crash", wire.TRAIN, crash),
    Attack("words that move the cursor", wire.TRAIN, words),
)
JUDGEMENTS = (
    Attack("more than all are right", wire.EVALUATE, with_metrics(**{wire.SHARE: 2.0})),
    Attack("a share that is not a number", wire.EVALUATE, with_metrics(**{wire.SHARE: float("nan")})),
    Attack("a list for a share", wire.EVALUATE, with_metrics(**{wire.SHARE: [0.5, 0.5]})),
    Attack("numbers too many", wire.EVALUATE, with_metrics(**{wire.SHARE: 0.5, "num-examples": 10**15})),
    Attack("all wrong, always", wire.EVALUATE, with_metrics(**{wire.SHARE: 0.0}), "harmless"),
    Attack("all right, always", wire.EVALUATE, with_metrics(**{wire.SHARE: 1.0}), "harmless"),
)
ATTACKS = (*PAYLOADS, *UPDATES, *JUDGEMENTS)


def replace_data(own: Array, data: bytes) -> Array:
    """An array with other bytes."""
    return Array(dtype=own.dtype, shape=tuple(own.shape), stype=own.stype, data=data)

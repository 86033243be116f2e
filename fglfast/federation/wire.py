"""What client and server say to each other, as Flower's records: one exact form for each message.

Message types: `query.payload` (prompt embeddings), `train` (local epochs from the global weights), `evaluate` (the
global weights on the client's held-out images), `query.moments` (statistics of the features of its images),
`query.deliver` (the final model, with its prototypes where it has some), `query.adapt` (the same, judged on the
client's held-out images as it is and adapted to the client), `query.refused` (why this client is not taken). A reply
holds its one record and nothing else; but for the moments, no reply says how many images a client has, because its
payload does, with noise where the client wants some.
"""

import io
import math
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from torch import Tensor

from fglfast.base.console import visible

PAYLOAD, TRAIN, EVALUATE = "query.payload", "train", "evaluate"
DELIVER, TURNED_AWAY, MOMENTS, ADAPT = "query.deliver", "query.refused", "query.moments", "query.adapt"
ARRAYS, CONFIG, METRICS = "arrays", "config", "metrics"  # Flower's own names of the records
PROTOTYPES = "prototypes"  # the record beside the arrays of a final model
SHARE, ADAPTED, KEPT, FILE, REFUSED = "share-right", "adapted-share-right", "kept", "file", "refused"
STEPS = "num_batches_tracked"  # by batch normalisation; that of a client would count its images
LONGEST = 200  # letters of what a client says
NPY_HEADER = 1 << 10  # bytes that NumPy's format may put before an array

Weights = dict[str, Tensor]
T = TypeVar("T")


class UnfitError(Exception):
    """A reply that is not in its exact form; says in which way."""


class DeclinedError(Exception):
    """A client that says it does not answer; says why."""


def one_line(text: object) -> str:
    """What a stranger says, as one line that is safe to show and not too long."""
    line = " ".join(visible(str(text)).split())
    return line if len(line) <= LONGEST else line[: LONGEST - 3] + "..."


def weights_record(weights: Weights) -> ArrayRecord:
    """Weights and buffers of a model by name."""
    return ArrayRecord({name: tensor.detach().cpu() for name, tensor in weights.items()})


def weights(record: ArrayRecord) -> Weights:
    """Weights and buffers by name."""
    return dict(record.to_torch_state_dict())


def config(**values: Any) -> dict[str, ConfigRecord]:
    """Settings as the one record that a message carries them in."""
    return {CONFIG: ConfigRecord(values)}


def metrics(**values: Any) -> RecordDict:
    """Numbers as the one record of a reply."""
    return RecordDict({METRICS: MetricRecord(values)})


def refusal(why: str) -> RecordDict:
    """Why a client is not taken, or does not answer, as the one record of a message."""
    return RecordDict({CONFIG: ConfigRecord({REFUSED: one_line(why)})})


def count_bytes(content: RecordDict) -> int:
    """Bytes of a message's records as they travel; names and headers of the transport are not counted."""
    return sum(record.count_bytes() for record in content.values())


def read(content: RecordDict, form: Callable[[RecordDict], T]) -> T:
    """A reply in its exact form; a stranger wrote it.

    Raises:
        DeclinedError: the client does not answer.
        UnfitError: it has another form.
    """
    try:
        _check_declined(content)
        return form(content)
    except (DeclinedError, UnfitError):
        raise
    except Exception as error:  # whatever reading it raises
        raise UnfitError(one_line(f"its reply cannot be read: {type(error).__name__}: {error}")) from error


def _check_declined(content: RecordDict) -> None:
    said = content[CONFIG] if set(content) == {CONFIG} else None
    if isinstance(said, ConfigRecord) and set(said) == {REFUSED}:
        raise DeclinedError(one_line(said[REFUSED]))


def payload_of(content: RecordDict) -> bytes:
    """The bytes of a payload file."""
    found = _only(content, CONFIG, ConfigRecord, {FILE})[FILE]
    if not isinstance(found, bytes):
        raise UnfitError(f"its payload is of type {type(found).__name__}")
    return found


def share_of(content: RecordDict) -> float | None:
    """Which share of its held-out images a client names rightly; None where it holds out none."""
    shares = _shares(content, SHARE)
    return shares[0] if shares else None


def adapted_of(content: RecordDict) -> tuple[float, float] | None:
    """That share of a model as it is, and adapted to the client; None where the client holds no image out."""
    shares = _shares(content, SHARE, ADAPTED)
    return (shares[0], shares[1]) if shares else None


def _shares(content: RecordDict, *names: str) -> list[float]:
    """Shares by name, or none at all."""
    if set(content) == {METRICS} and not len(content[METRICS]):
        return []
    record = _only(content, METRICS, MetricRecord, set(names))
    for name in names:
        if not isinstance(record[name], float) or not 0 <= record[name] <= 1:
            raise UnfitError(one_line(f"{name} is {record[name]!r}"))
    return [record[name] for name in names]


def kept_of(content: RecordDict) -> bool:
    """Whether a client kept the final model."""
    kept = _only(content, METRICS, MetricRecord, {KEPT})[KEPT]
    if not isinstance(kept, int) or kept not in (0, 1):
        raise UnfitError(one_line(f"{KEPT} is {kept!r}"))
    return bool(kept)


def weights_of(content: RecordDict, sent: Weights) -> Weights:
    """The weights of a round, of the same names, shapes and types as those sent; all finite, no variance negative.

    Counters of steps stay as they were sent, whatever a client says of them.
    """
    record = _only(content, ARRAYS, ArrayRecord, set(sent))
    found = {name: _tensor(name, record[name], tensor) for name, tensor in sent.items()}
    for name, tensor in found.items():
        if not bool(tensor.isfinite().all()):
            raise UnfitError("it sent weights that are not finite")
        if name.endswith("running_var") and bool((tensor < 0).any()):
            raise UnfitError(f"{name} is negative")
    return found | {name: tensor for name, tensor in sent.items() if name.endswith(STEPS)}


def _only(content: RecordDict, name: str, kind: type[Any], keys: set[str]) -> Any:
    """The one record of a reply, with these keys and no others."""
    if set(content) != {name} or not isinstance(content[name], kind):
        raise UnfitError(one_line(f"it holds {sorted(content)}, not one {kind.__name__} {name!r}"))
    record = content[name]
    if set(record) != keys:
        strange = sorted(set(record) ^ keys)
        what = "the weights of another model" if kind is ArrayRecord else f"{len(strange)} keys too many or too few"
        raise UnfitError(one_line(f"{what}: {strange[0]!r}"))
    return record


def _tensor(name: str, array: Any, sent: Tensor) -> Tensor:
    """An array whose own header is what is wanted, before room is made for it."""
    data, wanted = array.data, sent.detach().cpu().numpy()
    if array.stype != "numpy.ndarray" or not wanted.nbytes < len(data) <= wanted.nbytes + NPY_HEADER:
        raise UnfitError(one_line(f"the weights of another model: {name} has {len(data)} bytes"))
    stream = io.BytesIO(data)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise UnfitError(f"{name} is of another format")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    whole = len(data) - stream.tell() == wanted.nbytes
    if shape != wanted.shape or dtype != wanted.dtype or (fortran and len(shape) > 1) or not whole:
        raise UnfitError(one_line(f"the weights of another model: {name} is {dtype} {shape}"))
    return torch.from_numpy(np.frombuffer(data[stream.tell() :], dtype=dtype).reshape(shape).copy())


def is_finite(weights: Weights) -> bool:
    """Whether all weights are numbers, and so small that their squares are."""
    return all(math.isfinite(tensor.double().square().sum().item()) for tensor in weights.values())

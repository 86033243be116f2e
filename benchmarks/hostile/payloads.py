"""Hostile payloads. What is accepted is held against the file by arithmetic on its bytes."""

import json
import random
import struct
import tempfile
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.hostile.case import BAD_NAMES, NAMES, ODD, Case, Expected, damaged, edited, plain_json, respelled, same
from fglfast.payload import Payload, PayloadHeader, load_payload, save_payload

FILE = "p.safetensors"
TYPES = {"F16": "<f2", "F32": "<f4", "I8": "<i1", "U16": "<u2", "I32": "<i4", "I64": "<i8"}
Tensors = dict[str, np.ndarray]


class Payloads:
    """Payloads of all three forms."""

    def __init__(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            self.samples = [
                _sample(Path(folder), form, rows) for form in ("embeddings", "int8", "tokens") for rows in (1, 6)
            ]
        self.files = {FILE: self.samples[0]}

    def case(self, draw: random.Random) -> Case:
        """One payload: damaged bytes, another header, other tensors, another text of the header, or a sound one."""
        content = draw.choice(self.samples)
        how: Callable[[random.Random, bytes], tuple[str, bytes, Expected]] = draw.choice(
            (self._bytes, self._facts, self._facts, self._values, self._values, self._entries, self._text, self._sound)
        )
        what, made, expected = how(draw, content)
        if made == content:
            expected = "accepted"
        return Case(f"{how.__name__.strip('_')}: {what}", {FILE: made}, expected)

    def read(self, folder: Path) -> Payload:
        """By the program."""
        return load_payload(folder / FILE)

    def lie(self, case: Case, folder: Path, accepted: Payload) -> str:
        """By the bytes."""
        content = (folder / FILE).read_bytes()
        header, twice = plain_json(content[8 : 8 + _length(content)])
        facts, twice_in = plain_json(header.pop("__metadata__")["fglfast"])
        if twice or twice_in:
            return "a key is there twice"
        told = accepted.header.model_dump(mode="json")
        if facts.get("privacy"):
            facts["privacy"] = {"unit": "image", "uploads": 1} | facts["privacy"]
        if not all(same(facts[key], told[key]) for key in facts) or any(
            told[key] is not None for key in told.keys() - facts.keys()
        ):
            return "the header says otherwise"
        tensors = {name: _tensor(content, entry) for name, entry in header.items()}
        return (
            _wrong_header(facts)
            or _wrong_bytes(content, header)
            or ("token ids that were learned" if facts["prompt_level"] == "learned" and "token_ids" in tensors else "")
            or _wrong_rows(tensors, facts, accepted)
            or _changes(accepted, folder)
        )

    def _bytes(self, draw: random.Random, content: bytes) -> tuple[str, bytes, Expected]:
        what, made = damaged(draw, content, draw.choice(self.samples))
        return what, made, "refused" if what == "grow" or (what == "cut" and made != content) else "either"

    def _facts(self, draw: random.Random, content: bytes) -> tuple[str, bytes, Expected]:
        """Another value in the header that says who sends it."""
        header, tail = _parts(content)
        facts = json.loads(header["__metadata__"]["fglfast"])
        what, changes, expected = draw.choice(_CHANGES)(draw, facts)
        facts |= changes
        header["__metadata__"]["fglfast"] = respelled(
            draw, {key: value for key, value in facts.items() if value != "gone"}
        )
        return what, _joined(header, tail), expected

    def _values(self, draw: random.Random, content: bytes) -> tuple[str, bytes, Expected]:
        """Another number in a tensor."""
        header, tail = _parts(content)
        name = draw.choice([key for key in header if key != "__metadata__"])
        entry = header[name]
        start, end = entry["data_offsets"]
        values = np.frombuffer(tail[start:end], TYPES[entry["dtype"]]).copy()
        classes = len(json.loads(header["__metadata__"]["fglfast"])["class_names"])
        kind = values.dtype.kind
        choices: dict[str, tuple[tuple[Any, Expected], ...]] = {
            "labels": ((-1, "refused"), (classes, "refused"), (2**62, "refused"), (0, "either")),
            "counts": ((0, "refused"), (-5, "refused"), (2**48 + 1, "refused"), (2**40, "accepted")),
            "scales": ((np.nan, "refused"), (-1.0, "refused"), (1e30, "refused"), (np.inf, "refused"), (1.0, "either")),
            "padding": ((-1, "refused"), (2**31 - 1, "either"), (9, "either")),
            "token_ids": ((-1 if kind == "i" else 7, "either"), (3, "either")),
            "embeddings": ((np.nan, "refused"), (-np.inf, "refused"), (1.5, "either"))
            if kind == "f"
            else ((-128, "refused"), (5, "either")),
        }
        value, expected = draw.choice(choices[name])
        values[draw.randrange(len(values))] = value
        if name == "labels" and len(values) == 1 and value == 0:
            expected = "accepted"
        return f"{name} {value}", _joined(header, tail[:start] + values.tobytes() + tail[end:]), expected

    def _entries(self, draw: random.Random, content: bytes) -> tuple[str, bytes, Expected]:
        """Another type, shape, place or name of a tensor."""
        header, tail = _parts(content)
        name = draw.choice([key for key in header if key != "__metadata__"])
        entry, how = header[name], draw.choice(("dtype", "shape", "offsets", "gone", "new", "odd", "rename"))
        if how == "dtype":
            entry["dtype"] = draw.choice([*(set(TYPES) - {entry["dtype"]}), "F64", "BOOL", "F8_E4M3", "O", 3])
        elif how == "shape":
            entry["shape"] = _other_shape(draw, entry["shape"])
        elif how == "offsets":
            entry["data_offsets"][draw.randrange(2)] += draw.choice((-8, -1, 1, 8, 2**40, -(2**40)))
        elif how == "gone":
            del header[name]
        elif how == "new":
            header["more"] = {"dtype": "F16", "shape": [0], "data_offsets": [0, 0]}
        elif how == "rename":
            header[draw.choice(("extra", "../x", "embeddings2"))] = header.pop(name)
        else:
            header[name] = draw.choice([value for value in ODD if value != entry])
        return how, _joined(header, tail), "refused"

    def _text(self, draw: random.Random, content: bytes) -> tuple[str, bytes, Expected]:
        """What no object could say: keys twice, no numbers, depth, width, other encodings."""
        header, tail = _parts(content)
        text = json.dumps(header)
        inner = header["__metadata__"]["fglfast"]
        spoilt = {
            "key twice": text[:-1] + ', "labels": ' + json.dumps(header["labels"]) + "}",
            "inner key twice": _with_facts(header, inner[:-1] + ', "client": "bob"}'),
            "NaN": _with_facts(
                header,
                inner[:-1] + ', "privacy": {"mechanism": "x", "epsilon": NaN, "delta": 0, "clip": 1, "noise": 1}}',
            ),
            "deep": _with_facts(header, inner[:-1] + ', "domain": ' + "[" * 5000 + "]" * 5000 + "}"),
            "wide": _with_facts(header, inner[:-1] + ', "domain": [' + "[]," * 400_000 + "1]}"),
            "keys": _with_facts(header, inner[:-1] + "".join(f', "k{n}": 1' for n in range(5000)) + "}"),
            "digits": _with_facts(header, inner.replace("2", "2" * 6000, 1)),
            "tail": text + " x",
            "utf-16": text.encode("utf-16").decode("latin-1"),
            "surrogate": _with_facts(header, inner[:-1] + ', "domain": "\\ud800"}'),
        }
        what = draw.choice(list(spoilt))
        encoded = spoilt[what].encode("utf-8", "surrogatepass")
        return what, struct.pack("<Q", len(encoded)) + encoded + tail, "refused"

    def _sound(self, draw: random.Random, content: bytes) -> tuple[str, bytes, Expected]:
        """Another spelling of the same."""
        header, tail = _parts(content)
        header["__metadata__"]["fglfast"] = respelled(draw, json.loads(header["__metadata__"]["fglfast"]))
        return "spelling", _joined(header, tail), "accepted"


def _sample(folder: Path, form: str, rows: int) -> bytes:
    names = tuple(f"class {number}" for number in range(3))
    header = PayloadHeader(client="ann", class_names=names, prompt_level="class", text_encoder="ab" * 32)
    draw = np.random.default_rng(rows)
    labels, counts = np.arange(rows, dtype=np.int64) % 3, np.arange(1, rows + 1, dtype=np.int64)
    if form == "tokens":
        ids = np.full((rows, 16), 1, np.int32)
        ids[:, :5] = draw.integers(2, 500, (rows, 5))
        payload = Payload(header, None, ids, labels, counts)
    else:
        half = draw.normal(size=(rows, 4, 8)).astype(np.float16)
        payload = Payload(header, half, None, labels, counts, int8=form == "int8")
    save_payload(payload, folder / FILE)
    return (folder / FILE).read_bytes()


def _good_name(draw: random.Random, facts: dict[str, Any]) -> tuple[str, dict[str, Any], Expected]:
    return "client name", {"client": draw.choice(NAMES)}, "accepted"


def _bad_name(draw: random.Random, facts: dict[str, Any]) -> tuple[str, dict[str, Any], Expected]:
    return "bad client name", {"client": draw.choice(BAD_NAMES)}, "refused"


def _class_names(draw: random.Random, facts: dict[str, Any]) -> tuple[str, dict[str, Any], Expected]:
    names = list(facts["class_names"])
    how = draw.choice(("twice", "bad", "good", "more", "many", "none"))
    bad = [
        name for name in BAD_NAMES if "/" not in name and "\\" not in name and name not in (".", "..") and len(name) < 9
    ]
    if how == "twice":
        names[1] = names[0]
    elif how in ("bad", "good"):
        names[draw.randrange(3)] = draw.choice(bad if how == "bad" else [name for name in NAMES if name not in names])
    elif how == "more":
        names += [f"more {number}" for number in range(2000)]
    elif how == "many":
        names += [f"more {number}" for number in range(100_001)]
    else:
        names = []
    return f"class names {how}", {"class_names": names}, "accepted" if how in ("good", "more") else "refused"


def _odd(draw: random.Random, facts: dict[str, Any]) -> tuple[str, dict[str, Any], Expected]:
    key = draw.choice(list(facts))
    value = draw.choice([value for value in ODD if not same(value, facts[key])])
    fits = (key == "privacy" and value is None) or (key == "client" and value in ("x", "0"))
    fits |= key == "class_names" and value in (["a"],)
    older = key == "format_version" and same(value, 1)  # right, for what is neither eight bits nor short rows
    return f"odd {key}", {key: value}, "either" if older else "accepted" if fits else "refused"


def _edit(draw: random.Random, facts: dict[str, Any]) -> tuple[str, dict[str, Any], Expected]:
    _, changed = edited(draw, facts)
    return "edit", {**dict.fromkeys(facts, "gone"), **changed}, "either"


def _version(draw: random.Random, facts: dict[str, Any]) -> tuple[str, dict[str, Any], Expected]:
    return "version", {"format_version": draw.choice((0, 3, -1, 2**40, 2.0, True, "2"))}, "refused"


def _unknown(draw: random.Random, facts: dict[str, Any]) -> tuple[str, dict[str, Any], Expected]:
    return "unknown key", {draw.choice(("more", "Client", "__class__", "")): draw.choice(ODD)}, "refused"


def _missing(draw: random.Random, facts: dict[str, Any]) -> tuple[str, dict[str, Any], Expected]:
    key = draw.choice(("client", "class_names", "prompt_level", "text_encoder", "format_version"))
    return f"no {key}", {key: "gone"}, "refused"


def _privacy(draw: random.Random, facts: dict[str, Any]) -> tuple[str, dict[str, Any], Expected]:
    privacy: dict[str, Any] = {"mechanism": "gaussian", "epsilon": 1.0, "delta": 1e-5, "clip": 1.0, "noise": 0.5}
    privacy |= draw.choice(({}, {"unit": "image", "uploads": 3}))
    key = draw.choice((*privacy, "none"))
    if key == "none":
        return "privacy", {"privacy": privacy}, "accepted"
    privacy[key] = draw.choice((-1.0, "1", None, 1e999, [], True))
    return (
        f"privacy {key}",
        {"privacy": privacy},
        "refused" if (key, privacy[key]) != ("mechanism", "1") else "accepted",
    )


def _level(draw: random.Random, facts: dict[str, Any]) -> tuple[str, dict[str, Any], Expected]:
    """Learned embeddings have no token ids, and the first version does not know them."""
    return "level", {"prompt_level": draw.choice(("instance", "learned"))}, "either"


_CHANGES = (
    *(_good_name, _bad_name, _class_names, _odd, _odd, _edit, _edit),
    *(_version, _unknown, _missing, _privacy, _level),
)


def _other_shape(draw: random.Random, shape: list[int]) -> list[Any]:
    place = draw.randrange(len(shape))
    other: list[Any] = list(shape)
    how = draw.choice(("number", "odd", "more", "less", "none"))
    if how == "number":
        other[place] = draw.choice(
            [number for number in (0, -1, 2**31, 2**63, 10**30, shape[place] + 1) if number != shape[place]]
        )
    elif how == "odd":
        other[place] = draw.choice((True, 1.5, "1", None, []))
    elif how == "more":
        other += [draw.choice((2, 3))]
    elif how == "less":
        other = other[:-1]
    else:
        other = []
    return other


def _length(content: bytes) -> int:
    return int.from_bytes(content[:8], "little")


def _parts(content: bytes) -> tuple[dict[str, Any], bytes]:
    length = _length(content)
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def _joined(header: dict[str, Any], tail: bytes) -> bytes:
    encoded = json.dumps(header, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(encoded)) + encoded + tail


def _with_facts(header: dict[str, Any], text: str) -> str:
    return json.dumps({**header, "__metadata__": {"fglfast": text}})


def _tensor(content: bytes, entry: dict[str, Any]) -> np.ndarray:
    start, end = (8 + _length(content) + place for place in entry["data_offsets"])
    return np.frombuffer(content[start:end], TYPES[entry["dtype"]]).reshape(entry["shape"])


def _wrong_header(facts: dict[str, Any]) -> str:
    names = [facts["client"], *facts["class_names"], *filter(None, [facts.get("domain")])]
    hidden = {"Cc", "Cf", "Cs", "Zl", "Zp"}
    if any(
        not name.strip() or any(unicodedata.category(c) in hidden and c not in "\u200c\u200d" for c in name)
        for name in names
    ):
        return "a name that cannot be shown"
    if Path(facts["client"]).name != facts["client"] or "\\" in facts["client"]:
        return "a client that is a path"
    return "a class is there twice" if len(set(facts["class_names"])) < len(facts["class_names"]) else ""


def _wrong_bytes(content: bytes, header: dict[str, Any]) -> str:
    """Tensors have to lie one after the other, from the header's end to the file's."""
    place = 0
    for start, end in sorted(entry["data_offsets"] for entry in header.values()):
        if start != place:
            return "tensors overlap, or leave a gap"
        place = end
    return "" if 8 + _length(content) + place == len(content) else "bytes that belong to no tensor"


def _wrong_rows(tensors: Tensors, facts: dict[str, Any], accepted: Payload) -> str:
    rows = tensors["embeddings"] if "embeddings" in tensors else tensors["token_ids"].astype(np.int64)
    if "scales" in tensors:
        scaled = rows.astype(np.float32) * tensors["scales"][:, :, None]
        rows = scaled.astype(np.float16)
    if "padding" in tensors:
        padding, length = (int(number) for number in tensors["padding"])
        if padding < 0 or not rows.shape[1] <= length <= 4096:
            return "padding that cannot be"
        rows = np.concatenate([rows, np.full((len(rows), length - rows.shape[1]), padding)], axis=1)
    labels, counts = tensors["labels"], tensors["counts"]
    if not (np.array_equal(accepted.labels, labels) and np.array_equal(accepted.counts, counts)):
        return "other labels or counts"
    if not np.array_equal(np.asarray(accepted.prompts(), rows.dtype), rows):
        return "other rows"
    if not len(rows) == len(labels) == len(counts) > 0:
        return "rows, labels and counts of other numbers"
    if (
        labels.min() < 0
        or labels.max() >= len(facts["class_names"])
        or counts.min() < 1
        or sum(map(int, counts)) > 2**48
    ):
        return "a label or a count out of range"
    if not np.isfinite(rows).all() or (rows.dtype.kind == "i" and rows.min() < 0):
        return "a value that is no number, or an id below zero"
    seen = {(int(label), tuple(row.ravel().tolist())) for label, row in zip(labels, rows, strict=True)}
    return "" if len(seen) == len(rows) else "the same prompt twice"


def _changes(accepted: Payload, folder: Path) -> str:
    """What was accepted has to say the same when it is written and read again."""
    save_payload(accepted, folder / "again.safetensors")
    again = load_payload(folder / "again.safetensors")
    if accepted.int8:  # codes that use less than all steps are spread over them anew: within one step
        step = np.abs(accepted.prompts().astype(np.float32)).max(axis=-1, keepdims=True) / 127 + 1e-6
        near = np.abs(again.prompts().astype(np.float32) - accepted.prompts().astype(np.float32)) <= step
        return "" if near.all() and again.header == accepted.header else "it changes when written again"
    kept = again.digest() == accepted.digest() and again.header == accepted.header
    return "" if kept else "it changes when written again"

"""Hostile payloads. What is accepted is held against the file by arithmetic on its bytes."""

import json
import struct
import tempfile
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hostile import BAD_NAMES, ODD, Case, Draw, Expected, Made, damaged, edited, one, plain_json, respelled, same
from hypothesis import strategies as st

from fglfast.payload import Payload, PayloadHeader, load_payload, save_payload

FILE = "p.safetensors"
TYPES = {"F16": "<f2", "F32": "<f4", "I8": "<i1", "U16": "<u2", "I32": "<i4", "I64": "<i8"}
HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
Tensors = dict[str, np.ndarray]


class Payloads:
    """Payloads of all four forms."""

    def __init__(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            forms = ("embeddings", "int8", "tokens")
            self.samples = [_sample(Path(folder), form, rows) for form in forms for rows in (1, 6)]
            self.samples += [_sample(Path(folder), "routes", rows) for rows in (1, 3)]
        self.files = {FILE: self.samples[0]}

    def cases(self) -> st.SearchStrategy[Case]:
        """One payload: damaged bytes, another header, other tensors, another text of the header, or a sound one."""
        ways = (_bytes, _facts, _facts, _values, _values, _entries, _text, _sound)

        @st.composite
        def case(draw: Draw) -> Case:
            content, way = draw(one(self.samples)), draw(one(ways))
            what, made, expected = draw(way(content, *((draw(one(self.samples)),) if way is _bytes else ())))
            same_bytes = made == content
            return Case(f"{way.__name__.strip('_')}: {what}", {FILE: made}, "accepted" if same_bytes else expected)

        return case()

    def read(self, folder: Path) -> Payload:
        """By the program."""
        return load_payload(folder / FILE)

    def lie(self, folder: Path, accepted: Payload) -> str:
        """By the bytes."""
        content = (folder / FILE).read_bytes()
        header, twice = plain_json(content[8 : 8 + _length(content)])
        facts, twice_in = plain_json(header.pop("__metadata__")["fglfast"])
        if twice or twice_in:
            return "a key is there twice"
        told = accepted.header.model_dump(mode="json")
        if facts.get("privacy"):
            facts["privacy"] = {"unit": "image", "uploads": 1} | facts["privacy"]
        if not same(told, dict.fromkeys(told) | facts):
            return "the header says otherwise"
        tensors = {name: _tensor(content, entry) for name, entry in header.items()}
        return (
            _wrong_header(facts)
            or _wrong_bytes(content, header)
            or ("token ids that were learned" if facts["prompt_level"] == "learned" and "token_ids" in tensors else "")
            or _wrong_rows(tensors, facts, accepted)
            or _changes(accepted, folder)
        )


@st.composite
def _bytes(draw: Draw, content: bytes, other: bytes) -> Made:
    what, made = draw(damaged(content, other))
    return Made(what, made, "refused" if what in ("grow", "cut") else "either")


@st.composite
def _facts(draw: Draw, content: bytes) -> Made:
    """Another value in the header that says who sends it."""
    header, tail = _parts(content)
    facts = json.loads(header["__metadata__"]["fglfast"])
    what = draw(one((*CHANGES, "odd", "odd", "edit", "edit", "missing")))
    if what == "edit":
        facts, expected = draw(edited(facts)), "either"
    elif what == "odd":
        key = draw(one(list(facts)))
        value = draw(ODD)
        fits = value is None if key == "privacy" else type(value) is type(facts[key])
        facts[key], expected = value, "either" if fits else "refused"
    elif what == "missing":
        del facts[draw(one(("client", "class_names", "prompt_level", "text_encoder", "format_version")))]
        expected = "refused"
    else:
        key, values, rule = CHANGES[what]
        facts[key] = draw(values)
        expected = rule(facts[key]) if callable(rule) else rule
    header["__metadata__"]["fglfast"] = draw(respelled(facts))
    return Made(what, _joined(header, tail), expected)


@st.composite
def _values(draw: Draw, content: bytes) -> Made:
    """Another number in a tensor."""
    header, tail = _parts(content)
    name = draw(one([key for key in header if key != "__metadata__"]))
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
        "routes": ((np.nan, "refused"), (np.inf, "refused"), (1.5, "accepted")),
        "embeddings": ((np.nan, "refused"), (-np.inf, "refused"), (1.5, "either"))
        if kind == "f"
        else ((-128, "refused"), (5, "either")),
    }
    value, expected = draw(one(choices[name]))
    values[draw(st.integers(0, len(values) - 1))] = value
    return Made(f"{name} {value}", _joined(header, tail[:start] + values.tobytes() + tail[end:]), expected)


@st.composite
def _entries(draw: Draw, content: bytes) -> Made:
    """Another type, shape, place or name of a tensor."""
    header, tail = _parts(content)
    name = draw(one([key for key in header if key != "__metadata__"]))
    entry, how = header[name], draw(one(("dtype", "shape", "offsets", "gone", "new", "odd", "rename")))
    if how == "dtype":
        entry["dtype"] = draw(one([*sorted(TYPES.keys() - {entry["dtype"]}), "F64", "BOOL", "F8_E4M3", "O", 3]))
    elif how == "shape":
        shape = entry["shape"]
        numbers = {0, -1, 2**31, 2**63, 10**30, shape[0] + 1} - {shape[0]}
        first = draw(one([*sorted(numbers), True if shape[0] != 1 else 2.0, 1.5, "1", None, []]))
        entry["shape"] = draw(one(([first, *shape[1:]], [*shape, 2], shape[:-1], [])))
    elif how == "offsets":
        entry["data_offsets"][draw(one((0, 1)))] += draw(one((-8, -1, 1, 8, 2**40, -(2**40))))
    elif how == "gone":
        del header[name]
    elif how == "new":
        header["more"] = {"dtype": "F16", "shape": [0], "data_offsets": [0, 0]}
    elif how == "rename":
        header[draw(one(("extra", "../x", "embeddings2")))] = header.pop(name)
    else:
        header[name] = draw(ODD)
    return Made(how, _joined(header, tail), "refused")


@st.composite
def _text(draw: Draw, content: bytes) -> Made:
    """What no object could say: keys twice, no numbers, depth, width, other encodings."""
    header, tail = _parts(content)
    text, inner = json.dumps(header), header["__metadata__"]["fglfast"]

    def more(facts: str) -> str:
        return json.dumps({**header, "__metadata__": {"fglfast": inner[:-1] + facts + "}"}})

    spoilt = {
        "key twice": lambda: text[:-1] + ', "labels": ' + json.dumps(header["labels"]) + "}",
        "inner key twice": lambda: more(', "client": "bob"'),
        "NaN": lambda: more(', "privacy": {"mechanism": "x", "epsilon": NaN, "delta": 0, "clip": 1, "noise": 1}'),
        "deep": lambda: more(', "domain": ' + "[" * 5000 + "]" * 5000),
        "wide": lambda: more(', "domain": [' + "[]," * 400_000 + "1]"),
        "keys": lambda: more("".join(f', "k{n}": 1' for n in range(5000))),
        "digits": lambda: more(', "format_version": ' + "2" * 6000),
        "tail": lambda: text + " x",
        "utf-16": lambda: text.encode("utf-16").decode("latin-1"),
        "surrogate": lambda: more(', "domain": "\\ud800"'),
    }
    what = draw(one(list(spoilt)))
    encoded = spoilt[what]().encode("utf-8", "surrogatepass")
    return Made(what, struct.pack("<Q", len(encoded)) + encoded + tail, "refused")


@st.composite
def _sound(draw: Draw, content: bytes) -> Made:
    """Another spelling of the same."""
    header, tail = _parts(content)
    header["__metadata__"]["fglfast"] = draw(respelled(json.loads(header["__metadata__"]["fglfast"])))
    return Made("spelling", _joined(header, tail), "accepted")


def _sample(folder: Path, form: str, rows: int) -> bytes:
    names = tuple(f"class {number}" for number in range(3))
    header = PayloadHeader(client="ann", class_names=names, prompt_level="class", text_encoder="ab" * 32)
    draw = np.random.default_rng(rows)
    labels, counts = np.arange(rows, dtype=np.int64) % 3, np.arange(1, rows + 1, dtype=np.int64)
    if form == "routes":
        facts = {"format_version": 3, "prompt_level": "routed", "inventory": "cd" * 32}
        half = draw.normal(size=(3, 2)).astype(np.float16)
        payload = Payload(header.model_copy(update=facts), None, None, labels, counts, routes=half)
    elif form == "tokens":
        ids = np.full((rows, 16), 1, np.int32)
        ids[:, :5] = draw.integers(2, 500, (rows, 5))
        payload = Payload(header, None, ids, labels, counts)
    else:
        half = draw.normal(size=(rows, 4, 8)).astype(np.float16)
        payload = Payload(header, half, None, labels, counts, int8=form == "int8")
    save_payload(payload, folder / FILE)
    return (folder / FILE).read_bytes()


def _shown(name: str) -> bool:
    """Whether a name can be shown: not blank, nothing hidden but the joiners of scripts and emoji."""
    hidden = any(unicodedata.category(c) in HIDDEN and c not in "\u200c\u200d" for c in name)
    return bool(name.strip()) and not hidden


def _no_path(name: str) -> bool:
    return Path(name).name == name and "\\" not in name and name != ".."


def _client(name: str) -> Expected:
    return "accepted" if _shown(name) and _no_path(name) and len(name) <= 128 else "refused"


def _classes(names: list[str]) -> Expected:
    sound = all(_shown(name) and len(name) <= 200 for name in names) and len(set(names)) == len(names)
    return "accepted" if sound else "refused"


SHOWN = st.text(st.characters(exclude_categories=tuple(HIDDEN)), min_size=1, max_size=20)
NAMES = (
    SHOWN
    | SHOWN
    | st.text(max_size=130)
    | one((*BAD_NAMES, "x" * 128, "x" * 129, "x" * 200, "x" * 201, "犬", "O'Hara", "ﷺ", "🐈"))
)
PRIVACY = {"mechanism": "gaussian", "epsilon": 1.0, "delta": 1e-5, "clip": 1.0, "noise": 0.5}
WRONG = st.tuples(one(tuple(PRIVACY)), one((-1.0, None, 1e999, [], True)))
# What is changed in the header: which key, to what, and what a reader has to do.
CHANGES: dict[str, tuple[str, st.SearchStrategy[Any], Expected | Callable[[Any], Expected]]] = {
    "client name": ("client", NAMES, _client),
    "class names": ("class_names", st.lists(NAMES, min_size=3, max_size=4), _classes),
    "class twice": ("class_names", st.just(["a", "b", "a"]), "refused"),
    "classes by the thousand": ("class_names", st.just([f"more {number}" for number in range(2000)]), "accepted"),
    "too many classes": ("class_names", st.just([f"more {number}" for number in range(100_001)]), "refused"),
    "no class": ("class_names", st.just([]), "refused"),
    "version": ("format_version", one((0, 4, -1, 2**40, 2.0, True, "2")), "refused"),
    "unknown key": ("more", ODD, "refused"),
    "strange key": ("__class__", ODD, "refused"),
    "level": ("prompt_level", one(("instance", "learned")), "either"),  # neither has routing; learned, no token ids
    "routed": ("prompt_level", st.just("routed"), "either"),  # it is, or has no routing
    "privacy": ("privacy", one((PRIVACY, PRIVACY | {"unit": "image", "uploads": 3})), "accepted"),
    "wrong privacy": ("privacy", WRONG.map(lambda wrong: PRIVACY | dict([wrong])), "refused"),
}


def _length(content: bytes) -> int:
    return int.from_bytes(content[:8], "little")


def _parts(content: bytes) -> tuple[dict[str, Any], bytes]:
    length = _length(content)
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def _joined(header: dict[str, Any], tail: bytes) -> bytes:
    encoded = json.dumps(header, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(encoded)) + encoded + tail


def _tensor(content: bytes, entry: dict[str, Any]) -> np.ndarray:
    start, end = (8 + _length(content) + place for place in entry["data_offsets"])
    return np.frombuffer(content[start:end], TYPES[entry["dtype"]]).reshape(entry["shape"])


def _wrong_header(facts: dict[str, Any]) -> str:
    if not all(map(_shown, [facts["client"], *facts["class_names"], *filter(None, [facts.get("domain")])])):
        return "a name that cannot be shown"
    if not _no_path(facts["client"]):
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
    if "routes" in tensors:
        return _wrong_routes(tensors, facts, accepted)
    rows = tensors["embeddings"] if "embeddings" in tensors else tensors["token_ids"].astype(np.int64)
    if "scales" in tensors:
        rows = (rows.astype(np.float32) * tensors["scales"][:, :, None]).astype(np.float16)
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
    in_range = labels.min() >= 0 and labels.max() < len(facts["class_names"])
    if not in_range or counts.min() < 1 or sum(map(int, counts)) > 2**48:
        return "a label or a count out of range"
    if not np.isfinite(rows).all() or (rows.dtype.kind == "i" and rows.min() < 0):
        return "a value that is no number, or an id below zero"
    seen = {(int(label), tuple(row.ravel().tolist())) for label, row in zip(labels, rows, strict=True)}
    return "" if len(seen) == len(rows) else "the same prompt twice"


def _wrong_routes(tensors: Tensors, facts: dict[str, Any], accepted: Payload) -> str:
    routes, labels, counts = tensors["routes"], tensors["labels"], tensors["counts"]
    if (facts["format_version"], facts["prompt_level"]) != (3, "routed") or not facts.get("inventory"):
        return "routing in a payload that is not routed"
    told = (accepted.routes, routes), (accepted.labels, labels), (accepted.counts, counts)
    if not all(one is not None and np.array_equal(one, other) for one, other in told):
        return "other routing, labels or counts"
    if routes.ndim != 2 or not routes.size or not np.isfinite(routes).all():
        return "routing that is no numbers"
    in_range = labels.min() >= 0 and labels.max() < len(facts["class_names"])
    if not in_range or counts.min() < 1 or sum(map(int, counts)) > 2**48 or len(labels) != len(counts):
        return "a label or a count out of range"
    return "" if len(set(labels.tolist())) == len(labels) else "a class twice"


def _changes(accepted: Payload, folder: Path) -> str:
    """What was accepted has to say the same when it is written and read again."""
    save_payload(accepted, folder / "again.safetensors")
    again = load_payload(folder / "again.safetensors")
    kept = again.header == accepted.header
    if accepted.int8:  # codes that use less than all steps are spread over them anew: within one step
        rows, anew = (payload.prompts().astype(np.float32) for payload in (accepted, again))
        kept &= bool((np.abs(anew - rows) <= np.abs(rows).max(axis=-1, keepdims=True) / 127 + 1e-6).all())
    else:
        kept &= again.digest() == accepted.digest()
    return "" if kept else "it changes when written again"

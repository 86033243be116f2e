"""Hostile data sets: dataset.json, shards. What is accepted is held against the tar by arithmetic on its bytes."""

import hashlib
import io
import json
import random
import tarfile
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.hostile.case import ODD, Case, Expected, damaged, edited, plain_json, respelled
from fglfast.shards.description import read_description
from fglfast.shards.index import SyntheticImages, read_index
from fglfast.shards.tar import Sample, encode_image, shard_name, write_shard
from fglfast.synthesis.verify import verify

SIDE, IMAGES, SHARD, SEED = 8, 5, 3, 7
CLASSES, CLIENT, PAYLOAD = ("x", "y", "z"), "ann", "ab" * 32
FIRST, SECOND = shard_name(0), shard_name(1)
Member = tuple[str, bytes]


class Shards:
    """Two small shards, read by `verify`, member by member, or as training reads them.

    Args:
        reader: "verify" or "train".
    """

    def __init__(self, reader: str) -> None:
        self.reader = reader
        self.files = _sound()

    def case(self, draw: random.Random) -> Case:
        """The second shard, or the facts, or the folder, spoilt."""
        how = draw.choice(
            (self._bytes, self._fields, self._fields, self._members, self._members, self._images, self._folder)
        )
        return how(draw)

    def read(self, folder: Path) -> Any:
        """By the program: what `verify` finds sound, or the labels and pixels that training sees."""
        if self.reader == "verify":
            checked = verify(folder)
            if bad := [shard.problem for shard in checked if shard.problem]:
                raise _refused(bad[0])
            return [shard.number for shard in checked]
        index = read_index(folder, description := read_description(folder))
        images = SyntheticImages(index, description.image_size, description.image_size, memory_limit=0)
        return index.labels.tolist(), [images[row].permute(1, 2, 0).numpy() for row in range(len(index))]

    def lie(self, case: Case, folder: Path, accepted: Any) -> str:
        """By the bytes."""
        found = [_plain_tar((folder / name).read_bytes()) for name in (FIRST, SECOND)]
        if not all(found):
            return "no tar of plain files"
        members = [member for shard in found for member in shard or ()]
        if self.reader == "verify":
            repacked = _packed(found[1] or []) == (folder / SECOND).read_bytes()
            return (_wrong_members(members) if repacked else "bytes that no tar of these files has") or _wrong_facts(
                folder
            )
        named = dict(members)
        keys = [name.rpartition(".")[0] for name, _ in members if name.endswith((".png", ".webp"))]
        labels, pixels = accepted
        if labels != [int(named[f"{key}.cls"]) for key in keys]:
            return "other labels"
        images = [
            np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
            for name, content in members
            if name.endswith(".png")
        ]
        same = len(images) == len(pixels) and all(map(np.array_equal, images, pixels))
        return "" if same or len(images) < len(keys) else "other pixels"

    def _bytes(self, draw: random.Random) -> Case:
        what, made = damaged(draw, self.files[SECOND], self.files[FIRST])
        broken = self.reader == "verify" and made != self.files[SECOND]
        return Case(f"bytes: {what}", self.files | {SECOND: made}, "refused" if broken else "either")

    def _fields(self, draw: random.Random) -> Case:
        """A field of a tar header, its checksum made to fit."""
        start, values, broken = _FIELDS[what := draw.choice(list(_FIELDS))]
        content = self.files[SECOND]
        headers = _headers(content)
        place = draw.choice(headers)
        value = draw.choice(values)
        header = bytearray(content[place : place + 512])
        header[start : start + len(value)] = value
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        made = content[:place] + bytes(header) + content[place + 512 :]
        expected: Expected = (
            "either" if made == content else "refused" if broken or self.reader == "verify" else "either"
        )
        return Case(f"field: {what}", self.files | {SECOND: made}, expected)

    def _members(self, draw: random.Random) -> Case:
        """Other names, orders, labels, facts; packed soundly."""
        files = _plain_tar(self.files[SECOND]) or []
        place = draw.randrange(len(files))
        name, content = files[place]
        how = draw.choice(("gone", "twice", "order", "name", "label", "facts", "large"))
        expected: Expected = "refused" if self.reader == "verify" else "either"
        if how == "gone":
            del files[place]
        elif how == "twice":
            files.insert(draw.randrange(len(files) + 1), files[place])
        elif how == "order":
            draw.shuffle(files)
        elif how == "name":
            files[place] = (draw.choice(_NAMES), content)
            expected = "refused"
        elif how == "label":
            place = draw.choice([n for n, (other, _) in enumerate(files) if other.endswith(".cls")])
            files[place] = (files[place][0], draw.choice(_LABELS))
        elif how == "facts":
            place = draw.choice([n for n, (other, _) in enumerate(files) if other.endswith(".json")])
            files[place] = (files[place][0], _spoilt_json(draw, files[place][1]))
            expected = "either"
        else:
            files[place] = (name, content + bytes(200_000))
        made = _packed(files)
        sound = made == self.files[SECOND]
        return Case(f"member: {how}", self.files | {SECOND: made}, "accepted" if sound else expected)

    def _images(self, draw: random.Random) -> Case:
        """Another image, or a damaged one, in a sound tar."""
        files = _plain_tar(self.files[SECOND]) or []
        place = draw.choice([n for n, (name, _) in enumerate(files) if name.endswith(".png")])
        name, content = files[place]
        what = draw.choice(("damage", "chunk", "size", "mode", "kind", "empty", "other"))
        expected: Expected = "refused"
        if what == "damage":
            _, made = damaged(draw, content, files[0][1])
            expected = "refused" if self.reader == "verify" and made != content else "either"
        elif what == "chunk":
            made, expected = _with_chunk(draw, content), "either"
        elif what == "size":
            made = _picture(*draw.choice(((9, 8), (8, 9), (1, 1), (3000, 3000))))
        elif what == "mode":
            made = _picture(8, 8, draw.choice(("L", "RGBA", "P", "I;16")))
            expected = "refused" if self.reader == "verify" else "either"
        elif what == "kind":
            made = _picture(8, 8, kind=draw.choice(("GIF", "BMP", "TIFF", "JPEG")))
        elif what == "empty":
            made = b""
        else:
            made, expected = encode_image(_pixels(draw.randrange(99)), "png"), "accepted"
        files[place] = (name, made)
        return Case(
            f"image: {what}", self.files | {SECOND: _packed(files)}, expected if made != content else "accepted"
        )

    def _folder(self, draw: random.Random) -> Case:
        """Other facts, checksums, links, files."""
        what = draw.choice(
            ("odd facts", "damaged facts", "checksum", "link", "pipe of links", "more", "missing", "spelling")
        )
        files: dict[str, bytes | None] = dict(self.files)
        facts = json.loads(self.files["dataset.json"])
        if what == "odd facts":
            _, changed = edited(draw, facts)
            return Case(what, files | {"dataset.json": json.dumps(changed).encode()}, "either")
        if what == "damaged facts":
            _, made = damaged(draw, self.files["dataset.json"], self.files[FIRST])
            return Case(what, files | {"dataset.json": made}, "either")
        if what == "spelling":
            return Case(what, files | {"dataset.json": respelled(draw, facts).encode()}, "accepted")
        if what == "checksum":
            right = hashlib.sha256(self.files[SECOND]).hexdigest()
            line, expected = draw.choice(_CHECKSUMS)
            made = line.replace(b"RIGHT", right.encode())
            return Case(
                what, files | {f"checksums/{SECOND}.sha256": made}, expected if self.reader == "verify" else "accepted"
            )
        if what == "link":
            name = draw.choice((SECOND, "dataset.json"))
            return Case(
                what, files | {name: None}, "refused", {name: draw.choice(("/etc/passwd", "/dev/zero", name, "../x"))}
            )
        if what == "pipe of links":
            folder = draw.choice(("checksums", "imagefolder", ".locks"))
            return Case(what, files, "refused" if self.reader == "verify" else "accepted", {folder: "/tmp"})
        if what == "more":
            return Case(
                what, files | {draw.choice((shard_name(2), "train-1.tar", "other.tar")): self.files[FIRST]}, "refused"
            )
        return Case(what, files | {draw.choice((SECOND, FIRST, "dataset.json")): None}, "refused")


_FIELDS: dict[str, tuple[int, tuple[bytes, ...], bool]] = {
    "size": (
        124,
        (
            b"77777777777\0",
            b"\x80" + b"\xff" * 11,
            b"\xff" * 12,
            b"\xff" * 11 + b"\0",
            b"00000000000\0",
            b"-0000000001\0",
            b"x",
        ),
        False,
    ),
    "type": (156, tuple(bytes([kind]) for kind in b"\0" + b"1234567gxLKSVMD"), True),
    "name": (0, (b"../a\0", b"/a.png\0", b"\xff\xfe\0", b"\0", b"a/b.png\0", b"a" * 100), True),
    "prefix": (345, (b"..", b"/etc", b"a"), True),
    "linkname": (157, (b"/etc/passwd", b"../x"), False),
    "mode": (100, (b"0007777\0", b"zzzzzzz\0"), False),
    "time": (136, (b"77777777777\0", b"\x80" + b"\xff" * 11), False),
    "magic": (257, (b"GNUtar ", b"\0" * 8, b"ustar  \0"), False),
}
_NAMES = ("../../a.png", "/a.png", "a/b.png", "000000003.pkl", "000000003.png.exe", "..", "000000099.png.png", "é.png")
_LABELS = (b"-1", b"1e3", b" 1", b"9", b"", b"x", b"1" * 31, b"1" * 5000, "２".encode(), b"1\n\n", b"0x1")
_CHECKSUMS: tuple[tuple[bytes, Expected], ...] = (
    (b"RIGHT  " + SECOND.encode() + b"\n", "accepted"),
    (b"0" * 64 + b"  " + SECOND.encode() + b"\n", "refused"),
    (b"RIGHT  ../" + SECOND.encode() + b"\n", "accepted"),  # damaged itself: the shard is read instead
    (b"\xff\xfe", "accepted"),
    (b"0" * 100_000, "accepted"),
)


def _sound() -> dict[str, bytes]:
    facts = {
        "format_version": 1,
        **{"plan": "cd" * 32, "class_names": list(CLASSES), "images": IMAGES, "shards": 2, "image_size": SIDE},
        **{"model": "mini", "weights": "ef" * 32, "clients": [CLIENT], "payloads": [PAYLOAD]},
        **{
            "images_per_class": 2,
            "seed": SEED,
            "shard_size": SHARD,
            "image_format": "png",
            "max_share_per_client": 1.0,
        },
        "sampling": {"steps": 2, "scheduler": "model", "spacing": "model", "timesteps": None, "guidance_scale": 1.0},
    }
    files = {"dataset.json": json.dumps(facts, indent=2).encode()}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(2):
            path = Path(folder) / shard_name(number)
            write_shard(
                path, [_sample(index) for index in range(number * SHARD, min(IMAGES, (number + 1) * SHARD))], "png"
            )
            files[path.name] = path.read_bytes()
    return files


def _sample(index: int) -> Sample:
    said = {"class": index % 3, "row": index % 3, "ordinal": index // 3, "seed": SEED}
    facts = {**said, "client": CLIENT, "payload": PAYLOAD, "engine": "0123456789abcdef"}
    return Sample(f"{index:09d}", encode_image(_pixels(index), "png"), index % 3, facts)


def _pixels(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)


def _picture(width: int, height: int, mode: str = "RGB", kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (width, height)).save(buffer, kind)
    return buffer.getvalue()


def _with_chunk(draw: random.Random, png: bytes) -> bytes:
    """A PNG with one more chunk before its pixels: text that unpacks to megabytes, a profile, an odd length."""
    bomb = b"k\0\0" + zlib.compress(bytes(50 << 20), 9)
    kind, body = draw.choice(((b"zTXt", bomb), (b"iCCP", bomb), (b"tEXt", b"k\0" + b"x" * 100_000), (b"aaAa", b"")))
    length = draw.choice((len(body), len(body), 2**31 - 1))
    chunk = length.to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")
    return png[:33] + chunk + png[33:]


def _spoilt_json(draw: random.Random, content: bytes) -> bytes:
    value = json.loads(content)
    how = draw.choice(("odd", "odd", "twice", "deep", "wide", "text"))
    if how == "odd":
        value[draw.choice(list(value))] = draw.choice(ODD)
        return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    if how == "twice":
        return content[:-1] + b',"class":0}'
    if how == "deep":
        return b"[" * 3000 + b"]" * 3000
    return b'{"a":[' + b"[]," * 20_000 + b"1]}" if how == "wide" else b"\xff\xfe"


def _packed(files: list[Member]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o644
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _headers(content: bytes) -> list[int]:
    """Where the headers of a sound tar begin."""
    places, place = [], 0
    while any(content[place : place + 512]):
        places.append(place)
        place += 512 + -(-int(content[place + 124 : place + 135], 8) // 512) * 512
    return places


def _plain_tar(content: bytes) -> list[Member] | None:
    """The files of a tar of nothing else, by its bytes; None if it is none."""
    files, place = [], 0
    while len(block := content[place : place + 512]) == 512:
        if not any(block):
            return files
        size = block[124:136].split(b"\0")[0].strip()
        if block[156:157] != b"0" or any(block[345:500]) or not size.isdigit():
            return None
        start, length = place + 512, int(size, 8)
        if start + length > len(content):
            return None
        files.append((block[:100].split(b"\0")[0].decode("ascii"), content[start : start + length]))
        place = start + -(-length // 512) * 512
    return None


def _wrong_members(members: list[Member]) -> str:
    """Five images in their order, labels and facts that agree, no identity twice."""
    expected = [f"{index:09d}.{kind}" for index in range(IMAGES) for kind in ("png", "cls", "json")]
    if [name for name, _ in members] != expected:
        return "other names"
    identities = set()
    for place in range(0, len(members), 3):
        image, label, text = (content for _, content in members[place : place + 3])
        said, twice = plain_json(text)
        identities.add((said["class"], said["row"], said["ordinal"]))
        sound = (str(said["class"]).encode(), said["seed"], said["client"], said["payload"]) == (
            label,
            SEED,
            CLIENT,
            PAYLOAD,
        )
        if twice or not sound or not 0 <= said["class"] < len(CLASSES):
            return "facts that contradict the label, or the data set"
        if not _whole_png(image) or Image.open(io.BytesIO(image)).size != (SIDE, SIDE):
            return "an image that is none"
    return "" if len(identities) == IMAGES else "an image is there twice"


def _whole_png(data: bytes) -> bool:
    """Whether every chunk of a PNG has its checksum, and nothing follows the last."""
    place, kind = 8, b""
    while place < len(data):
        length, kind = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8]
        end = place + 8 + length
        if zlib.crc32(data[place + 4 : end]).to_bytes(4, "big") != data[end : end + 4]:
            return False
        place = end + 4
    return kind == b"IEND"


def _wrong_facts(folder: Path) -> str:
    facts, twice = plain_json((folder / "dataset.json").read_bytes())
    counts = (facts["images"], facts["shards"], facts["shard_size"], facts["image_size"], facts["seed"])
    right = counts == (IMAGES, 2, SHARD, SIDE, SEED) and all(type(count) is int for count in counts)
    return "" if right and not twice else "facts of other numbers, or types"


def _refused(problem: str) -> Exception:
    from fglfast.base.errors import BadInputError

    return BadInputError(problem)

"""Hostile data sets: dataset.json, shards. What is accepted is held against the tar by arithmetic on its bytes."""

import hashlib
import io
import json
import re
import tarfile
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from hostile import ODD, Case, Draw, Expected, Made, damaged, edited, one, plain_json, respelled
from hypothesis import strategies as st
from PIL import Image

from fglfast.base.errors import BadInputError
from fglfast.shards.description import read_description
from fglfast.shards.index import SyntheticImages, read_index
from fglfast.shards.tar import Sample, encode_image, shard_name, write_shard
from fglfast.synthesis.drawn import Drawn
from fglfast.synthesis.verify import verify

SIDE, IMAGES, SHARD, SEED = 8, 6, 3, 7
CLASSES, CLIENT, PAYLOAD, ROW = ("x", "y", "z"), "ann", "ab" * 32, "cd" * 32
FIRST, SECOND, FACTS = shard_name(0), shard_name(1), "dataset.json"
Member = tuple[str, bytes]
IMAGE, CLS, JSON = range(3)  # the members of an image, in their order


class Shards:
    """Two small shards, read by `verify`, member by member, or as training reads them.

    Training wants the same layout and the first key that the shard's place asks for, but reads neither the order of the
    other keys nor what KEY.json says, and stops at the end of the last image.

    Args:
        reader: "verify" or "train".
    """

    def __init__(self, reader: str) -> None:
        self.verifies = reader == "verify"
        self.files = _sound()

    def cases(self) -> st.SearchStrategy[Case]:
        """The second shard, or the facts, or the folder, spoilt."""
        content = self.files[SECOND]
        ways = (_bytes, _fields, _fields, _members, _members, _images)
        return st.one_of(
            *(way(content, self.verifies).map(self._case) for way in ways), _folder(self.files, self.verifies)
        )

    def _case(self, made: Made) -> Case:
        expected = "accepted" if made.content == self.files[SECOND] else made.expected
        return Case(made.what, self.files | {SECOND: made.content}, expected)

    def read(self, folder: Path) -> Any:
        """By the program: what `verify` finds sound, or the labels and pixels that training sees."""
        if self.verifies:
            checked = verify(folder)
            if bad := [shard.problem for shard in checked if shard.problem]:
                raise BadInputError(bad[0])
            return [shard.number for shard in checked]
        index = read_index(folder, description := read_description(folder))
        images = SyntheticImages(index, description.image_size, description.image_size)
        return index.labels.tolist(), [images[row].permute(1, 2, 0).numpy() for row in range(len(index))]

    def lie(self, folder: Path, accepted: Any) -> str:
        """By the bytes."""
        found = [_plain_tar((folder / name).read_bytes()) for name in (FIRST, SECOND)]
        if not all(found):
            return "no tar of plain files"
        members = [member for shard in found for member in shard or ()]
        problem = _wrong_layout(members) or _wrong_facts(folder, self.verifies)
        if problem or not self.verifies:
            return problem or _wrong_tensors(members, *accepted)
        repacked = _packed(found[1] or []) == (folder / SECOND).read_bytes()
        return _wrong_members(members) if repacked else "bytes that no tar of these files has"


@st.composite
def _bytes(draw: Draw, content: bytes, verifies: bool) -> Made:
    what, made = draw(damaged(content, _sound()[FIRST]))
    return Made(f"bytes: {what}", made, "refused" if verifies else "either")


@st.composite
def _fields(draw: Draw, content: bytes, verifies: bool) -> Made:
    """A field of a tar header, its checksum made to fit."""
    what = draw(one(list(FIELDS)))
    start, values, known = FIELDS[what]
    place, value = draw(one(_headers(content))), draw(one(values))
    header = bytearray(content[place : place + 512])
    header[start : start + len(value)] = value
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    made = content[:place] + bytes(header) + content[place + 512 :]
    return Made(f"field: {what}", made, "refused" if verifies else known)


@st.composite
def _members(draw: Draw, content: bytes, verifies: bool) -> Made:
    """Other names, orders, labels, facts; packed soundly."""
    files = _plain_tar(content) or []
    how = draw(one(("gone", "twice", "order", "images", "name", "label", "facts", "large")))
    kind = {"label": CLS, "facts": JSON}.get(how, draw(one((IMAGE, CLS, JSON))))
    place = kind + 3 * draw(one((0, 1)))
    name, inside = files[place]
    expected: Expected = "refused"
    if how == "gone":
        del files[place]
    elif how == "twice":
        files.insert(draw(st.integers(0, len(files))), files[place])
    elif how == "order":
        files = draw(st.permutations(files))
        expected = "refused" if _wrong_layout(files) or files[IMAGE][0] != f"{SHARD:09d}.png" else "accepted"
    elif how == "images":
        files = files[3:] + files[:3]
    elif how == "name":
        files[place] = (draw(one(NAMES)), inside)
    elif how == "label":
        files[place], expected = (name, draw(LABELS)), "either"
        expected = "refused" if files[place][1] not in (b"0", b"1", b"2") else "accepted"
    elif how == "facts":
        files[place] = (name, draw(_spoilt_json(inside)))
        expected = "accepted"  # by training, which does not read them
    else:
        files[place] = (name, inside + bytes(200_000))
        expected = "either" if kind == IMAGE else "refused"
    if verifies:
        expected = "either" if how == "facts" else "refused"
    return Made(f"member: {how}", _packed(files), expected)


@st.composite
def _images(draw: Draw, content: bytes, verifies: bool) -> Made:
    """Another image, or a damaged one, in a sound tar."""
    files = _plain_tar(content) or []
    place = 3 * draw(one((0, 1)))
    name, image = files[place]
    what = draw(one(("damage", "chunk", "size", "mode", "kind", "empty", "other")))
    expected: Expected = "refused"
    if what == "damage":
        made = draw(damaged(image, files[3 - place][1]))[1]
        expected = "refused" if verifies and made != image else "either"
    elif what == "chunk":
        made, expected = draw(one(CHUNKS)), "either"
        made = image[:33] + made + image[33:]
    elif what == "size":
        made = _picture(*draw(one(((9, 8), (8, 9), (1, 1), (3000, 3000)))))
    elif what == "mode":
        made = _picture(8, 8, draw(one(("L", "RGBA", "P", "I;16"))))
        expected = "refused" if verifies else "either"
    elif what == "kind":
        made = _picture(8, 8, kind=draw(one(("GIF", "BMP", "TIFF", "JPEG"))))
    elif what == "empty":
        made = b""
    else:
        made, expected = encode_image(_pixels(draw(st.integers(0, 99))), "png"), "accepted"
    files[place] = (name, made)
    return Made(f"image: {what}", _packed(files), expected)


@st.composite
def _folder(draw: Draw, sound: dict[str, bytes], verifies: bool) -> Case:
    """Other facts, checksums, links, files."""
    what = draw(one(("odd facts", "damaged facts", "checksum", "link", "linked folder", "more", "missing", "spelling")))
    files: dict[str, bytes | None] = dict(sound)
    facts = json.loads(sound[FACTS])
    expected: Expected = "refused"
    links = {}
    if what == "odd facts":
        files[FACTS], expected = json.dumps(draw(edited(facts))).encode(), "either"
    elif what == "damaged facts":
        files[FACTS], expected = draw(damaged(sound[FACTS], sound[FIRST]))[1], "either"
    elif what == "spelling":
        files[FACTS], expected = draw(respelled(facts)).encode(), "accepted"
    elif what == "checksum":
        line, expected = draw(one(CHECKSUMS))
        right = hashlib.sha256(sound[SECOND]).hexdigest()
        files[f"checksums/{SECOND}.sha256"] = line.replace(b"RIGHT", right.encode())
        expected = expected if verifies else "accepted"
    elif what == "link":
        name = draw(one((SECOND, FACTS)))
        links = {name: draw(one(("/etc/passwd", "/dev/zero", name, "../x")))}
    elif what == "linked folder":
        links = {draw(one(("checksums", "imagefolder", ".locks"))): "/tmp"}
    elif what == "more":
        files[draw(one((shard_name(2), "train-1.tar", "other.tar")))] = sound[FIRST]
    else:
        files[draw(one((SECOND, FIRST, FACTS)))] = None
    return Case(what, files, expected, links)


# Of a tar header: where a field lies, what is put there, and what training does with it.
FIELDS: dict[str, tuple[int, tuple[bytes, ...], Expected]] = {
    "size": (
        124,
        (
            *(b"77777777777\0", b"\x80" + b"\xff" * 11, b"\xff" * 12, b"\xff" * 11 + b"\0", b"00000000000\0"),
            *(b"-0000000001\0", b"x"),
        ),
        "either",
    ),
    "type": (156, tuple(bytes([kind]) for kind in b"\0" + b"1234567gxLKSVMD"), "refused"),
    "name": (0, (b"../a\0", b"/a.png\0", b"\xff\xfe\0", b"\0", b"a/b.png\0", b"a" * 100), "refused"),
    "prefix": (345, (b"..", b"/etc", b"a"), "refused"),
    "linkname": (157, (b"/etc/passwd", b"../x"), "accepted"),
    "mode": (100, (b"0007777\0", b"zzzzzzz\0"), "either"),
    "time": (136, (b"77777777777\0", b"\x80" + b"\xff" * 11), "either"),
    "magic": (257, (b"GNUtar ", b"\0" * 8, b"ustar  \0"), "either"),
}
NAMES = (
    *("../../a.png", "/a.png", "a/b.png", "000000003.pkl", "000000003.png.exe", "..", "000000099.png.png", "é.png"),
    *("0000003.png", "0000000000003.png", "000000003.PNG", "00000000٣.png"),
)
LABELS = st.binary(max_size=3) | one(
    (
        *(b"-1", b"1e3", b" 1", b"9", b"", b"x", b"1" * 31, b"1" * 5000, "２".encode(), b"1\n\n", b"0x1"),
        b"0",
        b"1",
        b"2",
    )
)
CHECKSUMS: tuple[tuple[bytes, Expected], ...] = (
    (b"RIGHT  " + SECOND.encode() + b"\n", "accepted"),
    (b"0" * 64 + b"  " + SECOND.encode() + b"\n", "refused"),
    (b"RIGHT  ../" + SECOND.encode() + b"\n", "accepted"),  # damaged itself: the shard is read instead
    (b"\xff\xfe", "accepted"),
    (b"0" * 100_000, "accepted"),
)


def _sound() -> dict[str, bytes]:
    facts = {
        **{"format_version": 3, "plan": "cd" * 32, "class_names": list(CLASSES), "images": IMAGES, "shards": 2},
        **{"image_size": SIDE, "model": "mini", "weights": "ef" * 32, "clients": [CLIENT], "payloads": [PAYLOAD]},
        **{"images_per_class": 2, "seed": SEED, "shard_size": SHARD, "image_format": "png"},
        "max_share_per_client": 1.0,
        "rows": [{"label": k, "row": ROW, "images": 2, "claims": {CLIENT: 1}} for k in range(3)],
        "sampling": {"steps": 2, "scheduler": "model", "spacing": "model", "timesteps": None, "guidance_scale": 1.0},
    }
    facts["plan"] = Drawn.model_validate_json(json.dumps(facts), strict=True).layout.digest()
    files = {FACTS: json.dumps(facts, indent=2).encode()}
    with tempfile.TemporaryDirectory() as folder:
        for name, indices in ((FIRST, range(SHARD)), (SECOND, range(SHARD, IMAGES))):
            write_shard(Path(folder) / name, map(_sample, indices), "png")
            files[name] = (Path(folder) / name).read_bytes()
    return files


def _sample(index: int) -> Sample:
    said = {"class": index % 3, "row": ROW, "ordinal": index // 3, "seed": SEED}
    facts = {**said, "engine": "0123456789abcdef"}
    return Sample(f"{index:09d}", encode_image(_pixels(index), "png"), index % 3, facts)


def _pixels(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)


def _picture(width: int, height: int, mode: str = "RGB", kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (width, height)).save(buffer, kind)
    return buffer.getvalue()


def _chunk(kind: bytes, body: bytes, length: int) -> bytes:
    return length.to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")


BOMB = b"k\0\0" + zlib.compress(bytes(50 << 20), 9)
# One more chunk before a PNG's pixels: text that unpacks to megabytes, a profile, an odd length.
CHUNKS = tuple(
    _chunk(kind, body, length)
    for kind, body in ((b"zTXt", BOMB), (b"iCCP", BOMB), (b"tEXt", b"k\0" + b"x" * 100_000), (b"aaAa", b""))
    for length in (len(body), 2**31 - 1)
)


@st.composite
def _spoilt_json(draw: Draw, content: bytes) -> bytes:
    if draw(st.booleans()):
        value = json.loads(content)
        value[draw(one(list(value)))] = draw(ODD)
        return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    twice, deep = content[:-1] + b',"class":0}', b"[" * 3000 + b"]" * 3000
    return draw(one((twice, deep, b'{"a":[' + b"[]," * 20_000 + b"1]}", b"\xff\xfe")))


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


def _wrong_layout(members: list[Member]) -> str:
    """Of each image three files, in one order: itself, its label, its facts."""
    names = " ".join(name for name, _ in members)
    layout = r"(?:^| )(\d{9,12})\.(?:png|webp) \1\.cls \1\.json"
    if re.sub(layout, "", names, flags=re.ASCII) or len(members) % 3:
        return "files that are not where they should be"
    if not all(re.fullmatch(rb"[0-9]{1,9}", label) for _, label in members[CLS::3]):
        return "a label that is no number"
    return "" if all(len(facts) <= 64 << 10 for _, facts in members[JSON::3]) else "facts of too many bytes"


def _wrong_tensors(members: list[Member], labels: list[int], pixels: list[np.ndarray]) -> str:
    """Labels and pixels are those of the members, and of the classes there are."""
    if labels != [int(label) for _, label in members[CLS::3]] or max(labels) >= len(CLASSES):
        return "other labels"
    images = [np.asarray(Image.open(io.BytesIO(image)).convert("RGB")) for _, image in members[IMAGE::3]]
    same = len(images) == len(pixels) and all(map(np.array_equal, images, pixels))
    return "" if same else "other pixels"


def _wrong_members(members: list[Member]) -> str:
    """Six images in their order, labels and facts that agree, no identity twice."""
    if [name for name, _ in members[IMAGE::3]] != [f"{index:09d}.png" for index in range(IMAGES)]:
        return "other names"
    identities = set()
    for place in range(0, len(members), 3):
        image, label, text = (content for _, content in members[place : place + 3])
        said, twice = plain_json(text)
        identities.add((said["class"], said["row"], said["ordinal"]))
        told = (str(said["class"]).encode(), said["seed"], said["row"])
        if twice or told != (label, SEED, ROW) or not 0 <= said["class"] < len(CLASSES):
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


def _wrong_facts(folder: Path, verifies: bool) -> str:
    """Training does not ask how images were drawn."""
    facts, twice = plain_json((folder / FACTS).read_bytes())
    right = {"images": IMAGES, "shards": 2, "image_size": SIDE} | (
        {"shard_size": SHARD, "seed": SEED} if verifies else {}
    )
    same = all(type(facts[key]) is int and facts[key] == value for key, value in right.items())
    return "" if same and not twice else "facts of other numbers, or types"

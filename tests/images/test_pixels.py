"""Orientation, transparency, and grey images of more than 8 bits, from the files that people have."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from fglfast.base.console import quiet_libraries
from fglfast.base.errors import BadInputError
from fglfast.images.dataset import read_dataset
from fglfast.images.decoding import decoded
from fglfast.images.pixels import to_rgb, white_of

RAMP = np.linspace(0, 1, 64).reshape(8, 8)


def even(value, kind=np.uint16):
    return np.full((8, 8), value, kind)


def encoded(values, form="TIFF"):
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, form)
    return buffer.getvalue()


def of_one_class(folder, form="TIFF", **images):
    """A data set of one class: images of these values."""
    (folder / "cat").mkdir(exist_ok=True)
    for name, values in images.items():
        (folder / "cat" / f"{name}.{form[:3].lower()}").write_bytes(encoded(values, form))
    return str(folder)


def exif(*entries, order=">"):
    """EXIF of the given (tag, type, count, value) entries; longer data lies behind them."""
    behind = 8 + 2 + 12 * len(entries) + 4
    start = b"MM\0*" if order == ">" else b"II*\0"
    table, data = struct.pack(f"{order}IH", 8, len(entries)), b""
    for tag, kind, count, value in entries:
        table += struct.pack(f"{order}HHI", tag, kind, count)
        if isinstance(value, bytes):
            table, data = table + struct.pack(f"{order}I", behind + len(data)), data + value
        else:
            table += struct.pack(f"{order}HH", value, 0)
    return b"Exif\0\0" + start + table + b"\0\0\0\0" + data


TURNED = (0x112, 3, 1, 6)
MALFORMED = (0x11A, 2, 6, b"72dpi\0")  # XResolution as text


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"])
def test_every_mode_becomes_rgb(mode):
    assert to_rgb(Image.new(mode, (3, 2))).mode == "RGB"


def test_what_is_transparent_in_grey_of_16_bits_lies_on_white():
    image = Image.fromarray(np.array([[0, 60000], [30000, 0]], np.uint16))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=0)
    found = np.asarray(to_rgb(decoded(buffer.getvalue())))[..., 0]
    assert found[0, 0] == found[1, 1] == 255 and found[1, 0] == round(30000 / 65535 * 255)


def test_transparency_lies_on_white():
    assert to_rgb(Image.new("RGBA", (1, 1), (0, 0, 0, 0))).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("entries", "size"),
    [
        ((TURNED,), (20, 40)),
        ((TURNED, MALFORMED), (20, 40)),
        ((MALFORMED, TURNED), (20, 40)),
        ((TURNED, (0x8769, 2, 6, b"72dpi\0")), (20, 40)),  # where a directory should be
        ((TURNED, (0x9999, 99, 7, 1)), (20, 40)),
        (((0x112, 2, 6, b"72dpi\0"),), (40, 20)),  # the orientation itself
        (((0x112, 3, 1, 77),), (40, 20)),
        ((MALFORMED,), (40, 20)),
    ],
)
def test_orientation_alone_is_read(entries, size, order, form):
    buffer = io.BytesIO()
    Image.effect_noise((40, 20), 60).convert("RGB").save(buffer, form, exif=exif(*entries, order=order))
    assert to_rgb(decoded(buffer.getvalue())).size == size


@pytest.mark.parametrize("content", [b"", b"Exif\0\0", b"Exif\0\0nonsense", exif(TURNED)[:20]])
def test_nonsense_for_exif_loses_no_image_and_no_library_talks_of_it(content):
    buffer = io.BytesIO()
    Image.new("RGB", (40, 20)).save(buffer, "JPEG", exif=content)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        quiet_libraries()
        assert to_rgb(decoded(buffer.getvalue())).size == (40, 20)
    assert not said


def test_a_quarter_turn_is_to_the_right():
    image = Image.new("RGB", (2, 1), "white")
    image.putpixel((0, 0), (0, 0, 0))
    image.getexif()[0x112] = 6
    assert to_rgb(image).getpixel((0, 0)) == (0, 0, 0) and to_rgb(image).size == (1, 2)


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
@pytest.mark.parametrize("white", [255, 4095, 65535])
def test_grey_of_16_bits_comes_out_right(white, form):
    found = np.asarray(to_rgb(decoded(encoded(np.rint(RAMP * white).astype(np.uint16), form))))
    assert np.abs(found[..., 0] - RAMP * 255).max() <= 1


def test_grey_of_16_bits_in_the_other_order_of_bytes():
    image = Image.frombytes("I;16B", (8, 8), np.rint(RAMP * 65535).astype(">u2").tobytes())
    assert np.abs(np.asarray(to_rgb(image))[..., 0] - RAMP * 255).max() <= 1


@pytest.mark.parametrize("white", [255, 4095, 65535, 2**31 - 1])
def test_grey_of_32_bits_comes_out_right(white):
    found = np.asarray(to_rgb(decoded(encoded(np.rint(RAMP * white).astype(np.int32)))))
    assert np.abs(found[..., 0] - RAMP * 255).max() <= 1


def tiff(bits, content, sample_format=1, photometric=1, orientation=1):
    """A grey TIFF of 8 by 8 pixels, one strip; zero is black, or white where `photometric` is 0."""
    entries = [(256, 8), (257, 8), (258, bits), (259, 1), (262, photometric), (273, 0), (274, orientation)]
    entries += [(277, 1), (278, 8), (279, len(content)), (339, sample_format)]
    start = 8 + 2 + 12 * len(entries) + 4
    table = b"".join(struct.pack("<HHII", tag, 4, 1, start if tag == 273 else value) for tag, value in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + table + b"\0\0\0\0" + content


def test_grey_of_12_packed_bits_comes_out_right():
    bits = "".join(f"{value:012b}" for value in np.rint(RAMP * 4095).astype(int).ravel())
    image = decoded(tiff(12, int(bits, 2).to_bytes(len(bits) // 8, "big")))
    assert np.abs(np.asarray(to_rgb(image))[..., 0] - RAMP * 255).max() <= 1


def test_unsigned_grey_of_32_bits_comes_out_right():
    image = decoded(tiff(32, np.rint(RAMP * (2**32 - 1)).astype("<u4").tobytes()))
    assert np.abs(np.asarray(to_rgb(image))[..., 0] - RAMP * 255).max() <= 1


@pytest.mark.parametrize("turned", [1, 6])
@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize(("bits", "kind"), [(8, np.uint8), (16, "<u2")])
def test_grey_whose_white_is_zero_comes_out_right(bits, kind, photometric, turned):
    light = RAMP if photometric else 1 - RAMP
    content = np.rint(light * (2**bits - 1)).astype(kind).tobytes()
    image = decoded(tiff(bits, content, photometric=photometric, orientation=turned))
    expected = RAMP * 255 if turned == 1 else np.rot90(RAMP, -1) * 255
    assert np.abs(np.asarray(to_rgb(image))[..., 0] - expected).max() <= 1


def test_a_dark_image_whose_white_is_zero_stays_dark(tmp_path):
    """Its white is known, so that its largest value does not say what is white: not even alone."""
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.tif").write_bytes(tiff(16, even(65535 - 2570, "<u2").tobytes(), photometric=0))
    found = read_dataset(str(tmp_path))
    assert found.image(0).getpixel((0, 0))[0] == found.alone().image(0).getpixel((0, 0))[0] == 10


@pytest.mark.parametrize(
    ("bits", "values", "sample_format"),
    [(16, np.rint(RAMP * 4095).astype("<u2"), 1), (32, RAMP.astype("<f4"), 3), (32, (RAMP * 255).astype("<f4"), 3)],
)
def test_where_white_is_zero_and_black_is_not_known_an_image_is_left_out(tmp_path, capsys, bits, values, sample_format):
    folder = of_one_class(tmp_path, good=even(60000))
    (tmp_path / "cat" / "bad.tif").write_bytes(tiff(bits, values.tobytes(), sample_format, photometric=0))
    assert [entry.name for entry in read_dataset(folder).skipped] == ["cat/bad.tif"]
    assert "0 is white" in capsys.readouterr().err


@pytest.mark.parametrize("white", [1, 255])
def test_float_images_are_of_0_to_1_or_of_0_to_255(white):
    found = np.asarray(to_rgb(decoded(encoded((RAMP * white).astype(np.float32)))))
    assert np.abs(found[..., 0] - RAMP * 255).max() <= 1


@pytest.mark.parametrize(
    ("kind", "peak"), [("F", 1.02), ("F", 300.0), ("I", 100_000), ("I", 2.0**40), ("F", 15.9), ("I", 2**27 - 10)]
)
def test_values_of_no_known_range_are_refused(kind, peak):
    with pytest.raises(ValueError, match="no known range"):
        white_of(kind, peak)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -0.5])
def test_an_image_with_what_is_no_grey_is_left_out_with_the_reason(tmp_path, bad, capsys):
    good, wrong = RAMP.astype(np.float32), RAMP.astype(np.float32)
    wrong[3, 3] = bad
    found = read_dataset(of_one_class(tmp_path, good=good, bad=wrong))
    assert len(found) == 1 and [entry.name for entry in found.skipped] == ["cat/bad.tif"]
    assert ("NaN or infinity" if not np.isfinite(bad) else "below zero") in capsys.readouterr().err


def test_the_largest_value_of_a_data_set_says_what_is_white(tmp_path, capsys):
    """A dark image of 12 bits beside a bright one stays dark."""
    found = read_dataset(of_one_class(tmp_path, "PNG", dark=even(100), bright=even(4000)))
    assert {name: found.image(row).getpixel((0, 0))[0] for row, name in enumerate(found.names)} == {
        "cat/dark.png": round(100 / 4095 * 255),
        "cat/bright.png": round(4000 / 4095 * 255),
    }
    assert "4095" in capsys.readouterr().err


def test_alone_no_image_changes_how_another_is_seen(tmp_path):
    """What differential privacy rests on: a bright image that comes or goes leaves all others as they are."""
    before = read_dataset(of_one_class(tmp_path, "PNG", a=even(100), b=even(4000))).alone()
    after = read_dataset(of_one_class(tmp_path, "PNG", c=even(60000)))
    assert np.asarray(after.image(1)).max() < 20
    alone = after.select([0, 1, 2]).alone()
    for row in range(2):
        assert np.array_equal(alone.image(row), before.image(row))
    assert [alone.image(row).getpixel((0, 0))[0] for row in range(3)] == [100, 249, 233]


@pytest.mark.parametrize(
    ("kind", "usual", "marker", "said"),
    [
        (np.uint16, 4000, 65535, "2 of 3 16-bit grey images hold no value over 4000"),
        (np.uint16, 255, 4080, "2 of 3 16-bit grey images hold no value over 255"),
        (np.int32, 65535, 2**31 - 1, "2 of 3 32-bit grey images hold no value over 65535"),
        (np.float32, 1.0, 255, "2 of 3 float grey images hold no value over 1,"),
        (np.float32, 0.01, 1, ""),  # no narrower range: they are dark
        (np.float32, 16, 255, ""),
    ],
)
def test_one_image_that_is_brighter_than_its_range_is_said_to_darken_the_others(
    tmp_path, capsys, kind, usual, marker, said
):
    read_dataset(of_one_class(tmp_path, a=even(usual * 0.75, kind), b=even(usual, kind), marker=even(marker, kind)))
    heard = capsys.readouterr().err
    assert f"{said}" in heard and ("black beside cat/marker.tif" in heard) is bool(said)


@pytest.mark.parametrize(("value", "said"), [(4000, True), (60000, False)])
def test_colours_of_16_bits_that_hold_fewer_are_said_to_be_nearly_black(tmp_path, capsys, value, said):
    def chunk(kind, content):
        crc = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + struct.pack(">12H", *[value] * 12) for _ in range(4))
    (tmp_path / "cat").mkdir()
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "cat" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    assert len(read_dataset(str(tmp_path))) == 1
    assert ("nearly black: cat/a.png" in capsys.readouterr().err) is said


@pytest.mark.parametrize(("values", "said"), [((0, 1), True), ((1, 2), False), ((0, 0), False)])
def test_masks_of_0_and_1_are_said_to_be_nearly_black(tmp_path, capsys, values, said):
    read_dataset(of_one_class(tmp_path, "PNG", a=even(values[0], np.uint8), b=even(values[1], np.uint8)))
    assert ("multiply by 255 if 1 is white" in capsys.readouterr().err) is said


def test_a_data_set_of_no_known_range_is_refused_with_its_image(tmp_path):
    with pytest.raises(BadInputError, match=r"cat/one\.tif.*300"):
        read_dataset(of_one_class(tmp_path, one=(RAMP * 300).astype(np.float32)))


@pytest.mark.parametrize(("form", "said"), [("TIFF", True), ("GIF", True), ("WEBP", True), ("MPO", False)])
def test_of_several_frames_the_first_is_used_and_that_is_said(tmp_path, capsys, form, said):
    (tmp_path / "fox").mkdir()
    shades = [Image.new("RGB", (8, 8), (shade,) * 3) for shade in (40, 200, 120)]
    shades[0].save(tmp_path / "fox" / "stack", form, save_all=True, append_images=shades[1:])
    found = read_dataset(str(tmp_path))
    assert abs(int(np.asarray(found.image(0))[4, 4, 0]) - 40) < 4
    assert ("the first alone is used: fox/stack (3)" in capsys.readouterr().err) is said

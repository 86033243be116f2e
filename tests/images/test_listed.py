"""Images that a table lists: labels, splits, what is not there, what leads elsewhere."""

import json
import unicodedata

import numpy as np
import pytest
from PIL import Image

from fglfast.base.errors import BadInputError
from fglfast.images.dataset import read_dataset


@pytest.fixture
def folder(tmp_path):
    """Six images in two folders that are no classes; each is of one shade, ten times its number."""
    for number in range(6):
        place = tmp_path / "images" / ("a" if number < 3 else "b")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4), 10 * number, np.uint8)).save(place / f"{number}.png")
    return tmp_path


def lines(labels, head="file_name,label", more=lambda number: ""):
    named = (f"images/{'a' if k < 3 else 'b'}/{k}.png,{label}{more(k)}" for k, label in enumerate(labels))
    return "\n".join([head, *named]) + "\n"


def read(source):
    """Class and shade of each image."""
    found = read_dataset(str(source))
    shades = [int(np.asarray(found.image(row))[0, 0, 0]) for row in range(len(found))]
    return [(found.class_names[label], shade) for label, shade in zip(found.labels, shades, strict=True)]


@pytest.mark.parametrize("given", ["labels.csv", "metadata.csv", "", "metadata.jsonl"])
def test_a_tables_labels_are_those_of_the_images_and_its_folders_are_no_classes(folder, given, capsys):
    file = folder / (given or "metadata.csv")
    labels = ["fox", "cat", "fox", "cat", "dog", "dog"]
    rows = [{"file_name": f"images/{'a' if k < 3 else 'b'}/{k}.png", "label": label} for k, label in enumerate(labels)]
    file.write_text("\n".join(map(json.dumps, rows)) if file.suffix == ".jsonl" else lines(labels))
    source = folder if given == "" or file.suffix == ".jsonl" else file
    assert read(source) == [(label, 10 * k) for k, label in enumerate(labels)]
    assert ("says the labels" in capsys.readouterr().err) == (source == folder)


def test_without_a_label_column_metadata_says_no_labels(folder):
    (folder / "images" / "metadata.csv").write_text("file_name,text\na/0.png,a fox\n")
    assert {name for name, _ in read(folder / "images")} == {"a", "b"}


CAPTIONS = {"file_name": "a/0.png", "text": "a fox with a label"}
LABELS = {"file_name": "a/0.png", "label": "fox"}


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("metadata.csv", "file_name,label\na/0.png,Käfer\n".encode("latin-1"), "cannot be read as UTF-8"),
        ("metadata.csv", "file_name,label\na/0.png,fox\n".encode("utf-16"), "cannot be read as UTF-8"),
        ("metadata.csv", b"file_name|label\na/0.png|fox\n", "no column file_name and label"),
        ("metadata.csv", b"filename,label\na/0.png,fox\n", "no column file_name"),
        ("metadata.csv", b"", "no column file_name and label"),
        ("METADATA.CSV", b"file_name,label\nnone.png,fox\n", "lists 1 image, none a file"),
        ("metadata.jsonl", b'{"file_name": "a/0.png", "label": "fox"', "line 1: not a JSON object"),
        ("metadata.jsonl", "\n".join(map(json.dumps, [CAPTIONS, LABELS])).encode(), "line 1: a/0.png has no label"),
    ],
)
def test_metadata_that_cannot_be_read_leaves_no_folders_as_classes(folder, name, content, words):
    file = folder / "images" / name
    file.write_bytes(content)
    said = set()
    for source in (file, file.parent):
        with pytest.raises(BadInputError, match=words) as refused:
            read(source)
        said.add(refused.value.message)
    assert len(said) == 1


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metadata.jsonl", json.dumps(CAPTIONS)),
        ("metadata.jsonl", "\n".join(map(json.dumps, [CAPTIONS, {**CAPTIONS, "file_name": "a/1.png"}]))),
        ("metadata.csv", "file_name;text\na/0.png;a label\n"),
        ("metadata.csv", "file_name|text\na/0.png|a label\n"),
        ("metadata.csv", "camera,site\nX1,north\n"),
    ],
)
@pytest.mark.parametrize("place", ["", "a"])
def test_metadata_without_labels_leaves_the_folders_as_classes(folder, place, name, content, capsys):
    (folder / "images" / place / name).write_text(content)
    assert {name for name, _ in read(folder / "images")} == {"a", "b"}
    assert "says the labels" not in capsys.readouterr().err


@pytest.mark.parametrize("content", ["file_name,label\n0.png,fox\n", "file_name|label\n0.png|fox\n"])
@pytest.mark.parametrize("place", ["images/a", "images/a/deeper", "images/train/a"])
def test_metadata_within_the_folders_is_refused_where_it_says_labels(folder, place, content):
    if "train" in place:
        (folder / "moved").mkdir()
        (folder / "images").rename(folder / "moved" / "train")
        (folder / "moved").rename(folder / "images")
    (folder / place).mkdir(exist_ok=True)
    (folder / place / "metadata.csv").write_text(content)
    with pytest.raises(BadInputError, match="says labels, and the folders' names would be the classes") as refused:
        read(folder / "images")
    assert str(folder / place / "metadata.csv") in refused.value.message


@pytest.mark.parametrize(
    ("entry", "name"),
    [
        ({"label": unicodedata.normalize("NFD", "Käfer")}, "Käfer"),
        ({"label": " fox\t"}, "fox"),
        ({"label": 1.0}, "1"),
        ({"label": 1}, "1"),
    ],
)
def test_a_label_is_read_in_one_way_from_json_and_csv(folder, entry, name):
    rows = [{"file_name": "images/a/0.png", **entry}, {"file_name": "images/a/1.png", "label": name}]
    (folder / "l.json").write_text(json.dumps(rows))
    (folder / "l.csv").write_text("\n".join(["file_name,label", *(f"{r['file_name']},{r['label']}" for r in rows)]))
    (folder / "map.json").write_text(json.dumps({row["file_name"]: row["label"] for row in rows}))
    for file in ("l.json", "l.csv", "map.json"):
        assert read(folder / file) == [(name, 0), (name, 10)]


@pytest.mark.parametrize("whole", [True, False])
def test_keys_of_json_may_have_capitals_as_columns_may(folder, whole):
    rows = [
        {"File_Name": f"images/a/{k}.png", "Label": "y", "label": "x", "Split": split, "Site": 1, "site": 2}
        for k, split in enumerate(("train", "train", "test"))
    ]
    (folder / "l.json").write_text(json.dumps(rows) if whole else "\n".join(map(json.dumps, rows)))
    assert read(f"{folder / 'l.json'}:test") == [("x", 20)]
    (folder / "l.json").write_text(json.dumps(rows[0]))
    assert read(folder / "l.json") == [("x", 0)]
    (folder / "images" / "metadata.jsonl").write_text('{"File_Name": "a/0.png", "LABEL": "fox"}')
    assert read(folder / "images") == [("fox", 0)]


@pytest.mark.parametrize("missing", ["NA", "nan", "NaN", "null", "None"])
@pytest.mark.parametrize(
    ("others", "numbers"), [("012", True), (("0.0", "1.5", "-2"), True), (("cat", "dog", "1"), False)]
)
def test_words_for_a_missing_label_are_none_among_numbers_and_doubted_among_names(
    folder, missing, others, numbers, capsys
):
    (folder / "labels.csv").write_text(lines([*others, missing]))
    if numbers:
        with pytest.raises(BadInputError, match=f"labels.csv: label '{missing}' among numbers"):
            read(folder / "labels.csv")
    else:
        assert (missing, 30) in read(folder / "labels.csv")
        assert f"class '{missing}': is it a missing label?" in capsys.readouterr().err


@pytest.mark.parametrize(("label", "kind"), [(["fox"], "list"), ({"name": "fox"}, "dict"), (0.5, "float")])
def test_a_label_of_another_type_is_said_to_be_one(folder, label, kind):
    (folder / "l.json").write_text(json.dumps([{"file_name": "images/a/0.png", "label": label}]))
    with pytest.raises(BadInputError, match=f"entry 1: images/a/0.png has a label of type {kind}; labels are"):
        read(folder / "l.json")


def test_the_first_of_numbered_folds_is_a_split(folder):
    rows = [{"file_name": f"images/a/{k}.png", "label": "x", "split": k % 2} for k in range(3)]
    (folder / "l.json").write_text(json.dumps(rows))
    assert read(f"{folder / 'l.json'}:0") == [("x", 0), ("x", 20)]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("{folder}/images/a/0.png", "write 'images/a/0.png'"),
        ("images//a/0.png", "write 'images/a/0.png'"),
        ("images/../images/a/0.png", "write 'images/a/0.png'"),
        ("linked/0.png", "not followed"),
        ("near/0.png", "write 'images/a/0.png'"),
        ("{elsewhere}/0.png", "put the table into a folder that holds its images"),
        ("none.png", "the path from the table's folder, and label"),
        (".hidden.png", "the path from the table's folder, and label"),
    ],
)
def test_names_that_lead_to_a_file_in_another_way_are_told_how_to_be_written(folder, tmp_path_factory, name, hint):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for place in (elsewhere / "0.png", folder / ".hidden.png"):
        Image.new("L", (4, 4)).save(place)
    (folder / "linked").symlink_to(elsewhere)
    (folder / "near").symlink_to(folder / "images" / "a")
    (folder / "labels.csv").write_text(f"file_name,label\n{name.format(folder=folder, elsewhere=elsewhere)},fox\n")
    with pytest.raises(BadInputError, match="lists 1 image, none a file") as refused:
        read(folder / "labels.csv")
    assert hint in refused.value.hint


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["0", "2", "10", "0", "2", "10"], tuple(map(str, range(11)))),
        (["1.0", "0.0", "1.0", "0", "1", "1.0"], ("0", "1")),
        (["1", "b", "1", "b", "1", "b"], ("1", "b")),
        (["fox ", "fox", "cat\t", "cat", "cat", "fox"], ("cat", "fox")),
        (["01", "02", "01", "02", "01", "02"], ("01", "02")),
        (["01", "b 2", '"c,3"', "01", "01", "01"], ("01", "b 2", "c,3")),
    ],
)
def test_numbers_are_classes_in_their_order(folder, labels, names):
    (folder / "labels.csv").write_text(lines(labels))
    assert read_dataset(str(folder / "labels.csv")).class_names == names


@pytest.mark.parametrize("columns", ["file_name,label,split", "File_Name,Label,Split"])
def test_a_column_or_the_folders_say_the_splits(folder, columns):
    several = folder / "several.csv"
    several.write_text(lines("abcabc", columns, lambda number: ",train" if number < 4 else ",test"))
    assert read(f"{several}:test") == [("b", 40), ("c", 50)]
    with pytest.raises(BadInputError, match="holds 2 splits and none is named"):
        read(several)
    with pytest.raises(BadInputError, match="no split named 'val'"):
        read(f"{several}:val")
    for own, name in (("a", "train"), ("b", "test")):
        (folder / "images" / own).rename(folder / "images" / name)
    named = [f"train/{k}.png,x" for k in range(3)] + [f"test/{k}.png,y" for k in range(3, 6)]
    (folder / "images" / "metadata.csv").write_text("\n".join(["file_name,label", *named]))
    assert read(f"{folder / 'images'}:train") == [("x", 0), ("x", 10), ("x", 20)]
    with pytest.raises(BadInputError, match="holds 2 splits"):
        read(folder / "images")


def test_each_split_may_have_a_table_of_its_own(folder):
    for own, name in (("a", "train"), ("b", "test")):
        place = (folder / "images" / own).rename(folder / "images" / name)
        rows = [f"{path.name},{'odd' if int(path.stem) % 2 else 'even'}" for path in sorted(place.glob("*.png"))]
        (place / "metadata.csv").write_text("\n".join(["file_name,label", *rows]))
    assert read(f"{folder / 'images'}:test") == [("odd", 30), ("even", 40), ("odd", 50)]
    with pytest.raises(BadInputError, match="holds 2 splits"):
        read(folder / "images")


def test_what_is_not_there_or_not_listed_is_said(folder, capsys):
    (folder / "labels.csv").write_text(lines("ab") + "images/none.png,a\n../outside.png,b\n/etc/passwd,b\n")
    assert read(folder / "labels.csv") == [("a", 0), ("b", 10)]
    said = capsys.readouterr().err
    assert "skipped 3 of 5" in said and "images/none.png" in said and "4 images, " in said
    (folder / "labels.csv").write_text("file_name,label\nnone.png,a\n")
    with pytest.raises(BadInputError, match="lists 1 image, none a file"):
        read(folder / "labels.csv")


def test_a_table_whose_images_are_all_damaged_is_no_folder_of_classes(folder):
    (folder / "broken.png").write_bytes(b"no image")
    (folder / "metadata.csv").write_text("file_name,label\nbroken.png,a\n")
    with pytest.raises(BadInputError, match="no image can be read"):
        read(folder)


def test_a_column_that_is_not_read_may_be_there_twice(folder):
    (folder / "labels.csv").write_text("file_name,label,,site,site\nimages/a/0.png,a,,x,y\n")
    assert read(folder / "labels.csv") == [("a", 0)]


def test_without_labels_the_list_alone_is_read(folder):
    (folder / "some.csv").write_text("file_name\nimages/a/1.png\nimages/b/5.png\n")
    found = read_dataset(str(folder / "some.csv"), labelled=False)
    assert found.names == ("images/a/1.png", "images/b/5.png") and len(found.class_names) == 1


def test_a_link_that_leads_out_is_not_followed(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "secret.png"
    Image.new("L", (4, 4)).save(elsewhere)
    (folder / "link.png").symlink_to(elsewhere)
    (folder / "labels.csv").write_text(lines("ab") + "link.png,b\n")
    [skipped] = read_dataset(str(folder / "labels.csv")).skipped
    assert (skipped.name, "leads out" in skipped.reason) == ("link.png", True)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("image_id,diagnosis\n1,a\n", "no column file_name and label"),
        ("file_name,label\nimages/a/0.png,\n", "has no label"),
        ("file_name,label\nimages/a/0.png,a\nimages/a/0.png,b\n", "is there twice"),
        ("file_name,label\n,a\n", "names no image"),
        ("file_name,label,label\nimages/a/0.png,a,b\n", "line 1: column label is there twice"),
        ("file_name,Label,label\nimages/a/0.png,a,b\n", "line 1: column label is there twice"),
        ("file_name,label,split,split\nimages/a/0.png,a,x,y\n", "line 1: column split is there twice"),
        ('{"file_name": "images/a/0.png", "Label": "a", "LABEL": "b"}', "line 1: column label is there twice"),
        ("file_name,label\n", "lists no image"),
        ("[]", "lists no image"),
        ('{"images/a/0.png": ["a"]}', "its labels are lists"),
        ('{"images/a/0.png": 0.5}', "not of labels by file name"),
    ],
)
def test_what_is_missing_is_said_in_one_line(folder, content, words):
    (folder / "labels.csv").write_text(content)
    with pytest.raises(BadInputError, match=words):
        read(folder / "labels.csv")


@pytest.mark.parametrize(("name", "said"), [("images", True), ("JPG", True), ("pneumonia", False)])
def test_a_lone_folder_that_is_called_like_any_is_doubted(tmp_path, capsys, name, said):
    (tmp_path / name).mkdir()
    Image.new("L", (4, 4)).save(tmp_path / name / "1.png")
    read_dataset(str(tmp_path))
    assert ("its only class is called" in capsys.readouterr().err) is said


def test_a_lone_folder_beside_a_table_is_no_class_without_a_word(folder, capsys):
    (folder / "train.csv").write_text("id,diagnosis\n1,a\n")
    read(folder)
    assert "train.csv says the classes" in capsys.readouterr().err

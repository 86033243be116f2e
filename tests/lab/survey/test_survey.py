import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from fglfast.base.errors import BadInputError
from fglfast.images.labelled import LabelledImages
from fglfast.lab.survey.survey import SHOWN, survey
from fglfast.report.survey_page import write_page
from fglfast.shards.description import read_description
from fglfast.shards.keep import leave_out
from fglfast.shards.pack import pack
from fglfast.shards.tar import Sample, encode_image, write_shard
from fglfast.verbs.app import app

SIDE = 24
CLASSES = ("cats & dogs", "<b>birds</b>", "none")


def labelled(pixels, labels):
    openers = tuple(lambda image=image: Image.fromarray(image) for image in pixels)
    return LabelledImages(CLASSES, np.array(labels), openers, (), "made")


@pytest.fixture
def pictures():
    """Thirty noise images that nothing is alike, of two classes in turn."""
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8) for _ in range(30)]


@pytest.fixture
def folder(tmp_path, pictures):
    """Those, and two more: the first again under the other class, and the second with one level more."""
    pixels = [*pictures, pictures[0], np.where(pictures[1] < 255, pictures[1] + 1, 255).astype(np.uint8)]
    pack(labelled(pixels, [k % 2 for k in range(30)] + [1, 1]), SIDE, tmp_path / "set")
    return tmp_path / "set"


def test_counts_and_images_of_each_class(folder):
    surveyed = survey(folder)
    found = surveyed.survey
    assert [(row.name, row.images) for row in found.classes] == list(zip(CLASSES, (15, 17, 0), strict=True))
    assert found.images == found.compared == 32 and found.image_size == SIDE
    assert {name: len(images) for name, images in surveyed.samples.items()} == dict(
        zip(CLASSES, (SHOWN, SHOWN, 0), strict=True)
    )
    tar = (folder / "train-000000.tar").stat().st_size
    assert 0 < sum(row.bytes for row in found.classes) < tar


def test_what_looks_alike_is_found_and_shown_once(folder, pictures):
    surveyed = survey(folder)
    assert surveyed.survey.alike == 4 and surveyed.survey.alike_across == 2
    first, second = surveyed.twins
    assert first.levels == 0 and {first.one_class, first.other_class} == set(CLASSES[:2])
    assert np.array_equal(first.one, pictures[0]) and np.array_equal(first.other, pictures[0])
    assert 0.9 < second.levels < 1.1 and np.array_equal(second.one, pictures[1])


def test_real_images_that_come_back_are_found(folder, pictures):
    surveyed = survey(folder, labelled([pictures[7], 255 - pictures[8]], [0, 0]))
    assert surveyed.survey.copies == 1 and surveyed.survey.against_images == 2
    (pair,) = surveyed.copies
    assert np.array_equal(pair.one, pictures[7]) and np.array_equal(pair.other, pictures[7])


def test_of_many_images_some_are_compared_and_the_places_are_theirs(folder, pictures):
    surveyed = survey(folder, labelled([pictures[0]], [0]), most=2)
    assert surveyed.survey.compared == 2 and surveyed.survey.images == 32
    assert np.array_equal(surveyed.copies[0].one, pictures[0])


def test_redraws_are_counted(folder, tmp_path, pictures):
    facts = [{"redraw": 2}, {}]
    samples = [Sample(f"{k:09d}", encode_image(pictures[k], "png"), 0, facts[k]) for k in range(2)]
    write_shard(folder / "train-000000.tar", samples, "png")
    description = json.loads((folder / "dataset.json").read_text()) | {"images": 2}
    (folder / "dataset.json").write_text(json.dumps(description))
    assert [row.redrawn for row in survey(folder).survey.classes] == [1, 0, 0]


def test_what_is_left_out_of_training_is_counted_and_shown(folder, pictures):
    facts = [{"score": score} for score in (0.9, 0.1, 0.3)]
    samples = [Sample(f"{k:09d}", encode_image(pictures[k], "png"), k % 2, facts[k]) for k in range(3)]
    write_shard(folder / "train-000000.tar", samples, "png")
    (folder / "dataset.json").write_text(json.dumps(json.loads((folder / "dataset.json").read_text()) | {"images": 3}))
    leave_out(folder, read_description(folder), "0.5")
    surveyed = survey(folder)
    assert surveyed.survey.left_out == 2
    assert [(name, score) for _, name, score in surveyed.left_out] == [(CLASSES[1], 0.1), (CLASSES[0], 0.3)]
    assert np.array_equal(surveyed.left_out[0][0], pictures[1])
    write_page(surveyed, folder / "page.html")
    assert "score 0.10" in (folder / "page.html").read_text()


def test_a_damaged_shard_is_named(folder):
    shard = folder / "train-000000.tar"
    shard.write_bytes(shard.read_bytes()[:700])
    with pytest.raises(BadInputError, match=r"train-000000\.tar"):
        survey(folder)


def test_the_page_names_every_class_and_runs_nobodys_script(folder, tmp_path, pictures):
    page = tmp_path / "page.html"
    write_page(survey(folder, labelled([pictures[3]], [1])), page)
    text = page.read_text()
    assert "cats &amp; dogs" in text and "&lt;b&gt;birds&lt;/b&gt;" in text and "<b>birds" not in text
    assert text.count("data:image/png;base64,") == 2 + 2 + 1
    again = tmp_path / "again.html"
    write_page(survey(folder, labelled([pictures[3]], [1])), again)
    assert again.read_bytes() == page.read_bytes()


def test_the_verb_writes_beside_the_folder(folder):
    assert CliRunner().invoke(app, ["report", str(folder)]).exit_code == 0
    assert (folder.parent / "set.html").exists()

from html import escape
from html.parser import HTMLParser

import numpy as np
import pytest
from drawn_clients import drawn_of

from fglfast.base.errors import BadInputError
from fglfast.base.machine import machine_facts, package_versions
from fglfast.base.writable import usable_file
from fglfast.generator.text import resolve_model, taught_by
from fglfast.pipeline.record import ClientRecord, EngineRecord, Epoch, RunRecord
from fglfast.pipeline.stages import Stage
from fglfast.report.run_page import _curve, least_accurate, write_report
from fglfast.training.results import ClassResult, Evaluation

EVIL = '<script>alert(1)</script>" onload="x'


def record(classes=2, epochs=2):
    names = (EVIL, *(f"class {k}" for k in range(1, classes)))
    return RunRecord(
        command="fglfast demo",
        created="2026-01-01",
        machine=machine_facts("cpu"),
        versions=package_versions(),
        settings={"seed": 0, "train": {"epochs": epochs}},
        class_names=names,
        generator=EVIL,
        private_source="a",
        test_source="b",
        clients=(ClientRecord(name=EVIL, images_by_class=(3,) * classes, rows=2, upload_bytes=100),),
        engine=EngineRecord(key="k", backend="torch", cached=False, relative_error=1e-6, psnr=100.0),
        resumed=False,
        images=10,
        images_per_second=3.0,
        network_share=0.9,
        model_arch="resnet18",
        model_parameters=10,
        model_bytes=400_000,
        history=tuple(Epoch(epoch=k, train_loss=1.0 / (k + 1), val_accuracy=0.5) for k in range(epochs)),
        evaluation=Evaluation(
            accuracy=0.5,
            n=4,
            loss=1.0,
            ece=0.1,
            class_names=names,
            per_class={name: ClassResult(accuracy=None, n=0) for name in names},
            confusion=tuple(tuple(range(classes)) for _ in range(classes)),
        ),
        stages=(Stage(name="embed", seconds=1.0), Stage(name="train", seconds=3.0, bytes=5)),
    )


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.seen = []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))


@pytest.mark.parametrize(("classes", "epochs"), [(1, 0), (2, 3), (120, 2)])
def test_the_page_is_whole_safe_and_reproducible(tmp_path, classes, epochs):
    images = {EVIL: [np.zeros((8, 8, 3), np.uint8)] * 2}
    pages = []
    for name in ("a.html", "b.html"):
        write_report(record(classes, epochs), images, {}, tmp_path / name)
        pages.append((tmp_path / name).read_text())
    assert pages[0] == pages[1] and "50.0%" in pages[0] and "1/4,000" in pages[0]
    usable_file(tmp_path / "a.html", "page of fglfast")  # known by how it begins
    assert f"synthetic images by {escape(EVIL)}" in pages[0].replace("&#34;", "&quot;")
    tags = Tags()
    tags.feed(pages[0])
    assert not [tag for tag, _ in tags.seen if tag in {"script", "iframe", "link"}]
    for _, attributes in tags.seen:
        assert not [key for key in attributes if key.startswith("on")]
        assert not [value for value in attributes.values() if value and value.startswith(("http", "//"))]


def many(classes):
    """A run of many classes, of which class k is named rightly in k of 1,000 cases and taken for its neighbour else."""
    made = record(classes)
    confusion = np.diag(np.arange(classes)) + np.roll(np.diag(np.arange(classes)), 1, axis=1)
    per_class = {name: ClassResult(accuracy=k / 1000, n=9) for k, name in enumerate(made.class_names)}
    found = made.evaluation.model_copy(update={"per_class": per_class, "confusion": confusion.tolist()})
    return made.model_copy(update={"evaluation": found, "clients": made.clients * 60})


def test_what_is_left_out_of_many_classes_is_said_and_the_worst_are_shown(tmp_path):
    made = many(1000)
    assert least_accurate(made) == list(made.class_names[:40])
    images = {name: [np.zeros((8, 8, 3), np.uint8)] for name in made.class_names}
    write_report(made, images, images, tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text()
    assert "first 40 of 1,000 classes" in page and page.count("40 of 1,000 classes: ") == 2
    assert "first 40 of 60 clients" in page and "30 of 999 pairs of classes" in page
    assert page.count('<img alt="synthetic ') == 40 and 'title="class 999: 3"' in page
    write_report(record(12), {}, {}, tmp_path / "b.html")
    assert " of 12 classes" not in (tmp_path / "b.html").read_text()


def test_a_run_of_too_many_classes_to_count_pairs_of_says_so(tmp_path):
    made = many(1001)
    uncounted = made.evaluation.model_copy(update={"confusion": ()})
    write_report(made.model_copy(update={"evaluation": uncounted}), {}, {}, tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text()
    assert "Not counted by pairs" in page and "taken for" not in page


def test_a_run_says_what_was_drawn_of_whom(tmp_path):
    write_report(record(), {}, {}, tmp_path / "a.html", drawn_of(60, 2))
    page = (tmp_path / "a.html").read_text()
    assert "What was drawn of whom" in page and "40 of 60 clients" in page and "client059" in page
    write_report(record(), {}, {}, tmp_path / "b.html")
    assert "drawn of whom" not in (tmp_path / "b.html").read_text()


def test_epochs_are_whole_numbers(tmp_path):
    axis = _curve(record(epochs=3)).axes[0]
    assert all(float(tick).is_integer() for tick in axis.get_xticks())


def test_a_record_survives_the_disk(tmp_path):
    (tmp_path / "run.json").write_text(record().model_dump_json())
    assert RunRecord.from_json(tmp_path / "run.json") == record()
    (tmp_path / "run.json").write_text('{"colour": 1}')
    with pytest.raises(BadInputError):
        RunRecord.from_json(tmp_path / "run.json")


def test_the_page_says_what_the_generator_learned_from(tmp_path):
    known = taught_by(resolve_model("mini"))
    assert "30,000" in known and "labelled public images" in known and known == taught_by(resolve_model("mini-few"))
    assert taught_by(tmp_path) == ""
    write_report(record().model_copy(update={"taught_by": known}), {}, {}, tmp_path / "a.html")
    assert known in (tmp_path / "a.html").read_text()

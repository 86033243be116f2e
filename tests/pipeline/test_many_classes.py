"""A thousand classes whose names hold any character: in payload, shards, card and exports, model, pages."""

import ast
import json
import re
from html.parser import HTMLParser

import datasets
import numpy as np
import pytest
from PIL import Image
from transformers import AutoConfig
from typer.testing import CliRunner

from fglfast.generator.learning.card import model_card
from fglfast.images.dataset import read_dataset
from fglfast.payload.read import load_payload
from fglfast.pipeline.record import RunRecord
from fglfast.pipeline.settings import TRAIN
from fglfast.shards.imagefolder import export_imagefolder
from fglfast.shards.parquet_export import export_parquet
from fglfast.synthesis.drawn import Drawn
from fglfast.verbs.app import app

STRANGE = (
    *('say "it"', "it's", "<b>bold</b>", "<script>alert(1)</script>", "Q&A", "&amp;", "'; DROP TABLE", "`tick`"),
    *("naïve café", "日本語", "🦊", "👩‍👩‍👧", "שלום עולם", "مرحبا", "می‌خواهم", "a\u00a0b", "e\u0301", "\u00e9"),
    *("a/b", "../up", ".hidden", "..", ".", "~", "back\\slash", "a:b", "CON", "nul.txt", "ends.", "*", "?", "|"),
    *("fox", "Fox", "FOX", "x" * 200, "é" * 200, "y" * 199 + "1", "y" * 199 + "2", "two  spaces"),
    *("100%", "%s %d", "{}", "{label}", "{{x}}", "{0.__class__}", "$HOME", "\\N{BULLET}", "[bold]rich[/bold]", "[/]"),
    *("- yaml", "yes", "null", "1", "007", "1e3", "#", "@", "[link](x)", "labels.json", "train", "Thumbs.db"),
)
NAMES = (*STRANGE, *(f"class {number:04d}" for number in range(1000 - len(STRANGE))))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """An image of each class; which folder is whose says `labels.json`."""
    root, generator = tmp_path_factory.mktemp("many") / "data", np.random.default_rng(0)
    folders = [f"c{label:04d}" for label in range(len(NAMES))]
    for folder in folders:
        (root / folder).mkdir(parents=True)
        Image.fromarray(generator.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(root / folder / "0.png")
    (root / "labels.json").write_text(json.dumps(dict(zip(folders, NAMES, strict=True))))
    return str(root)


def told(*words):
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def run(data, tiny_recipe, tiny_arch, tmp_path_factory):
    """A one-shot run, from two clients to a model and its page."""
    out = tmp_path_factory.mktemp("run") / "out"
    told(
        *("demo", "--out", out, "--private", data, "--test", data, "--clients", 2, "--beta", 100),
        *("--recipe", tiny_recipe, "--images-per-class", 1, "--arch", tiny_arch, "--epochs", 1, "--image-size", 8),
        "--allow-same-prompt",
    )
    return out


def test_a_demo_trains_as_a_one_shot_does_but_for_what_is_asked(run, tiny_arch):
    asked = TRAIN.model_copy(update={"arch": tiny_arch, "epochs": 1, "image_size": 8})
    assert RunRecord.from_json(run / "run.json").settings["train"] == asked.model_dump(mode="json")


def test_a_payload_of_tokens_has_every_name(data, random_mini, tmp_path):
    path = tmp_path / "ann.safetensors"
    told("embed", data, "--client", "ann", "--model", random_mini, "--send", "tokens", "--out", path)
    payload = load_payload(path)
    assert payload.header.class_names == NAMES and payload.labels.tolist() == list(range(len(NAMES)))
    assert "[bold]rich[/bold]" in told("inspect", path, "--json")


def test_stock_datasets_reads_shards_and_parquet_by_the_names(run, tmp_path):
    folder = run / "synthetic"
    shards = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path))
    parquet = export_parquet(folder, NAMES, Drawn.of(folder).shards)
    table = datasets.load_dataset(str(parquet), split="train", cache_dir=str(tmp_path))
    for found, column in ((shards, "cls"), (table, "label")):
        assert found.features[column].names == list(NAMES) and sorted(found[column]) == list(range(len(NAMES)))
    assert read_dataset(str(parquet)).class_names == NAMES


def test_an_imagefolder_is_read_again_with_the_same_names_and_labels(run):
    folder = run / "synthetic"
    made = export_imagefolder(folder, NAMES, Drawn.of(folder).shards)
    assert all(path.resolve().parent == made.resolve() for path in made.iterdir())
    again = read_dataset(str(made))
    assert again.class_names == NAMES and again.counts().tolist() == [1] * len(NAMES)


def test_the_card_shows_names_as_they_are(run):
    card = (run / "synthetic" / "README.md").read_text(encoding="utf-8")
    listed = card.partition("## Classes\n")[2].partition("\n\n## Payloads")[0].splitlines()
    assert [re.sub(r"\\(.)", r"\1", line.removeprefix("- ")) for line in listed] == list(NAMES)
    assert all(f"\n- {shown}" in card for shown in ("\\<script\\>", "\\&amp;", "\\- yaml\n"))


def test_the_model_names_them_and_is_tested_on_them(run, data):
    config = AutoConfig.from_pretrained(run / "model")
    assert tuple(config.id2label[label] for label in range(len(NAMES))) == NAMES
    found = json.loads(told("evaluate", run / "model", data, "--json"))
    assert tuple(found["class_names"]) == NAMES and set(found["per_class"]) == set(NAMES)
    table = told("evaluate", run / "model", data)
    assert "<b>bold</b>" in table and "and 980 more" in table


class Page(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text = set(), ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)

    def handle_data(self, data):
        self.text += data


def test_pages_say_what_they_leave_out_and_run_nothing(run):
    told("report", run / "synthetic")
    first = (run / "report.html").read_bytes()
    told("report", run)
    assert (run / "report.html").read_bytes() == first
    for path, said, shown in (
        (run / "report.html", "40 of 1,000 classes", 40),
        (run / "synthetic.html", "The first 200 of 1,000", 200),
    ):
        html = path.read_text(encoding="utf-8")
        page = Page(html)
        assert said in page.text and "script" not in page.tags and len(html) < 3_000_000
        assert sum(name in page.text for name in NAMES) >= shown


def test_the_card_of_a_generator_shows_names_as_they_are(data, tmp_path):
    for stage in ("vae", "flow"):
        (tmp_path / f"{stage}-metrics.jsonl").write_text('{"step": 1, "seconds": 1, "loss": 1}\n')
    card = model_card("<b>", read_dataset(data), 32, True, (), tmp_path, False)
    assert "# \\<b\\>: a small" in card
    assert "\\<b\\>bold\\</b\\>" in card and "980 more" in card
    code = card.partition("```python\n")[2].partition("```")[0]
    assert any(getattr(node, "value", None) == NAMES[0] for node in ast.walk(ast.parse(code)))

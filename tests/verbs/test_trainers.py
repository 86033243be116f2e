"""What `pretrain` hands to its stage, and the last line that it prints."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from fglfast.generator.learning import pretrain as stage
from fglfast.verbs.app import app


@pytest.fixture
def images(tmp_path):
    pixels = np.zeros((4, 16, 16, 3), np.uint8)
    np.savez(tmp_path / "images.npz", images=pixels, labels=np.arange(4) % 2, class_names=np.array(["food", "things"]))
    captions = tmp_path / "names.json"
    captions.write_text(json.dumps([{"index": row, "caption": f"thing {row}"} for row in range(4)]))
    return str(tmp_path / "images.npz"), str(captions)


def invoke(monkeypatch, tmp_path, images, *options):
    asked = []

    def run(dataset, out, settings, captions):
        asked.append((settings, captions))
        return out / "model"

    monkeypatch.setattr(stage, "pretrain", run)
    done = CliRunner().invoke(app, ["pretrain", "--data", images[0], "--out", str(tmp_path / "drawings"), *options])
    return done, asked


def test_the_last_line_is_the_probe_with_the_options_that_fit_the_model(monkeypatch, tmp_path, images):
    alone = ("--captions", images[1], "--without-classes", "--size", "small", "--image-size", "64", "--seed", "5")
    done, [(settings, captions)] = invoke(monkeypatch, tmp_path, images, *alone)
    assert done.exit_code == 0 and captions == [f"thing {row}" for row in range(4)]
    assert (settings.classes, settings.seed, settings.model.image_size) == (False, 5, 64)
    model = tmp_path / "drawings" / "model"
    probe = f"fglfast probe IMAGES --model {model} --prompt-level instance --captions {images[1]}"
    assert done.stdout.splitlines()[-1].endswith(probe)
    done, [(settings, captions)] = invoke(monkeypatch, tmp_path, images, "--json")
    assert json.loads(done.stdout)["probe"] == f"fglfast probe IMAGES --model {model}"
    assert settings.classes and captions is None


@pytest.mark.parametrize("side", ["16", "40", "256"])
def test_a_side_that_it_cannot_draw_is_refused(monkeypatch, tmp_path, images, side):
    done, asked = invoke(monkeypatch, tmp_path, images, "--image-size", side)
    assert done.exit_code == 2 and not asked


def test_images_without_a_caption_are_named(monkeypatch, tmp_path, images):
    short = tmp_path / "short.json"
    short.write_text(json.dumps([{"index": 0, "caption": "a thing"}]))
    done, asked = invoke(monkeypatch, tmp_path, images, "--captions", str(short))
    assert done.exit_code == 4 and "3 of 4 images" in done.output and not asked

"""`embed --unlabelled`: images without labels, a server's classifier, and the payload that comes of them."""

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from fglfast.training.augment import normalise
from fglfast.training.model import build_model, save_model
from fglfast.verbs.app import app

NAMES = ("bag", "ankle boot", "t-shirt")
SHADES = (40, 120, 210)


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def pictures(labels, size=16):
    """Images of one shade a class, and noise."""
    noise = np.random.default_rng(len(labels)).normal(0, 12, (len(labels), size, size))
    return np.clip(np.array(SHADES)[labels][:, None, None] + noise, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def classifier(tiny_arch, tmp_path_factory):
    """A model folder, as `train` leaves it, of a network that tells the shades apart."""
    torch.manual_seed(0)
    model = build_model(tiny_arch, NAMES).train()
    optimiser = torch.optim.Adam(model.parameters(), 0.02)
    labels = np.arange(60) % 3
    pixels = torch.from_numpy(pictures(labels))[:, None].expand(-1, 3, -1, -1)
    for _ in range(40):
        loss = model(pixel_values=normalise(pixels), labels=torch.from_numpy(labels)).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    folder = tmp_path_factory.mktemp("server") / "model"
    save_model(model, folder, 16)
    return folder


@pytest.fixture
def images(tmp_path):
    """A client's npz, of two of the three classes, without labels."""
    labels = np.array([0] * 12 + [2] * 8)
    np.savez(tmp_path / "own.npz", images=pictures(labels))
    return tmp_path / "own.npz"


def shown(file):
    return json.loads(run("inspect", file, "--json").stdout)


@pytest.fixture
def embed(images, classifier, random_mini, tmp_path):
    out = tmp_path / "ann.safetensors"
    common = ["embed", images, "--out", out, "--model", random_mini, "--unlabelled", "--classifier", classifier]
    return lambda *more: (run(*common, "--json", *more), out)


def test_a_class_level_payload_holds_the_classes_and_counts_that_were_found(embed):
    done, out = embed()
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["images"] == 20 and json.loads(done.stdout)["left_out"] == 0
    assert shown(out)["images_by_class"] == {"bag": 12, "ankle boot": 0, "t-shirt": 8}


def test_an_instance_level_payload_has_a_caption_of_each_image_that_is_labelled(embed):
    done, out = embed("--prompt-level", "instance", "--least-images", "10")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["left_out"] == 8
    assert shown(out)["images_by_class"] == {"bag": 12, "ankle boot": 0, "t-shirt": 0}
    assert shown(out)["prompt_level"] == "instance"


def test_the_federations_list_of_classes_orders_them_and_may_be_longer(embed, tmp_path):
    (tmp_path / "classes.txt").write_text("t-shirt\nhat\nbag\n")
    done, out = embed("--classes", tmp_path / "classes.txt")
    assert done.exit_code == 0 and "hat" in done.stderr, done.output
    assert shown(out)["images_by_class"] == {"t-shirt": 8, "hat": 0, "bag": 12}
    (tmp_path / "classes.txt").write_text("hat\ncoat\n")
    assert embed("--classes", tmp_path / "classes.txt")[0].exit_code == 4


def test_labels_that_are_there_are_not_read(embed, images):
    np.savez(images, images=pictures(np.array([0] * 12 + [2] * 8)), labels=np.full(20, 7), class_names=np.array(["x"]))
    done, out = embed()
    assert done.exit_code == 0 and shown(out)["images_by_class"]["bag"] == 12


def test_where_no_image_gets_a_label_no_file_is_written(embed):
    done, out = embed("--least-images", "30")
    assert done.exit_code == 4 and "none of 20 images" in done.stderr and not out.exists()


def test_noise_is_refused_and_why_is_said(embed):
    done, out = embed("--epsilon", "1")
    assert done.exit_code == 2 and "labels of all others" in done.stderr and not out.exists()


@pytest.mark.parametrize(
    "options",
    [["--unlabelled"], ["--classifier", "x"], ["--confidence", "1"], ["--least-images", "2"]],
)
def test_options_that_do_not_go_together(options, images, tmp_path):
    done = run("embed", images, "--out", tmp_path / "a.safetensors", *options)
    assert done.exit_code == 2 and ("--classifier" in done.stderr or "--unlabelled" in done.stderr)


def test_a_folder_that_is_no_classifier(images, tmp_path):
    done = run("embed", images, "--out", tmp_path / "a.safetensors", "--unlabelled", "--classifier", tmp_path)
    assert done.exit_code == 4 and str(tmp_path) in done.stderr.replace("\n", "")

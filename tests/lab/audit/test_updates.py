"""What the server sees of an update, against the same epochs made by hand."""

import copy
from dataclasses import replace

import numpy as np
import pytest

from fglfast.federation.arena import run_experiment
from fglfast.federation.client_app import SEEDS
from fglfast.federation.clients import simulated
from fglfast.federation.experiment import Experiment
from fglfast.federation.local import train_locally
from fglfast.images.dataset import read_dataset
from fglfast.lab.audit import updates
from fglfast.lab.audit.audited import NOBODY, AuditedImages, holders, learned_names
from fglfast.lab.audit.likelihood import confidences
from fglfast.lab.audit.opened import open_run
from fglfast.lab.audit.roc import roc
from fglfast.training.batches import read_pixels
from fglfast.training.evaluate import open_classifier

SEED = 2


@pytest.fixture(scope="module")
def experiment(tmp_path_factory, tiny_arch):
    """Two clients of sixty images; sixty others."""
    path, found = tmp_path_factory.mktemp("data") / "few.npz", read_dataset("fashion:private")
    pixels, labels = np.stack([found.pixels(row, 28) for row in range(180)]), found.labels[:180]
    arrays = {"private_images": pixels[:120], "private_labels": labels[:120]}
    arrays |= {"test_images": pixels[120:], "test_labels": labels[120:]}
    np.savez(path, class_names=np.array(found.class_names), **arrays)
    return Experiment.model_validate(
        {
            "data": f"{path}:private",
            "test": f"{path}:test",
            "partition": {"kind": "iid", "clients": 2},
            "train": {"arch": tiny_arch, "image_size": 16},
            "local": {"epochs": 3, "batch_size": 8, "learning_rate": 0.05, "flip": False, "erasing": 0.0},
            "rounds": {"fedavg": 1},
            "methods": ["fedavg"],
            "seeds": [SEED],
        }
    )


@pytest.fixture(scope="module")
def finished(experiment, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "few"
    run_experiment(experiment, folder, folder.parent / "engines")
    private = read_dataset(experiment.data)
    return open_run(folder, None), AuditedImages(private, read_pixels(private, 16))


def test_an_update_is_what_the_client_sends(experiment, finished, monkeypatch):
    run, pool = finished
    monkeypatch.setattr(updates, "WATCHED", 1)
    asked_N = np.arange(120) % 2
    before = {path: path.read_bytes() for path in run.out.rglob("*") if path.is_file()}
    seen_N = updates.updates_seen(run, "fedavg", pool, asked_N)
    network, class_names, _ = open_classifier(run.out / "fedavg" / "model")
    for number, client in enumerate(simulated(str(run.file), SEED)):
        own = copy.deepcopy(network)
        images = client.images(class_names, 16, experiment.validation_share)
        train_locally(own, images, experiment.local, (SEED * SEEDS + 1) * SEEDS + number)
        expected_N = confidences(own, pool.pixels_N3SS, pool.images.labels)
        for label in range(10):
            alike = (asked_N == number) & (pool.images.labels == label)
            centred = expected_N[alike] - np.mean(expected_N[alike])
            assert alike.sum() > 1 and np.allclose(seen_N[alike], centred, atol=1e-4)
    assert before == {path: path.read_bytes() for path in run.out.rglob("*") if path.is_file()}


def test_what_a_client_learned_by_heart_is_seen_in_its_update(experiment, finished, monkeypatch):
    """Of images that both clients' average learned from, each update knows its own: half is asked of the other."""
    run, pool = finished
    monkeypatch.setattr(updates, "WATCHED", 1)
    local = experiment.local.model_copy(update={"epochs": 20, "learning_rate": 0.1})
    run = replace(run, experiment=experiment.model_copy(update={"local": local}))
    names = learned_names(run, "fedavg")
    holders_N = holders(names, {name: row for row, name in enumerate(pool.images.names)}, 120)
    held, own_N = np.flatnonzero(holders_N != NOBODY), np.arange(120) % 2 == 0
    asked_N = np.where(own_N, holders_N, 1 - holders_N)
    seen_N = updates.updates_seen(run, "fedavg", pool, asked_N)
    found = roc(seen_N[None, held], own_N[None, held])
    assert found.auc.low > 0.5, found.auc.words

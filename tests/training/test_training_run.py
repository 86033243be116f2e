"""Whole runs: what they learn and leave, and what is refused. Few in processes of their own: a start takes seconds."""

import json
import os
import random
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file
from shard_samples import CLASSES, encoded, picture, sample, write_synthetic, write_tar
from training_runs import EPOCHS, fails, history_of, settings_for
from transformers import pipeline

from fglfast.base.errors import BadInputError, FglError, UsageError
from fglfast.images.labelled import LabelledImages
from fglfast.shards.description import Description, read_description
from fglfast.training import fit, launch, worker
from fglfast.training.card import card
from fglfast.training.evaluate import evaluate
from fglfast.training.launch import train
from fglfast.training.results import TrainResult
from fglfast.training.run_folder import SAVED, RunFolder, identity
from fglfast.training.settings import Job, TrainSettings


def real_images() -> LabelledImages:
    """New pictures of the classes, in another order of classes."""
    labels = np.repeat(np.arange(3), 20)
    openers = [partial(Image.fromarray, picture(2 - label, 1000 + n)) for n, label in enumerate(labels.tolist())]
    return LabelledImages(CLASSES[::-1], labels, tuple(openers), (), "pictures")


def test_training_learns_and_is_plain_transformers(reference: TrainResult) -> None:
    assert (reference.images, reference.validation_images, reference.steps) == (114, 6, EPOCHS * 9)
    assert reference.val_accuracy is not None and reference.val_accuracy > 0.8
    assert reference.train_loss < reference.history[0]["train_loss"]
    assert evaluate(reference.model, real_images()).accuracy > 0.8
    answer = pipeline("image-classification", model=str(reference.model))(Image.fromarray(picture(1, 5000)))
    assert answer[0]["label"] == CLASSES[1]


def test_folder_holds_the_model_and_its_history(reference: TrainResult) -> None:
    names = {path.name for path in reference.model.iterdir()}
    assert names == {
        *("config.json", "preprocessor_config.json", "model.safetensors", "README.md", "prototypes.safetensors"),
        *("train.json", "history.jsonl", ".lock"),
    }
    rows = history_of(reference.model)
    assert [row["epoch"] for row in rows] == list(range(1, EPOCHS + 1))
    assert set(rows[0]) == {
        *("epoch", "step", "train_loss", "val_loss", "val_accuracy", "seconds", "images_per_second")
    }


def test_the_models_card_says_what_it_learned_from(reference: TrainResult) -> None:
    card = ModelCard.load(reference.model / "README.md")
    assert card.data.library_name == "transformers" and card.data.pipeline_tag == "image-classification"
    words = " ".join(card.text.split())
    assert "synthetic images alone" in words and "114 of 16x16 pixels" in words and "`tiny.json`" in words
    assert all(name in words for name in CLASSES) and f"{reference.val_accuracy:.1%} of 6 synthetic images" in words


def test_a_model_of_real_images_has_no_card_of_synthetic_ones(reference: TrainResult, tiny_arch: str) -> None:
    real = Description(plan="abc", class_names=CLASSES, images=120, shards=1, image_size=16)
    words = " ".join(card(reference, settings_for(tiny_arch), real, 16).split())
    assert "114 labelled images of 16x16 pixels" in words and "synthetic" not in words and "generator" not in words


def test_the_data_sets_own_folder_is_not_the_models(synthetic: Path, tiny_arch: str) -> None:
    before = {path.name for path in synthetic.iterdir()}
    with pytest.raises(UsageError, match="holds the data set"):
        train(synthetic, synthetic.parent / "." / synthetic.name, settings_for(tiny_arch), 1)
    assert {path.name for path in synthetic.iterdir()} == before


def test_one_class_alone_is_said(tmp_path: Path, tiny_arch: str, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_synthetic(tmp_path / "data", shards=1, images=16)
    held = [member for key in range(16) for member in sample(key, encoded(picture(1, key)), b"1")]
    write_tar(data / "train-000000.tar", held)
    train(data, tmp_path / "model", settings_for(tiny_arch))
    assert "all images are of 'green bars'" in capsys.readouterr().err


def test_finished_run_is_not_run_again(reference: TrainResult, synthetic: Path, tiny_arch: str) -> None:
    last = reference.model / "checkpoint" / "epoch00006-step0000000"
    last.mkdir(parents=True)  # of a run that was killed when it had just finished
    again = train(synthetic, reference.model, settings_for(tiny_arch, checkpoint_seconds=1.0), 1)
    assert again == reference.model_copy(update={"already_done": True}) and not last.parent.exists()


@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_that_diverges_leaves_no_model(synthetic: Path, tiny_arch: str, tmp_path: Path, processes: int) -> None:
    out, wild = tmp_path / "model", settings_for(tiny_arch, epochs=1, learning_rate=1e9)
    for _ in range(3 - processes):  # workers take seconds to start
        with pytest.raises(FglError, match="the loss is not a number in epoch 1") as caught:
            train(synthetic, out, wild, processes)
        assert caught.value.hint == "lower the learning rate" and not (out / "model.safetensors").exists()
        assert json.loads((out / "train.json").read_text())["result"] is None


def test_a_held_out_loss_that_is_no_number_ends_the_run(
    synthetic: Path, tiny_arch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last step's weights are used by no other loss."""
    monkeypatch.setattr(fit, "judge_rows", lambda *_: (float("nan"), 0))
    with pytest.raises(FglError, match="not a number in epoch 1"):
        train(synthetic, tmp_path / "model", settings_for(tiny_arch), 1)


@pytest.mark.parametrize("name", SAVED)
def test_a_finished_run_without_its_model_is_not_done(
    reference: TrainResult, synthetic: Path, tiny_arch: str, tmp_path: Path, name: str
) -> None:
    out = shutil.copytree(reference.model, tmp_path / "model")
    (out / name).unlink()
    with pytest.raises(BadInputError, match=f"lacks {name}") as caught:
        train(synthetic, out, settings_for(tiny_arch), 1)
    assert "delete the folder" in caught.value.hint


def test_a_record_with_what_json_lacks_is_not_read(
    reference: TrainResult, synthetic: Path, tiny_arch: str, tmp_path: Path
) -> None:
    out = shutil.copytree(reference.model, tmp_path / "model")
    record = json.loads((out / "train.json").read_text())
    record["result"]["train_loss"] = float("nan")
    (out / "train.json").write_text(json.dumps(record))
    with pytest.raises(BadInputError, match="NaN is not a JSON number"):
        train(synthetic, out, settings_for(tiny_arch), 1)


def test_other_settings_or_data_are_refused(
    reference: TrainResult, synthetic: Path, tiny_arch: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"epochs 6 there, 7 here; seed 0 there, 3 here"):
        train(synthetic, reference.model, settings_for(tiny_arch, epochs=7, seed=3), 1)
    other = write_synthetic(tmp_path / "other", plan="cd" * 32)
    with pytest.raises(UsageError, match=r"another data\.plan"):
        train(other, reference.model, settings_for(tiny_arch), 1)


@pytest.fixture
def second(reference: TrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that a run finds empty, and that is another's finished one when it gets the lock."""
    out, locked = tmp_path / "model", RunFolder.locked

    @contextmanager
    def late(folder: RunFolder) -> Iterator[None]:
        shutil.copytree(reference.model, out)
        with locked(folder):
            yield

    monkeypatch.setattr(RunFolder, "locked", late)
    return out


def test_another_run_that_had_the_lock_first_keeps_its_model(
    second: Path, reference: TrainResult, synthetic: Path, tiny_arch: str
) -> None:
    with pytest.raises(UsageError, match="seed 0 there, 3 here"):
        train(synthetic, second, settings_for(tiny_arch, seed=3), 1)
    assert (second / "model.safetensors").read_bytes() == (reference.model / "model.safetensors").read_bytes()


def test_the_same_run_that_had_the_lock_first_is_not_done_again(
    second: Path, reference: TrainResult, synthetic: Path, tiny_arch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "start_engine", fails(AssertionError("trained again")))
    found = train(synthetic, second, settings_for(tiny_arch), 1)
    assert found.already_done and found.history == reference.history and (second / "train.json").exists()


def test_one_process_is_this_one_and_leaves_it_as_it_was(
    reference: TrainResult, synthetic: Path, tiny_arch: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Again in the same process, and in a thread of it: the same weights, and nothing of the run stays behind."""

    def state() -> tuple[object, ...]:
        draws = (torch.random.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist())
        return *draws, dict(os.environ), torch.distributed.is_initialized(), torch.get_num_threads()

    weights, before = (reference.model / "model.safetensors").read_bytes(), state()
    others = psutil.Process().children()  # of tests before this one
    for number, run in enumerate((train, in_a_thread)):
        result = run(synthetic, tmp_path / str(number), settings_for(tiny_arch), 1)
        assert (result.model / "model.safetensors").read_bytes() == weights
        assert state() == before and psutil.Process().children() == others
    assert capfd.readouterr().out == ""


def in_a_thread(*arguments: Any) -> TrainResult:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(train, *arguments).result()


def test_a_process_group_of_the_caller_is_left_to_it(
    synthetic: Path, tiny_arch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "_run_workers", fails(FglError("in a process of its own")))
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        with pytest.raises(FglError, match="in a process of its own"):
            train(synthetic, tmp_path / "model", settings_for(tiny_arch), 1)
        assert torch.distributed.is_initialized()
    finally:
        torch.distributed.destroy_process_group()


def test_a_readme_of_ones_own_stays(synthetic: Path, tiny_arch: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("my notes")
    with pytest.raises(UsageError, match=r"README\.md of its own"):
        train(synthetic, tmp_path, settings_for(tiny_arch), 1)
    assert (tmp_path / "README.md").read_text() == "my notes"


def test_what_is_known_to_be_wrong_starts_nothing(
    synthetic: Path, tiny_arch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for start in ("_run_workers", "_run_here"):
        monkeypatch.setattr(launch, start, lambda *_: pytest.fail("training was started"))
    (tmp_path / "ds.json").write_text('{"optimizer": {"type": "AdamW", "params": {"eps": "auto"}}}')
    for settings, processes, words in [
        (settings_for("resnet19"), 1, "resnet19"),
        (settings_for(tiny_arch), 5, "batch_size 12 cannot be divided into 5"),
        (settings_for(tiny_arch), 0, "0 training processes"),
        (settings_for(tiny_arch, deepspeed=tmp_path / "ds.json"), 1, "optimizer.params.eps"),
    ]:
        with pytest.raises(UsageError, match=words):
            train(synthetic, tmp_path / "model", settings, processes)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="unknown origin"):
        train(synthetic, tmp_path / "theirs", settings_for(tiny_arch), 1)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    with pytest.raises(UsageError, match="not LOCAL_RANK, MASTER_ADDR, MASTER_PORT"):
        train(synthetic, tmp_path / "model", settings_for(tiny_arch), 1)


@pytest.mark.parametrize("setting", ["deepspeed", "initial"])
@pytest.mark.parametrize("name", ["ds.conf", "weights", "ds.json"])
def test_a_file_that_was_edited_makes_another_run_whatever_it_is_called(
    setting: str, name: str, synthetic: Path, tmp_path: Path
) -> None:
    description, file = read_description(synthetic), tmp_path / name
    job = Job(synthetic=synthetic, out=tmp_path, settings=TrainSettings.model_validate({setting: file}))
    told = []
    for content in ('{"gradient_clipping": 1}', '{"gradient_clipping": 1}', '{"gradient_clipping": 0.001}'):
        file.write_text(content)
        told.append(identity(job, description))
    assert told[0] == told[1] != told[2]


@pytest.mark.parametrize(("gpus", "batch"), [(2, 128), (3, 129), (6, 132), (7, 133)])
def test_a_batch_is_rounded_to_what_all_gpus_share(
    gpus: int, batch: int, synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    begun: list[tuple[int, int]] = []
    monkeypatch.setattr(launch, "_run_workers", lambda job, count: begun.append((count, job.settings.batch_size)))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(FglError, match="without a result"):
        train(synthetic, tmp_path / "model", TrainSettings(), "auto")
    assert begun == [(gpus, batch)]
    assert (f"{batch} images" in capfd.readouterr().err) == (batch != 128)


def test_bfloat16_trains_other_weights(synthetic: Path, tiny_arch: str, tmp_path: Path) -> None:
    """DeepSpeed's autocast of torch, on a CPU too; the weights stay float32."""
    settings = settings_for(tiny_arch, epochs=2)
    halves = [settings.model_copy(update={"precision": precision}) for precision in ("bfloat16", "float32")]
    results = [train(synthetic, tmp_path / chosen.precision, chosen, 1) for chosen in halves]
    weights = [load_file(result.model / "model.safetensors") for result in results]
    assert all(w.dtype in (torch.float32, torch.int64) for w in weights[0].values())
    assert any(not torch.equal(w, weights[1][name]) for name, w in weights[0].items())
    assert results[0].train_loss == pytest.approx(results[1].train_loss, rel=0.2)

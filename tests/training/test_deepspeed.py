"""A user's DeepSpeed file: what the library refuses of it, and an optimiser that it keeps elsewhere."""

import json
from pathlib import Path

import deepspeed
import pytest
import torch
from training_runs import fails

from fglfast.base.errors import FglError, UsageError
from fglfast.training.launch import train
from fglfast.training.settings import TrainSettings


@pytest.fixture
def settings(tmp_path: Path, tiny_arch: str) -> TrainSettings:
    return TrainSettings(
        arch=tiny_arch, epochs=1, batch_size=12, precision="float32", optimizer="sgd", deepspeed=tmp_path / "ds.json"
    )


def write(settings: TrainSettings, content: object) -> None:
    assert settings.deepspeed
    settings.deepspeed.write_text(json.dumps(content))


def test_what_the_library_refuses_blames_the_file_that_may_be_mended(
    settings: TrainSettings, synthetic: Path, tmp_path: Path
) -> None:
    lr = {"lr": 1e-3}
    for content, words in (
        ({"optimizer": {"type": "OneBitAdam", "params": lr}}, "OneBitAdam is not a supported"),
        ({"optimizer": {"type": "AdamW", "params": lr | {"foo": 1}}}, "unexpected keyword argument 'foo'"),
        ({"scheduler": {"type": "WarmupDecayLR", "params": {}}}, "total_num_steps"),
        ({"scheduler": {"type": "Nope"}}, "does not recognize LR scheduler Nope"),
        ({"zero_optimization": {"stage": 1, "foo": 1}}, "foo: Extra inputs"),
        ({"torch_autocast": {"enabled": True, "dtype": "float17"}}, "float17"),
    ):
        write(settings, content)
        with pytest.raises(UsageError, match=rf"ds\.json: DeepSpeed cannot use it \(.*{words}") as caught:
            train(synthetic, tmp_path / "model", settings, 1)
        assert "\n" not in caught.value.message
    write(settings, {})
    assert train(synthetic, tmp_path / "model", settings, 1).epochs == 1


@pytest.mark.parametrize("stage", [1, 2])
def test_an_offloaded_optimizer_trains_the_same_weights(
    settings: TrainSettings, synthetic: Path, tmp_path: Path, stage: int
) -> None:
    write(settings, {})
    plain = train(synthetic, tmp_path / "plain", settings, 1)
    write(settings, {"zero_optimization": {"stage": stage, "offload_optimizer": {"device": "cpu"}}})
    assert train(synthetic, tmp_path / "model", settings, 1).train_loss == pytest.approx(plain.train_loss, rel=1e-4)


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), FglError, "out of memory"),
        (RuntimeError("[gloo] Connection closed by peer"), RuntimeError, "closed by peer"),
        (torch.distributed.DistBackendError("Duplicate GPU"), RuntimeError, "Duplicate GPU"),
    ],
)
def test_what_the_machine_lacks_is_not_the_files_fault(
    settings: TrainSettings,
    synthetic: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    kind: type[Exception],
    words: str,
) -> None:
    monkeypatch.setattr(deepspeed, "initialize", fails(error))
    write(settings, {})
    with pytest.raises(kind, match=words) as caught:
        train(synthetic, tmp_path / "model", settings, 1)
    assert not isinstance(caught.value, UsageError)

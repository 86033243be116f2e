"""Settings, the DeepSpeed configuration, and a model's config and files."""

import json
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from shard_samples import change_json
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

from fglfast.base.errors import UsageError
from fglfast.training.augment import normalise
from fglfast.training.deepspeed_file import deepspeed_config
from fglfast.training.fit import optimizer_of
from fglfast.training.model import build_model, save_model
from fglfast.training.settings import TrainSettings


def asked(tmp_path: Path, content: object, **settings: object) -> TrainSettings:
    path = tmp_path / "ds.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return TrainSettings(batch_size=64, deepspeed=path, **settings)


def test_default_deepspeed_configuration() -> None:
    config = deepspeed_config(TrainSettings(batch_size=64), processes=4, bf16=False)
    assert config["train_batch_size"] == 64
    assert config["train_micro_batch_size_per_gpu"] == 16
    assert config["zero_optimization"] == {"stage": 0}
    assert "torch_autocast" not in config
    assert deepspeed_config(TrainSettings(), 1, bf16=True)["torch_autocast"]["dtype"] == "bfloat16"


def test_users_configuration_is_merged(tmp_path: Path) -> None:
    theirs = {
        "train_batch_size": 64,
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": 2,
        "zero_optimization": {"stage": 1},
        "optimizer": {"type": "AdamW", "params": {"lr": 1e-3}},
    }
    config = deepspeed_config(asked(tmp_path, theirs), processes=2, bf16=False)
    assert config["train_micro_batch_size_per_gpu"] == 16
    assert config["zero_optimization"] == {"stage": 1}
    assert config["optimizer"]["params"] == {"lr": 1e-3, "torch_adam": True}


def test_what_is_auto_is_filled_in_from_the_settings(tmp_path: Path) -> None:
    """The file that Hugging Face's documentation gives, without what no image classifier takes."""
    theirs = {
        "fp16": {"enabled": "auto"},
        "bf16": {"enabled": "auto"},
        "optimizer": {"type": "AdamW", "params": {"lr": "auto", "weight_decay": "auto"}},
        "zero_optimization": {"stage": 2, "reduce_bucket_size": "auto"},
        "gradient_accumulation_steps": "auto",
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
    }
    settings = asked(tmp_path, theirs, learning_rate=0.003, weight_decay=0.02)
    for bf16 in (False, True):
        config = deepspeed_config(settings, processes=2, bf16=bf16)
        assert config["optimizer"]["params"] == {"lr": 0.003, "weight_decay": 0.02, "torch_adam": True}
        assert (config["train_batch_size"], config["train_micro_batch_size_per_gpu"]) == (64, 32)
        assert config["bf16"] == config["fp16"] == {"enabled": False} and ("torch_autocast" in config) == bf16
        assert config["gradient_accumulation_steps"] == 1
    config = deepspeed_config(asked(tmp_path, {"torch_autocast": {"enabled": "auto", "dtype": "auto"}}), 1, bf16=False)
    assert config["torch_autocast"] == {"enabled": False, "dtype": "bfloat16"}


@pytest.mark.parametrize(
    ("theirs", "key"),
    [
        ({"gradient_clipping": "auto"}, "gradient_clipping"),
        ({"optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": "auto"}}}, "optimizer.params.betas"),
        ({"scheduler": {"type": "WarmupLR", "params": {"warmup_max_lr": "auto"}}}, "scheduler.params.warmup_max_lr"),
        ({"zero_optimization": {"stage": "auto"}}, "zero_optimization.stage"),
    ],
)
def test_what_is_auto_and_unknown_is_named(tmp_path: Path, theirs: object, key: str) -> None:
    with pytest.raises(UsageError, match=key):
        deepspeed_config(asked(tmp_path, theirs), processes=1, bf16=False)


@pytest.mark.parametrize(
    ("theirs", "words"),
    [
        ({"train_batch_size": 32}, "train_batch_size 32, the settings make it 64"),
        ({"train_micro_batch_size_per_gpu": 64}, "train_micro_batch_size_per_gpu 64, the settings make it 32"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps is 0"),
        ({"gradient_accumulation_steps": 5}, "cannot be divided into 2 processes x 5"),
        ({"zero_optimization": {"stage": 3}}, "ZeRO stage 3"),
        ({"optimizer": "adam"}, "optimizer is not an object"),
        ({"optimizer": {"type": "AdamW", "params": [1]}}, r"optimizer\.params is not an object"),
        ({"optimizer": {"params": {"lr": 0.1}}}, "optimizer has no type"),
        ({"optimizer": {"type": "AdamW", "params": {"lr": "1e-3"}}}, r"optimizer\.params\.lr is '1e-3'"),
        ({"scheduler": {"type": None}}, "scheduler has no type"),
        ({"torch_autocast": True}, "torch_autocast is not an object"),
        ({"timers": {"throughput": False}}, r"timers\.throughput is not an object"),
        ({"gradient_clipping": "1"}, "gradient_clipping is '1'"),
        ({"gradient_clipping": True}, "gradient_clipping is True"),
        ({"steps_per_print": 0}, "steps_per_print is 0"),
        ({"bf16": {"enabled": True}}, "enables bf16"),
        ([1], "not a JSON object"),
        ("{", "cannot be read"),
    ],
)
def test_contradictions_are_refused(tmp_path: Path, theirs: object, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        deepspeed_config(asked(tmp_path, theirs), processes=2, bf16=False)


def test_an_offloaded_optimizer_may_be_torchs_own(tmp_path: Path) -> None:
    theirs: dict[str, object] = {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}}
    assert deepspeed_config(asked(tmp_path, theirs), 1, bf16=False)["zero_force_ds_cpu_optimizer"] is False
    theirs["zero_force_ds_cpu_optimizer"] = True
    assert deepspeed_config(asked(tmp_path, theirs), 1, bf16=False)["zero_force_ds_cpu_optimizer"] is True
    assert "zero_force_ds_cpu_optimizer" not in deepspeed_config(TrainSettings(), 1, bf16=False)


def test_schedule_warms_up_and_ends_at_zero() -> None:
    settings = TrainSettings(warmup_share=0.1)
    rates = [settings.rate_factor(step, 100) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == 1.0
    assert rates[100] == pytest.approx(0.0, abs=1e-12)
    assert all(a >= b for a, b in pairwise(rates[9:]))


def test_unknown_setting_is_refused() -> None:
    with pytest.raises(ValidationError):
        TrainSettings(learningrate=1.0)


@pytest.mark.parametrize(
    ("arch", "millions"), [("resnet10-narrow", 1.2), ("resnet18", 11.2), ("resnet50", 23.5), ("bit14-tiny", 0.51)]
)
def test_architectures_have_their_real_size(arch: str, millions: float) -> None:
    model = build_model(arch, [f"c{n}" for n in range(10)])
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.06)


def test_unknown_architecture_names_the_known() -> None:
    with pytest.raises(UsageError, match="resnet19") as caught:
        build_model("resnet19", ["a", "b"])
    assert "resnet18" in caught.value.hint


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "cannot be read"),
        ("[1]", "not a JSON object"),
        ("{}", "has no model_type"),
        ('{"model_type": "nothing"}', "nothing"),
        ('{"model_type": "upernet", "backbone_config": {"model_type": "nothing"}}', "not a model config: 'nothing'"),
        ('{"model_type": "resnet", "num_channels": 1}', "1 channels"),
        ('{"model_type": "gpt2"}', "no image classifier"),
    ],
)
def test_an_unusable_config_is_one_short_line(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "arch.json").write_text(content)
    with pytest.raises(UsageError, match=words) as caught:
        build_model(str(tmp_path / "arch.json"), ["a", "b"])
    assert len(caught.value.message) < 600 and "\n" not in caught.value.message
    with pytest.raises(UsageError, match="there is no file"):
        build_model(str(tmp_path / "other.json"), ["a", "b"])


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_are_float32_whatever_a_config_says(tmp_path: Path, tiny_arch: str, key: str, dtype: str) -> None:
    path = shutil.copy(tiny_arch, tmp_path / "arch.json")
    change_json(path, **{key: dtype})
    model = build_model(str(path), ["a", "b"])
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    save_model(model, tmp_path / "model", 16)
    assert AutoModelForImageClassification.from_pretrained(tmp_path / "model").dtype == torch.float32


def test_weight_decay_spares_biases_and_norms(tiny_arch: str) -> None:
    model = build_model(tiny_arch, ["a", "b"])
    kernels, others = optimizer_of(model, TrainSettings(weight_decay=0.1)).param_groups
    assert all(p.ndim > 1 for p in kernels["params"]) and all(p.ndim == 1 for p in others["params"])
    assert len(kernels["params"]) + len(others["params"]) == len(list(model.parameters()))
    assert (kernels["weight_decay"], others["weight_decay"]) == (0.1, 0.0)


@pytest.mark.parametrize("arch", ["tiny", "bit14-tiny"])
def test_saved_model_is_plain_transformers(tmp_path: Path, tiny_arch: str, arch: str) -> None:
    torch.manual_seed(0)
    model = (
        build_model(tiny_arch if arch == "tiny" else arch, ["a cat", "a dog"])
        .eval()
        .to(memory_format=torch.channels_last)
    )
    save_model(model, tmp_path / "model", 24)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "model")
    processor = AutoImageProcessor.from_pretrained(tmp_path / "model")
    assert loaded.config.id2label == {0: "a cat", 1: "a dog"}
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    pixels = processor(image, return_tensors="pt")["pixel_values"]
    ours = np.array(image.resize((24, 24), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    torch.testing.assert_close(pixels[0], normalise(torch.from_numpy(ours)))
    with torch.no_grad():
        torch.testing.assert_close(loaded(pixel_values=pixels).logits, model(pixel_values=pixels).logits)
    answer = pipeline("image-classification", model=str(tmp_path / "model"))(image.convert("L"))
    assert {entry["label"] for entry in answer} == {"a cat", "a dog"}

"""DeepSpeed's configuration: ours, a user's file over it, and what can be told to be wrong before it is imported."""

from pathlib import Path
from typing import Any

from fglfast.base.errors import UsageError
from fglfast.base.wording import some
from fglfast.training.settings import TrainSettings, read_json_object

ACCUMULATION = "gradient_accumulation_steps"
BATCH_KEYS = ("train_batch_size", "train_micro_batch_size_per_gpu")
HALF = ("bf16", "fp16", "amp")  # DeepSpeed's sections
OBJECTS = (
    *("zero_optimization", "optimizer", "optimizer.params", "scheduler", "scheduler.params", *HALF),
    *("torch_autocast", "activation_checkpointing", "aio", "autotuning", "checkpoint", "comms_logger", "compile"),
    *("data_efficiency", "data_types", "flops_profiler", "hybrid_engine", "pipeline", "tensor_parallel", "timers"),
    *("timers.throughput", "tensorboard", "wandb", "csv_monitor", "comet", "weight_quantization"),
)
TYPED = {"optimizer": "AdamW", "scheduler": "WarmupLR"}  # and a type, for instance
# Numbers by their keys, and whether nothing may be among them: DeepSpeed compares the first, divides by the last.
NUMBERS = {
    "gradient_clipping": True,
    "optimizer.params.lr": True,
    "optimizer.params.weight_decay": True,
    "steps_per_print": False,
}


def deepspeed_config(settings: TrainSettings, processes: int, bf16: bool) -> dict[str, Any]:
    """The DeepSpeed configuration for processes that share a step's batch, the user's file over ours.

    Ours is ZeRO stage 0 in float32, with autocast where the device computes in bfloat16.

    Raises:
        UsageError: the file is no JSON object, a section of it has a wrong type, its batch sizes contradict ours, it
            leaves to us what we do not know, or it asks for what an image classifier cannot use: ZeRO stage 3,
            half-precision weights.
    """
    config: dict[str, Any] = {"zero_optimization": {"stage": 0}}
    config["timers"] = {"throughput": {"enabled": False}}  # it stops the device twice a step
    if bf16:
        config["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}
    if settings.deepspeed is not None:
        config |= _filled_in(_read(settings.deepspeed), settings, bf16)
    _check_sections(config)
    accumulation = _accumulation(config)
    if settings.batch_size % (processes * accumulation):
        parts = f"{processes} processes x {accumulation} accumulation steps" if accumulation > 1 else str(processes)
        raise UsageError(
            f"batch_size {settings.batch_size} cannot be divided into {parts}", "choose a multiple as batch_size"
        )
    ours = (settings.batch_size, settings.batch_size // (processes * accumulation))
    for key, value in zip(BATCH_KEYS, ours, strict=True):
        if config.get(key, "auto") not in ("auto", value):
            raise UsageError(
                f"the DeepSpeed configuration says {key} {config[key]!r}, the settings make it {value}",
                f"remove {key} from {settings.deepspeed}, or set batch_size to match",
            )
        config[key] = value
    return _fitted(config)


def divisible(settings: TrainSettings, processes: int) -> TrainSettings:
    """The settings with the batch size rounded up to what so many processes can share, each in its whole steps.

    Raises:
        UsageError: as `deepspeed_config`.
    """
    theirs = _read(settings.deepspeed) if settings.deepspeed else {}
    parts = processes * _accumulation(theirs)
    return settings.model_copy(update={"batch_size": -(-settings.batch_size // parts) * parts})


def _read(path: Path) -> dict[str, Any]:
    return read_json_object(path, "DeepSpeed configuration")


def _filled_in(theirs: dict[str, Any], settings: TrainSettings, bf16: bool) -> dict[str, Any]:
    """A user's configuration with our own settings in the place of "auto", as Hugging Face's have it.

    Half precision is autocast's where the device has it, never DeepSpeed's own, which casts the weights. Batch sizes
    are filled in where they are checked, and of ZeRO's sizes DeepSpeed knows itself what "auto" is.

    Raises:
        UsageError: something else is "auto".
    """
    known = {
        "optimizer.params.lr": settings.learning_rate,
        "optimizer.params.weight_decay": settings.weight_decay,
        "torch_autocast.enabled": bf16,
        "torch_autocast.dtype": "bfloat16",
        **dict.fromkeys((f"{name}.enabled" for name in HALF), False),
    }
    unknown: list[str] = []

    def filled(value: Any, key: str) -> Any:
        if isinstance(value, dict):
            return {name: filled(inner, f"{key}.{name}" if key else name) for name, inner in value.items()}
        if value != "auto" or key in known:
            return known[key] if value == "auto" else value
        of_zero = key.startswith("zero_optimization.") and key != "zero_optimization.stage"
        if not of_zero and key not in (*BATCH_KEYS, ACCUMULATION):
            unknown.append(key)
        return value

    config: dict[str, Any] = filled(theirs, "")
    if unknown:
        raise UsageError(
            f"the DeepSpeed configuration leaves {some(sorted(unknown))} to be filled in, which fglfast does not set",
            'Write a value in the place of "auto", or leave the key out.',
        )
    return config


def _accumulation(config: dict[str, Any]) -> int:
    accumulation = config.get(ACCUMULATION, "auto")
    if accumulation == "auto":
        accumulation = 1
    if not isinstance(accumulation, int) or accumulation < 1:
        raise UsageError(
            f"the DeepSpeed configuration's {ACCUMULATION} is {accumulation!r}",
            "it must be a whole number of 1 or more",
        )
    config[ACCUMULATION] = accumulation
    return accumulation


def _check_sections(config: dict[str, Any]) -> None:
    """Refuse sections of a wrong type, and what no image classifier can use.

    Raises:
        UsageError: it names the section.
    """
    for key in OBJECTS:
        found = _value(config, key, {})
        if not isinstance(found, dict):
            raise UsageError(f"the DeepSpeed configuration's {key} is not an object", "it must look like {...}")
    for name, usual in TYPED.items():
        if name in config and not isinstance(config[name].get("type"), str):
            raise UsageError(f"the DeepSpeed configuration's {name} has no type", f'add one, such as "type": "{usual}"')
    for key, zero in NUMBERS.items():
        _check_number(key, _value(config, key, None), zero)
    half = [name for name in HALF if config.get(name, {}).get("enabled")]
    if half:
        raise UsageError(
            f"the DeepSpeed configuration enables {half[0]}, which casts batch normalisation too",
            'Use {"torch_autocast": {"enabled": true, "dtype": "bfloat16"}}, the default on a GPU.',
        )
    if config["zero_optimization"].get("stage", 0) not in (0, 1, 2):
        raise UsageError(
            f"the DeepSpeed configuration asks for ZeRO stage {config['zero_optimization']['stage']!r}",
            "use stage 0, 1 or 2: an image classifier fits every device, sharding its weights only costs time",
        )


def _fitted(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration with what lets DeepSpeed take PyTorch's own optimisers, where the user says nothing else."""
    # A torch optimiser under ZeRO 1-2, or offloaded, is fine here; DeepSpeed's own compiled Adam would need a compiler.
    usual: dict[str, Any] = {"zero_allow_untested_optimizer": True}
    if config["zero_optimization"].get("offload_optimizer"):
        usual["zero_force_ds_cpu_optimizer"] = False
    optimizer = config.get("optimizer", {})
    if optimizer.get("type", "").lower() in ("adam", "adamw"):
        optimizer = {**optimizer, "params": {"torch_adam": True, **optimizer.get("params", {})}}
        return usual | config | {"optimizer": optimizer}
    return usual | config


def _value(config: dict[str, Any], key: str, absent: Any) -> Any:
    """The value of a dotted key."""
    value: Any = config
    for name in key.split("."):
        if name not in value:
            return absent
        value = value[name]
    return value


def _check_number(key: str, value: Any, zero: bool) -> None:
    if value is None:
        return
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not (value >= 0 if zero else value > 0):
        least = "0 or more" if zero else "more than 0"
        raise UsageError(f"the DeepSpeed configuration's {key} is {value!r}", f"it must be a number, {least}")

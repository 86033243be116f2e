"""The sections of a user's DeepSpeed file: what can be told to be wrong with them before DeepSpeed is imported."""

from typing import Any

from fglfast.base.errors import UsageError

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


def check_sections(config: dict[str, Any]) -> None:
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


def fitted(config: dict[str, Any]) -> dict[str, Any]:
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

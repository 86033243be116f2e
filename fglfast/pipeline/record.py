"""The record of a run, `run.json`: what each stage was given, took and made."""

from typing import Any

from fglfast.base.config import Settings
from fglfast.pipeline.stages import Stage
from fglfast.training.results import Evaluation


class ClientRecord(Settings):
    """One client: its images by class, and what it uploaded."""

    name: str
    images_by_class: tuple[int, ...]
    rows: int
    upload_bytes: int


class Epoch(Settings):
    """One epoch of the global model's training; validation is on held-out synthetic images."""

    epoch: int
    train_loss: float
    val_loss: float | None = None
    val_accuracy: float | None = None
    seconds: float = 0.0


class EngineRecord(Settings):
    """The engine that drew the images; relative errors and PSNR against float32 eager."""

    key: str
    backend: str
    precision: str = "float32"  # of a record of before
    cached: bool
    relative_error: float
    psnr: float


class RunRecord(Settings):
    """Everything the report shows; a resumed run's times, and redrawn images, leave out what an earlier one did."""

    command: str
    created: str
    machine: dict[str, str]
    versions: dict[str, str]
    settings: dict[str, Any]
    class_names: tuple[str, ...]
    generator: str = ""
    taught_by: str = ""
    private_source: str
    test_source: str
    clients: tuple[ClientRecord, ...]
    engine: EngineRecord
    resumed: bool
    images: int
    redrawn: int = 0
    images_per_second: float
    network_share: float
    model_arch: str
    model_parameters: int
    model_bytes: int
    history: tuple[Epoch, ...]
    evaluation: Evaluation
    stages: tuple[Stage, ...]

"""What a training process computes on: its GPU's number. Stand-ins for GPUs, of PyTorch's own calls."""

import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from fglfast.base.errors import UsageError
from fglfast.training import world


@pytest.mark.parametrize(("seen", "number"), [(1, "0"), (2, "1"), (8, "3")])
def test_a_worker_takes_a_gpu_of_those_it_sees(seen: int, number: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: seen)
    for name, value in {"RANK": "11", "WORLD_SIZE": "16", "LOCAL_RANK": "3"}.items():
        monkeypatch.setenv(name, value)
    assert world._local_rank() == {"LOCAL_RANK": number}
    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_RANK", "3")
    assert set(world._local_rank().values()) == {number}


@pytest.mark.parametrize("said", ["Last error: Duplicate GPU detected : rank 1 and rank 0", "unhandled system error"])
def test_two_processes_of_one_gpu_are_told_so(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "_accelerator", lambda processes: nullcontext())
    monkeypatch.setattr(world, "join_world", world.World)
    known = "Duplicate" in said
    with pytest.raises(UsageError if known else torch.distributed.DistBackendError) as told, world.launched():
        raise torch.distributed.DistBackendError(said)
    assert str(told.value) == ("two training processes share one GPU" if known else said)


def test_an_interrupt_while_deepspeed_is_imported_is_an_interrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deepspeed.py").write_text("raise KeyboardInterrupt")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "deepspeed", raising=False)
    with pytest.raises(KeyboardInterrupt), world.alone():
        pass
    assert not torch.distributed.is_initialized()

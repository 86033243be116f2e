"""Checkpoints: what is read of one, and what is said of one that cannot be."""

import os
import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from training_runs import fails

from fglfast.base.errors import BadInputError
from fglfast.training.checkpoints import Checkpoints, without_pickles
from fglfast.training.run_folder import RunFolder
from fglfast.training.world import World


class Harm:
    """What a pickle does as it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_a_checkpoint_from_elsewhere_runs_no_code(tmp_path: Path) -> None:
    from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine

    torch.save({"module": Harm(tmp_path / "harmed")}, tmp_path / "states.pt")
    torch.save({"module": torch.ones(2)}, tmp_path / "sound.pt")
    with without_pickles():
        assert TorchCheckpointEngine().load(str(tmp_path / "sound.pt"))["module"].tolist() == [1, 1]
        with pytest.raises(pickle.UnpicklingError):
            TorchCheckpointEngine().load(str(tmp_path / "states.pt"))
    assert not (tmp_path / "harmed").exists() and "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


@pytest.mark.parametrize("tag", ["../elsewhere", "/tmp", "epoch00001-step0000000/../..", "x" * 10_000, ""])
def test_the_newest_checkpoint_is_a_name_and_no_path(tag: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.checkpoints.mkdir()
    folder.latest.write_text("epoch00001-step0000012")
    assert folder.newest_tag() == "epoch00001-step0000012"
    folder.latest.write_text(tag)
    with pytest.raises(BadInputError, match="latest"):
        folder.newest_tag()


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (ValueError("a world of 2, not of 1\nmore"), BadInputError, r"step0000012.*\(a world of 2, not of 1\)$"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), RuntimeError, "allocate memory"),
    ],
)
def test_a_checkpoint_that_cannot_be_resumed_is_named_unless_the_machine_lacks_what_it_takes(
    error: Exception, kind: type[Exception], words: str, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path)
    folder.checkpoints.mkdir()
    folder.latest.write_text("epoch00001-step0000012")
    engine = SimpleNamespace(load_checkpoint=fails(error))
    with pytest.raises(kind, match=words) as caught:
        Checkpoints(engine, folder, World(), every=60.0).restore()
    assert "delete" in getattr(caught.value, "hint", "") or kind is RuntimeError

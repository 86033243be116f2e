"""Fine-tuning an average that is killed, and run again from the same weights or from others."""

import pytest
import torch
from small_federation import CLASSES

from fglfast.federation.methods import fine_tune
from fglfast.images.dataset import read_dataset
from fglfast.shards.pack import pack
from fglfast.training import worker
from fglfast.training.model import build_model


def killed(*args, **kwargs):
    raise KeyboardInterrupt


def test_what_was_killed_goes_on_from_equal_weights_and_gives_way_to_others(
    experiment, servers, tiny_arch, tmp_path, monkeypatch
):
    """Clients that are asked again may answer otherwise: one is away, or a GPU adds up in another order."""
    pack(read_dataset(servers), 16, tmp_path / "synthetic")
    torch.manual_seed(0)
    weights = {name: tensor.clone() for name, tensor in build_model(tiny_arch, CLASSES).state_dict().items()}
    others = {name: tensor + 1e-6 if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    work = tmp_path / "run" / "tune"

    def left(begun):
        with pytest.raises(KeyboardInterrupt):
            fine_tune(begun, tmp_path / "synthetic", experiment, 1, work)
        return {path.name for path in work.parent.iterdir() if path.is_dir()}

    with monkeypatch.context() as patch:
        patch.setattr(worker, "fit", killed)
        first = left(weights)
        assert len(first) == 1 and left(weights) == first
    tuned = fine_tune(others, tmp_path / "synthetic", experiment, 1, work)
    assert any(not torch.equal(tuned[name], others[name]) for name in tuned)
    assert not list(work.parent.iterdir()), "what was killed is gone, and what was made"

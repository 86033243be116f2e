"""Images decoded once for all processes of a machine, or each time where the disk has no room for that."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from shard_samples import SIZE, encoded, images_of, picture, sample, write_tar
from training_runs import fails

from fglfast.base.errors import BadInputError
from fglfast.training import decoded
from fglfast.training.decoded import file_name, share_decoded
from fglfast.training.launch import train
from fglfast.training.settings import TrainSettings
from fglfast.training.world import World

ALONE = World()


def refuses(number: int) -> Callable[..., None]:
    return fails(OSError(number, os.strerror(number)))


@pytest.mark.parametrize("size", [SIZE, 24])
def test_images_are_the_same_kept_or_read_each_time(synthetic: Path, size: int, tmp_path: Path) -> None:
    read = images_of(synthetic, size)
    (tmp_path / file_name(ALONE, tmp_path)).write_bytes(b"a killed run's")
    kept = share_decoded(read, ALONE, tmp_path)
    assert isinstance(kept, torch.Tensor) and kept.shape == (120, 3, size, size)
    assert torch.equal(kept, read[range(120)]) and torch.equal(kept[60], read[60])
    assert list(tmp_path.iterdir()) == []  # its memory is still there, its name is not


def test_each_process_decodes_its_part(synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(World, "on_machine", lambda self: (1, 3))  # another made the file
    monkeypatch.setattr(decoded, "CHUNK", 7)
    (tmp_path / file_name(ALONE, tmp_path)).write_bytes(bytes(120 * 3 * SIZE * SIZE))
    kept, whole = share_decoded(images_of(synthetic), ALONE, tmp_path), images_of(synthetic)[range(120)]
    assert isinstance(kept, torch.Tensor) and torch.equal(kept[40:80], whole[40:80])
    assert not kept[:40].any() and not kept[80:].any()
    assert len(list(tmp_path.iterdir())) == 1  # until that one takes its name away


def test_scratch_is_where_the_user_says(synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = []
    monkeypatch.setenv(decoded.SCRATCH, str(tmp_path / "scratch"))
    monkeypatch.setattr(decoded, "WORTH_SAYING", 1)
    monkeypatch.setattr(decoded, "note", places.append)
    share_decoded(images_of(synthetic), ALONE, tmp_path / "out")
    [said] = places
    assert str(tmp_path / "scratch") in said and "92.2 KB" in said and "free" in said
    assert not (tmp_path / "out").exists()


def test_a_broken_image_leaves_no_file(make_synthetic: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_synthetic(per_class=1, shards=1, images=1)
    write_tar(folder / "train-000000.tar", sample(0, encoded(picture(0, 0))[:-30], b"0"))
    with pytest.raises(BadInputError, match="the image at byte"):
        share_decoded(images_of(folder), ALONE, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_without_room_training_reads_the_shards_to_the_same_weights(
    synthetic: Path, tiny_arch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = TrainSettings(arch=tiny_arch, epochs=1, batch_size=12)
    train(synthetic, tmp_path / "kept", settings, 1)
    monkeypatch.setattr(os, "posix_fallocate", refuses(errno.ENOSPC))
    train(synthetic, tmp_path / "read", settings, 1)
    assert str(tmp_path / "read") in capfd.readouterr().err
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("kept", "read")]
    assert weights[0] == weights[1]
    assert not list(tmp_path.glob("*/.decoded*"))


def test_two_runs_share_a_scratch_folder() -> None:
    names = {file_name(ALONE, Path(out)) for out in ("/runs/one", "/runs/two", "/runs/one")}
    assert len(names) == 2


def test_only_what_a_disk_cannot_do_is_done_without(
    synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = images_of(synthetic)
    monkeypatch.setattr(os, "posix_fallocate", refuses(errno.EOPNOTSUPP))
    assert share_decoded(images, ALONE, tmp_path) is images
    monkeypatch.setattr(os, "posix_fallocate", refuses(errno.EIO))
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        share_decoded(images, ALONE, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("free", "moves"), [(10**9, True), (100, False)])
def test_a_gpu_takes_the_images_if_they_fit(free: int, moves: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU stands in for the GPU: what is asked is the room."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 10**10))
    kept = torch.randint(0, 256, (3000, 3, 4, 4), dtype=torch.uint8)
    there = decoded._on_gpu(kept, torch.device("cpu"))
    assert torch.equal(there, kept) and (there.data_ptr() != kept.data_ptr()) == moves

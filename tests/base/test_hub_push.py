from pathlib import Path

import pytest
from hub_stand_in import Hub

from fglfast.base.errors import FglError, UsageError
from fglfast.base.hub import Repository


@pytest.fixture
def hub(monkeypatch):
    from huggingface_hub import constants

    stand_in = Hub("hf_right")
    monkeypatch.setattr(constants, "ENDPOINT", stand_in.endpoint)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # the stand-in speaks the LFS protocol only
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield stand_in
    stand_in.close()


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "synth"
    for name in ("train-000000.tar", "README.md", "checksums/a.sha256", ".locks/0", ".hidden", "checkpoint/x"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def test_a_folder_is_pushed_without_what_is_hidden_or_left_out(hub, folder):
    repository = Repository("ward/fashion", "dataset", private=True)
    repository.create()
    address = repository.push(folder, ("checkpoint/*",))
    there = hub.repositories["dataset", "ward/fashion"]
    assert there["private"] and address == f"{hub.endpoint}/datasets/ward/fashion"
    assert {name: content.decode() for name, content in there["files"].items()} == {
        name: name for name in ("train-000000.tar", "README.md", "checksums/a.sha256")
    }


def test_a_second_push_sends_no_shard_again(hub, folder):
    repository = Repository("ward/fashion", "model", private=False)
    repository.create()
    repository.push(folder)
    before = len(hub.uploads)
    repository.create()
    repository.push(folder)
    assert len(hub.uploads) == before == 1 and not hub.repositories["model", "ward/fashion"]["private"]


@pytest.mark.parametrize("ask", [Repository.create, lambda repository: repository.push(Path())])
def test_who_may_not_write_is_told_how_to_sign_in(hub, monkeypatch, ask):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(FglError) as refused:
        ask(Repository("ward/fashion", "dataset", private=False))
    assert "ward/fashion" in refused.value.message and "hf auth login" in refused.value.hint


def test_a_name_that_cannot_be_is_refused_without_a_network(hub):
    with pytest.raises(UsageError, match="a/b/c"):
        Repository("a/b/c", "model", private=False).create()
    assert not hub.asked


def test_no_hub_is_one_line(hub, monkeypatch):
    hub.close()
    with pytest.raises(FglError, match="cannot be reached"):
        Repository("ward/fashion", "model", private=False).create()

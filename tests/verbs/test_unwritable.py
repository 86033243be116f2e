"""Where nothing can be written, one exit code whatever the command; a full disk is another; what is there stays."""

import errno
import os
import resource
import shutil
import tempfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fglfast.payload import save_payload
from fglfast.verbs.app import app

CLIENTS = ("--host", "fl.example.org", "--clients", "ann")
COMMANDS = {  # each writes in another way
    "ann.safetensors": ("embed", "fashion:test", "--out"),
    "ann.pem": ("key",),
    "kit": ("kit", "--weights", "--out"),
    "fed": ("federation", "init", *CLIENTS, "--out"),
}


def run(*arguments):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert "Traceback" not in done.output and "bug" not in done.output, done.output
    return done.exit_code, " ".join(done.output.split())


@pytest.fixture
def full():
    """No file may have more than so few bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_is_a_failure_that_names_what_was_asked_for(name, full, tmp_path):
    code, said = run(*COMMANDS[name], tmp_path / name)
    assert code == 1 and f"{tmp_path / name}" in said and "cannot be written" in said, said
    assert ".building-" not in said and not any(tmp_path.iterdir())


def test_a_copy_that_does_not_fit_is_not_the_sources_fault(tmp_path, monkeypatch):
    def fill(source, target):
        raise OSError(errno.ENOSPC, "No space left on device", str(source), None, str(target))  # as Linux's own copy

    monkeypatch.setattr(shutil, "copyfile", fill)
    code, said = run("kit", "--out", tmp_path / "kit")
    assert code == 1 and f"error: {tmp_path / 'kit'}/" in said and ".building-" not in said, said


@pytest.mark.parametrize("name", COMMANDS)
def test_a_folder_without_permission_is_wrong_usage(name, tmp_path, monkeypatch):
    """Also for root, whom permissions do not bind."""
    real = os.access

    def refuse(dir, **_):
        raise PermissionError(errno.EACCES, "Permission denied", str(Path(dir) / ".x"))

    monkeypatch.setattr(os, "access", lambda path, mode, **more: Path(path) != tmp_path and real(path, mode, **more))
    if name == "ann.pem":  # which asks by writing
        monkeypatch.setattr(tempfile, "mkstemp", refuse)
    code, said = run(*COMMANDS[name], tmp_path / name)
    assert code == 2 and str(tmp_path / name) in said, said


def test_a_payload_that_may_not_be_read_is_a_bad_file_as_one_that_is_missing_is(payload, tmp_path, monkeypatch):
    file, real, opened = tmp_path / "ann.safetensors", os.access, Path.open
    save_payload(payload("ann", (3, 0, 1)), file)

    def locked(path, *arguments):
        if path == file:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, *arguments)

    monkeypatch.setattr(Path, "open", locked)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != file and real(path, mode))
    assert run("inspect", file)[0] == run("inspect", tmp_path / "bob.safetensors")[0] == 4


@pytest.mark.parametrize("kind", ["pipe", "link", "link to nothing", "link to a pipe"])
@pytest.mark.parametrize(
    "command",
    [COMMANDS["ann.safetensors"], ("inventory", "fashion:test", "--out"), ("bench", "--out"), ("bench", "--report")],
)
def test_what_is_no_file_of_its_own_stays_in_its_place(command, kind, tmp_path):
    out, target = tmp_path / "out.safetensors", tmp_path / "target"
    if kind == "pipe":
        os.mkfifo(out)
    else:
        out.symlink_to(target)
        {"link": target.touch, "link to nothing": list, "link to a pipe": lambda: os.mkfifo(target)}[kind]()
    before = out.lstat()
    code, said = run(*command, out)
    assert code == 2 and str(out) in said and os.path.samestat(out.lstat(), before), said

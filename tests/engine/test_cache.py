"""Never a wrong or half engine: what is in the folder, who else is at it, and what the disk does."""

import builtins
import errno
import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fglfast.base.errors import BadInputError, FglError
from fglfast.engine import backends, batch_search
from fglfast.engine.build import build_engine
from fglfast.engine.manifest import FILE


@pytest.fixture
def command(random_mini, recipe, tmp_path_factory):
    """The command line that builds the recipe's engine in a folder."""
    path = tmp_path_factory.mktemp("recipe") / "r.toml"
    path.write_text(recipe.to_toml())
    start = [sys.executable, "-m", "fglfast", "build-engine", "--recipe", str(path), "--model", str(random_mini)]
    return lambda engines: [*start, "--json", "--engines", str(engines)]


def whole(engines):
    """The engines in a folder: those that have a manifest."""
    return sorted(path.parent.name for path in engines.glob(f"*/{FILE}"))


def test_another_version_of_a_package_is_another_engine(random_mini, recipe, engine, engines, monkeypatch):
    known = backends._version
    monkeypatch.setattr(backends, "_version", lambda package: "0.1" if package == "openvino" else known(package))
    assert build_engine(recipe, random_mini, engines).key != engine.key


def test_another_backend_is_another_engine(random_mini, torch_recipe, engine, engines):
    other = build_engine(torch_recipe, random_mini, engines)
    assert other.key != engine.key and other.build.backend == "torch"


def test_an_engine_of_another_key_under_our_name_is_not_used(random_mini, recipe, engine, engines, capsys):
    """Somebody renamed, or copied, an engine that was built for something else."""
    foreign = build_engine(recipe.model_copy(update={"vae_batch": 6}), random_mini, engines)
    shutil.move(foreign.folder, engines / engine.key)
    found = build_engine(recipe, random_mini, engines)
    assert not found.cached and found.build.vae_batch == recipe.vae_batch
    assert "is not the folder's name" in capsys.readouterr().err


def test_two_builders_at_once_make_one_engine(command, engines):
    both = [subprocess.Popen(command(engines), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) for _ in range(2)]
    told = [json.loads(process.communicate(timeout=120)[0]) for process in both]
    assert sorted(entry["cached"] for entry in told) == [False, True]
    assert whole(engines) == [told[0]["key"]] == [told[1]["key"]]


def test_a_killed_builder_leaves_nothing_that_is_used(command, engines):
    process = subprocess.Popen(command(engines), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 100
    while not list(engines.glob(".*.building-*/*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert whole(engines) == []
    again = subprocess.run(command(engines), capture_output=True, check=True)
    assert not json.loads(again.stdout)["cached"] and len(whole(engines)) == 1
    assert not list(engines.glob(".*.building-*")), "what the killed one left is gone"


def test_a_full_disk_is_one_clear_line_and_leaves_nothing(command, engines):
    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    done = subprocess.run(command(engines), capture_output=True, text=True, check=False, preexec_fn=small_files)
    assert done.returncode == 1 and "cannot be written" in done.stderr and "bug" not in done.stderr
    assert whole(engines) == [] and not list(engines.glob(".*.building-*"))


def test_a_folder_that_cannot_be_written_is_one_clear_line(random_mini, recipe, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FglError, match="cannot be written"):
        build_engine(recipe, random_mini, tmp_path / "file" / "engines")


@pytest.fixture
def read_only(monkeypatch):
    """Make a folder one that nothing can be written below; also for root, whom permissions do not bind."""

    def lock(folder):
        def inside(path):
            return isinstance(path, str | os.PathLike) and Path(path).absolute().is_relative_to(folder)

        def guarded(function, writes):
            def call(path, *arguments, **options):
                if inside(path) and writes(*arguments, **options):
                    raise OSError(errno.EROFS, "Read-only file system", str(path))
                return function(path, *arguments, **options)

            return call

        for module in (io, builtins):
            monkeypatch.setattr(module, "open", guarded(open, lambda mode="r", *_, **__: mode.strip("rbt") != ""))
        monkeypatch.setattr(os, "open", guarded(os.open, lambda flags, *_, **__: flags & (os.O_WRONLY | os.O_RDWR)))
        for name in ("mkdir", "unlink", "rmdir", "rename", "replace", "chmod", "utime"):
            monkeypatch.setattr(os, name, guarded(getattr(os, name), lambda *_, **__: True))

    return lock


def test_a_finished_engine_opens_in_a_folder_that_cannot_be_written(
    random_mini, recipe, engine, engines, monkeypatch, read_only
):
    """As on a shared disk, or in a container's image: alone, chosen among backends, and with measured batches."""
    shutil.copytree(engine.folder, engines / engine.key)
    monkeypatch.setattr(backends, "chosen", lambda name, precision: ["openvino"])
    monkeypatch.setattr(batch_search, "CANDIDATES", (2,))
    auto = recipe.model_copy(update={"backend": "auto"})
    chosen, tuned = build_engine(auto, random_mini, engines), batch_search.search_batches(auto, random_mini, engines)
    assert build_engine(tuned, random_mini, engines).build.unet_batch == 2
    read_only(engines)
    for asked in (recipe, auto, tuned):
        assert build_engine(asked, random_mini, engines).cached
    assert build_engine(auto, random_mini, engines).key == chosen.key == engine.key
    assert batch_search.search_batches(auto, random_mini, engines) == tuned
    with pytest.raises(FglError, match="cannot be written"):
        build_engine(recipe.model_copy(update={"vae_batch": 6}), random_mini, engines)


def test_a_damaged_engine_in_a_folder_that_cannot_be_written_is_one_clear_line(
    random_mini, recipe, engine, engines, read_only
):
    shutil.copytree(engine.folder, engines / engine.key)
    (engines / engine.key / FILE).write_text("{}")
    read_only(engines)
    with pytest.raises(FglError, match="cannot be written"):
        build_engine(recipe, random_mini, engines)


@pytest.mark.parametrize(
    "error", [FileNotFoundError(errno.ENOENT, "No such file", "a-compiler"), OSError(errno.ENOMEM, "no memory")]
)
def test_an_error_of_the_system_that_is_not_the_folders_is_not_called_so(
    random_mini, recipe, engines, monkeypatch, error
):
    def compile(*_):
        raise error

    monkeypatch.setattr(backends.find_backend("openvino"), "compile", compile)
    with pytest.raises(OSError) as raised:
        build_engine(recipe, random_mini, engines)
    assert raised.value is error


def test_a_model_with_a_damaged_config_is_named(random_mini, recipe, engines, tmp_path_factory):
    other = tmp_path_factory.mktemp("damaged") / "model"
    shutil.copytree(random_mini, other)
    (other / "unet" / "config.json").write_text("{")
    with pytest.raises(BadInputError, match="config"):
        build_engine(recipe, other, engines)

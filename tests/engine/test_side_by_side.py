"""Processes that open one engine at once: they do not wait for each other, and see a whole one or none."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fglfast.base.files import exclusive, finished_folder, lock_of
from fglfast.engine import finding
from fglfast.engine.build import build_engine
from fglfast.engine.manifest import FILE
from fglfast.engine.recipe import find_recipe

PATIENCE = 40  # seconds
ROUNDS = 30


def open_beside_another(recipe, model, engines, meeting):
    """Open an engine; its files are hashed once another process is about to do so as well.

    Where it is there from the beginning, nothing is loaded that makes one.
    """
    there = any(Path(engines).glob(f"*/{FILE}"))
    check = finding.check_files

    def meet(folder, manifest):
        (Path(meeting) / str(os.getpid())).touch()
        deadline = time.monotonic() + PATIENCE
        while len(list(Path(meeting).iterdir())) < 2:
            assert time.monotonic() < deadline, "one waits for the other"
            time.sleep(0.01)
        check(folder, manifest)

    finding.check_files = meet
    assert build_engine(find_recipe(recipe), Path(model), Path(engines)).cached
    assert not there or not {"transformers", "diffusers.models"} & set(sys.modules)


def replace_damaged(folder):
    """Damage an engine, find that, remove it and put a whole one in its place; over and over, as its builder does."""
    from fglfast.engine.making import _sound_or_removed

    folder = Path(folder)
    whole = shutil.copytree(folder, folder.parent / "whole")
    for _ in range(ROUNDS):
        next(path for path in sorted(folder.iterdir()) if path.name != FILE).write_bytes(b"damaged")
        with exclusive(lock_of(folder)):
            assert not _sound_or_removed(folder)
            with finished_folder(folder) as place:
                shutil.copytree(whole, place, dirs_exist_ok=True)


@pytest.fixture
def start(tmp_path):
    """Start a function of this file in a process of its own; its messages go to a file."""
    started = []

    def run(function, *arguments):
        messages = tmp_path / f"messages-{len(started)}"
        with messages.open("w") as stream:
            command = [sys.executable, __file__, function.__name__, *map(str, arguments)]
            started.append(subprocess.Popen(command, stderr=stream, cwd=Path.cwd()))
        return started[-1], messages

    yield run
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def opening(start, random_mini, recipe, engines, tmp_path):
    """Start two processes that open one engine; both have to be at its files at the same time."""
    meeting, file = tmp_path / "meeting", tmp_path / "recipe.toml"
    meeting.mkdir()
    file.write_text(recipe.to_toml())
    return lambda: [start(open_beside_another, file, random_mini, engines, meeting) for _ in range(2)]


def test_a_finished_engine_is_checked_without_a_lock(engine, engines, opening):
    folder = shutil.copytree(engine.folder, engines / engine.key)
    with exclusive(lock_of(folder)):
        for process, messages in opening():
            assert process.wait(2 * PATIENCE) == 0 and "waiting" not in messages.read_text()


def test_those_who_waited_for_its_builder_check_it_side_by_side(engine, engines, opening):
    folder = engines / engine.key
    with exclusive(lock_of(folder)):
        both = opening()
        deadline = time.monotonic() + PATIENCE
        while not all("waiting for engine" in messages.read_text() for _, messages in both):
            assert time.monotonic() < deadline, [messages.read_text() for _, messages in both]
            time.sleep(0.02)
        with finished_folder(folder) as place:
            shutil.copytree(engine.folder, place, dirs_exist_ok=True)
    assert [process.wait(2 * PATIENCE) for process, _ in both] == [0, 0]


def test_one_that_is_being_replaced_is_whole_or_not_there(engine, engines, start):
    folder = shutil.copytree(engine.folder, engines / engine.key)
    process, messages = start(replace_damaged, folder)
    seen = set()
    while process.poll() is None:
        seen.add(finding.is_sound(folder))  # anything raised fails the test
    assert process.returncode == 0, messages.read_text()
    assert seen == {True, False} and finding.is_sound(folder)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])

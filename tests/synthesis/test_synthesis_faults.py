"""What machines and people do to a run: no room, no memory, no permission, signals, clocks that jump."""

import errno
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from idle_engine import decode
from test_synthesize import hashes
from typer.testing import CliRunner

import fglfast
from fglfast.payload import save_payload
from fglfast.sampler.schedule import Sampling
from fglfast.shards.locks import locked
from fglfast.synthesis import writer
from fglfast.synthesis.settings import SynthesisSettings
from fglfast.synthesis.synthesize import synthesize
from fglfast.verbs import for_servers
from fglfast.verbs.app import app

SETTINGS = SynthesisSettings(images_per_class=16, shard_size=16, sampling=Sampling(steps=2, guidance_scale=1.0))


@pytest.fixture(scope="module")
def whole(idle, merged, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    assert synthesize(idle(), merged, SETTINGS, out).shards == 3
    return hashes(out)


@pytest.fixture
def arguments(payload, random_mini, tmp_path):
    """Arguments of the command; `out` is where it draws."""
    for client, counts in (("ann", (3, 0, 1)), ("bob", (1, 5, 0))):
        save_payload(payload(client, counts), tmp_path / f"{client}.safetensors")
    given = ["synthesize", "--embeddings", f"{tmp_path}/*.safetensors", "--images-per-class", "16"]
    return [*given, "--shard-size", "16", "--steps", "2", "--guidance", "1", "--out", str(tmp_path / "out")]


@pytest.fixture
def call(arguments, idle, monkeypatch):
    """Run the command in this process with an engine of some decoder."""

    def run(decoder=decode, code=1):
        monkeypatch.setattr(for_servers, "open_engine", lambda *_, **__: idle(decoder))
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == code, done.output
        assert "Traceback" not in done.output and "bug" not in done.output
        return done.stderr

    return run


def failing(error, at=3):
    """A decoder that fails at its n-th batch."""
    calls = []

    def decoder(latents):
        calls.append(len(latents))
        if len(calls) == at:
            raise error
        return decode(latents)

    return decoder


@contextmanager
def room_for(size):
    """Files of this process end at a size: writing more fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_while_a_shard_is_written(call, whole, tmp_path):
    with room_for(20_000):
        said = call()
    assert "train-000000.tar: cannot be written (File too large)" in said
    assert not list((tmp_path / "out").glob("*.tar*")) and not list((tmp_path / "out").glob(".*.tmp"))
    call(code=0)
    assert hashes(tmp_path / "out") == whole


@pytest.mark.parametrize("size", [-3000, -10240, 0])
def test_a_shard_that_is_cut_short_is_said(size, call, tmp_path):
    call(code=0)
    shard = tmp_path / "out" / "train-000001.tar"
    shard.write_bytes(shard.read_bytes()[:size])
    assert "train-000001.tar: cut short" in call(code=4)
    shard.unlink()
    call(code=0)


@pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, 1), (errno.EROFS, 2), (errno.EACCES, 2)])
def test_a_folder_in_which_nothing_can_be_written(number, code, call, tmp_path, monkeypatch):
    opened = Path.open

    def refuse(path, mode="r", *args, **kwargs):
        if "w" in mode and path.is_relative_to(tmp_path / "out"):
            raise OSError(number, os.strerror(number), str(path))
        return opened(path, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    said = call(code=code)
    assert "out/README.md: cannot be written (" in said.replace(" or read", "") and os.strerror(number) in said


def test_a_file_where_the_folder_should_be(call, tmp_path):
    (tmp_path / "out").write_text("")
    assert "out/.locks" in call(code=2)


@pytest.mark.parametrize("how", ["Python", "PyTorch", "C++"])
def test_no_memory(how, call, whole, tmp_path):
    error = {"Python": MemoryError(), "PyTorch": None, "C++": RuntimeError("std::bad_alloc")}[how]
    if error is None:
        with pytest.raises(RuntimeError) as caught:
            torch.empty(1 << 55)
        error = caught.value
    assert "error: out of memory" in call(failing(error))
    assert len(hashes(tmp_path / "out")) == 1, "the shard that was drawn is kept"
    call(code=0)
    assert hashes(tmp_path / "out") == whole


def test_two_runs_in_one_folder(call, whole, tmp_path):
    call(code=0)
    with locked(tmp_path / "out"):
        assert "another run is writing here" in call(code=2)
    assert hashes(tmp_path / "out") == whole


def test_an_interrupt_at_any_batch_loses_the_open_shard_only(idle, merged, whole, tmp_path, monkeypatch):
    """Shards that are drawn but wait to be encoded and written are written."""
    encode = writer.encode_image

    def slow(pixels, image_format):
        time.sleep(0.002)
        return encode(pixels, image_format)

    monkeypatch.setattr(writer, "encode_image", slow)
    for at in range(1, 7):
        out = tmp_path / str(at)
        with pytest.raises(KeyboardInterrupt):
            synthesize(idle(failing(KeyboardInterrupt(), at)), merged, SETTINGS, out)
        found = hashes(out)
        assert len(found) == (at - 1) // 2 and found.items() <= whole.items()
        assert synthesize(idle(), merged, SETTINGS, out).found == 16 * len(found)
        assert hashes(out) == whole


EARLY = """
import signal
from fglfast import __main__
from fglfast.base import console
console.quiet_libraries = lambda: signal.raise_signal(signal.SIGTERM)
__main__.main()
"""


def test_an_interrupt_before_a_verb_has_begun():
    ended = subprocess.run([sys.executable, "-c", EARLY], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (130, "error: interrupted\n")


SLOW = """
import signal, sys, time
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # where a shell runs the tests behind it, it is ignored
folder, model, *sys.argv[1:] = sys.argv[1:]
sys.path.insert(0, folder)
from idle_engine import decode, idle_engine
from fglfast.__main__ import main
from fglfast.verbs import for_servers
out, drawn = Path(sys.argv[-1]), 0
def slow(latents):
    global drawn
    drawn += len(latents)
    deadline = time.monotonic() + 100
    while drawn > 32 and not any(out.glob("*.tar")) and time.monotonic() < deadline:
        time.sleep(0.01)  # the last shard is drawn when the first is seen, however slow the disk
    time.sleep(1)  # and when its signal was sent
    return decode(latents)
for_servers.open_engine = lambda *_, **__: idle_engine(Path(model), slow)
main()
"""


def test_signals_to_real_processes(arguments, random_mini, call, whole, tmp_path):
    """SIGTERM and SIGINT: exit code 130, one clear line, what is finished is kept, the same command goes on."""
    command = [sys.executable, "-c", SLOW, str(Path(__file__).parents[1]), str(random_mini), *arguments[:-1]]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    outs = {number: tmp_path / number.name for number in (signal.SIGTERM, signal.SIGINT)}
    running = {number: subprocess.Popen([*command, str(out)], **pipes) for number, out in outs.items()}
    deadline, waiting = time.monotonic() + 200, set(running)
    while waiting and time.monotonic() < deadline:
        for number in [number for number in waiting if hashes(outs[number]) or running[number].poll() is not None]:
            running[number].send_signal(number)
            waiting.remove(number)
        time.sleep(0.02)
    for number, process in running.items():
        said = process.communicate(timeout=100)
        assert process.returncode == 130, said
        assert said[0] == "" and "error: interrupted" in said[1] and "Traceback" not in said[1]
        assert 1 <= len(hashes(outs[number])) < 3 and hashes(outs[number]).items() <= whole.items()
    arguments[-1] = str(outs[signal.SIGINT])
    call(code=0)
    assert hashes(outs[signal.SIGINT]) == whole


def test_a_clock_that_jumps_changes_neither_seconds_nor_bytes(idle, merged, whole, tmp_path, monkeypatch):
    jumps = iter(range(10**9, 0, -(10**5)))
    monkeypatch.setattr(time, "time", lambda: float(next(jumps)))
    made = synthesize(idle(), merged, SETTINGS, tmp_path)
    assert 0 < made.seconds < 60 and 0 <= made.network_share <= 1 and hashes(tmp_path) == whole


def test_no_duration_is_taken_from_the_wall_clock():
    package = Path(fglfast.__file__).parent
    telling = [path for path in package.rglob("*.py") if "time.time()" in path.read_text(encoding="utf-8")]
    assert telling == []

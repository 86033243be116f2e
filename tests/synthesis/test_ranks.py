"""Several processes, one data set: real ones, killed, restarted in other numbers, under torchrun and Slurm's names."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
import torch
from test_synthesize import hashes
from typer.testing import CliRunner

from fglfast.base import files
from fglfast.base.errors import FglError, IncompleteError, UsageError
from fglfast.base.files import exclusive
from fglfast.engine import backends, choice, contest
from fglfast.engine.build import build_engine
from fglfast.engine.exported import export_folder
from fglfast.engine.making import Made
from fglfast.payload import save_payload
from fglfast.sampler.schedule import Sampling
from fglfast.shards.description import LOCKS, read_description
from fglfast.shards.imagefolder import export_imagefolder
from fglfast.shards.index import read_index
from fglfast.shards.locks import locked
from fglfast.synthesis.drawn import Drawn
from fglfast.synthesis.folder import begin
from fglfast.synthesis.foresight import estimate
from fglfast.synthesis.settings import SynthesisSettings
from fglfast.synthesis.synthesize import synthesize
from fglfast.verbs.app import app

PYTHON = [sys.executable, "-m"]
TORCHRUN = [*PYTHON, "torch.distributed.run", "--standalone"]
STEPS = 12
SETTINGS = SynthesisSettings(images_per_class=16, shard_size=6, sampling=Sampling(steps=STEPS, guidance_scale=2.0))
IMAGES, SHARDS = 48, 8


def environment(**changes):
    """This process's, without what a launcher of the tests themselves may have set."""
    known = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "OMP_NUM_THREADS")
    kept = {name: value for name, value in os.environ.items() if name not in known and not name.startswith("SLURM_")}
    return kept | changes


def start(command, **changes):
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment(**changes), **pipes)


def ended(process, code=0):
    """What a process said, once it has ended with that exit code."""
    out, err = process.communicate(timeout=250)
    assert process.returncode == code, err
    return out, err


@pytest.fixture
def unlaunched():
    """As many threads as PyTorch takes where no launcher, and no test, says how many."""
    threads = torch.get_num_threads()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def arguments(payload, random_mini, recipe, tmp_path_factory):
    """Arguments of the command, but for --engines and --out."""
    folder = tmp_path_factory.mktemp("clients")
    for client, counts in (("ann", (3, 0, 1)), ("bob", (1, 5, 0))):
        save_payload(payload(client, counts), folder / f"{client}.safetensors")
    (folder / "r.toml").write_text(recipe.to_toml())
    given = ["fglfast", "synthesize", "--embeddings", f"{folder}/*.safetensors", "--recipe", f"{folder}/r.toml"]
    given += ["--model", str(random_mini), "--images-per-class", "16", "--shard-size", "6", "--steps", str(STEPS)]
    return [*given, "--json"]


@pytest.fixture(scope="module")
def whole(engine, merged, tmp_path_factory):
    """What one process makes."""
    out = tmp_path_factory.mktemp("whole")
    made = synthesize(engine, merged, SETTINGS, out)
    assert (made.images, made.shards, made.missing) == (IMAGES, SHARDS, 0)
    return out


def test_torchrun_with_no_engine_there(arguments, engine, whole, tmp_path):
    """One rank builds and the other waits; one object a rank on stdout; tars, card and facts of one process."""
    exported = export_folder(engine.manifest.key, engine.folder.parent)
    shutil.copytree(exported, tmp_path / "engines" / exported.name)
    out = tmp_path / "out"
    command = [*TORCHRUN, "--nproc-per-node", "2", "-m", *arguments, "--engines", str(tmp_path / "engines")]
    said, log = ended(start([*command, "--out", str(out), "--format", "imagefolder"]))
    results = sorted((json.loads(line) for line in said.splitlines()), key=lambda result: result["rank"])
    assert [(result["rank"], result["world_size"], result["missing_shards"]) for result in results] == [
        (0, 2, 0),
        (1, 2, 0),
    ]
    assert sum(result["images"] for result in results) == IMAGES
    assert hashes(out) == hashes(whole)
    assert all((out / name).read_bytes() == (whole / name).read_bytes() for name in ("dataset.json", "README.md"))
    assert log.count("building engine") == 1 and "waiting for engine" in log
    ours = [line for line in log.splitlines() if "engine" in line or "image" in line]
    assert all(line.startswith(("rank 0 of 2: ", "rank 1 of 2: ")) for line in ours)
    late = f"rank 0 of 2: resuming: {IMAGES} of {IMAGES} images are there"  # where rank 1 was done before it began
    assert ("rank 0 of 2: synthesize: " in log or late in log) and "rank 1 of 2: synthesize:" not in log
    assert len(list((out / "imagefolder").rglob("*.png"))) == IMAGES and "imagefolder: " in log


def test_kill_nine_one_of_two_then_three(arguments, engine, recipe, merged, unlaunched, tmp_path):
    """Torchrun ends the other; three ranks, started by hand, go on: nothing lost, nothing twice.

    By PyTorch, whose last bits follow the number of threads, and torchrun sets one: still those of one process.
    """
    engines, out, whole = engine.folder.parent, tmp_path / "out", tmp_path / "whole"
    alone = build_engine(recipe.model_copy(update={"backend": "torch"}), engine.model, engines)
    synthesize(alone, merged, SETTINGS.model_copy(update={"images_per_class": 8, "shard_size": 3}), whole)
    command = [*arguments, "--images-per-class", "8", "--shard-size", "3", "--backend", "torch"]
    command += ["--engines", str(engines), "--out", str(out)]
    launcher = start([*TORCHRUN, "--nproc-per-node", "2", "-m", *command])
    deadline = time.monotonic() + 200
    while len(list(out.glob("*.tar"))) < 2 and time.monotonic() < deadline and launcher.poll() is None:
        time.sleep(0.01)
    children = psutil.Process(launcher.pid).children(recursive=True)
    ranks = [child for child in children if "synthesize" in child.cmdline()]
    assert len(ranks) == 2
    ranks[1].send_signal(signal.SIGKILL)
    launcher.communicate(timeout=100)
    assert launcher.returncode != 0 and not any(rank.is_running() for rank in ranks)
    found = hashes(out)
    assert 2 <= len(found) < SHARDS and found.items() <= hashes(whole).items()
    again = [start([*PYTHON, *command], RANK=str(rank), WORLD_SIZE="3") for rank in range(3)]
    results = [json.loads(ended(process)[0]) for process in again]
    assert hashes(out) == hashes(whole) and not list(out.glob(".*.tmp"))
    assert sum(result["images"] for result in results) == 24 - 3 * len(found)
    assert all(result["found"] >= 3 * len(found) and result["missing_shards"] == 0 for result in results)


def test_tasks_of_srun_and_one_process_in_their_batch_script(arguments, engine, whole, tmp_path):
    command = [*PYTHON, *arguments, "--engines", str(engine.folder.parent), "--out"]
    batch = {"SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_JOB_ID": "1"}
    step = batch | {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2"}
    tasks = [
        start([*command, str(tmp_path / "srun")], **step | {"SLURM_PROCID": rank, "SLURM_LOCALID": rank})
        for rank in ("0", "1")
    ]
    shares = [json.loads(ended(task)[0]) for task in tasks]
    assert [share["rank"] for share in shares] == [0, 1] and sum(share["images"] for share in shares) == IMAGES
    alone = CliRunner().invoke(app, [*command[3:], str(tmp_path / "batch")], env=environment(**batch))
    result = json.loads(alone.stdout)
    assert (result["rank"], result["world_size"], result["images"]) == (0, 1, IMAGES)
    assert hashes(tmp_path / "srun") == hashes(tmp_path / "batch") == hashes(whole)


def test_a_rank_whose_others_never_come_draws_all(arguments, engine, merged, whole, tmp_path):
    line = [argument for argument in arguments[1:] if argument != "--json"]
    line += ["--engines", str(engine.folder.parent), "--out", str(tmp_path), "--format", "imagefolder"]
    planned = estimate(engine, merged, SETTINGS, tmp_path)["seconds"]
    assert 0 < estimate(engine, merged, SETTINGS, tmp_path, world_size=2)["seconds"] < planned
    silent = CliRunner().invoke(app, [*line, "--dry-run"], env={"RANK": "1", "WORLD_SIZE": "2"})
    assert silent.exit_code == 0 and silent.output == ""
    alone = CliRunner().invoke(app, line, env={"RANK": "1", "WORLD_SIZE": "2"})
    assert alone.exit_code == 0 and "48 images in" in alone.output and "imagefolder: " in alone.output
    assert hashes(tmp_path) == hashes(whole)
    assert len(list((tmp_path / "imagefolder").rglob("*.png"))) == IMAGES
    with exclusive(tmp_path / LOCKS / "imagefolder"):
        assert export_imagefolder(tmp_path, merged.class_names, SHARDS) is None
    (tmp_path / "train-000003.tar").unlink()
    with pytest.raises(IncompleteError, match="lacks 1 of 8 shards"):
        read_index(tmp_path, read_description(tmp_path))


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_share_of_the_cores_makes_the_same_bits(backend, engine, recipe, merged, tmp_path, monkeypatch):
    """Alone and as one of two on this machine: the same engine, the same bytes."""
    settings = SETTINGS.model_copy(update={"images_per_class": 4, "sampling": Sampling(steps=2, guidance_scale=2.0)})
    asked, keys = recipe.model_copy(update={"backend": backend}), []
    for ranks in ("1", "2"):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
        opened = build_engine(asked, engine.model, engine.folder.parent)
        synthesize(opened, merged, settings, tmp_path / ranks)
        keys.append(opened.key)
    assert len(set(keys)) == 1 and opened.cached
    assert hashes(tmp_path / "1") == hashes(tmp_path / "2") and len(hashes(tmp_path / "1")) == 2


def test_threads_are_part_of_the_torch_engines_key(engine, recipe):
    """One thread and two make images with other last bits: never under one name."""
    threads, asked = torch.get_num_threads(), recipe.model_copy(update={"backend": "torch"})
    keys = set()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            keys.add(build_engine(asked, engine.model, engine.folder.parent).key)
    finally:
        torch.set_num_threads(threads)
    assert len(keys) == 2


def test_who_may_write_in_a_folder(tmp_path):
    facts = dict.fromkeys(("images", "image_size", "images_per_class", "shards"), 1) | {"clients": (), "payloads": ()}
    begin(tmp_path, Drawn(plan="p", class_names=("a",), model="m", weights="w", **facts))
    with locked(tmp_path, 0, 2), locked(tmp_path, 1, 2):
        for rank, world_size in ((0, 2), (1, 3), (0, 1)):
            with pytest.raises(UsageError, match="another run"), locked(tmp_path, rank, world_size):
                pass
    with locked(tmp_path, 0, 1):
        pass


def test_ranks_that_start_together_choose_one_backend(engine, recipe, tmp_path, monkeypatch):
    """Each would measure another backend to be the fastest."""
    measured = []

    class Contest:
        def __init__(self, by_name, _):
            measured.append(self)
            self.seconds = dict.fromkeys(by_name, 2.0) | {list(by_name)[len(measured) % 2]: 1.0}

        def held(self):
            time.sleep(0.1)

    def found(key, _):
        return Made(engine.folder / key.build.backend, engine.manifest, engine.networks, cached=True)

    monkeypatch.setattr(backends, "chosen", lambda name, precision: ["torch", "openvino"])
    monkeypatch.setattr(contest, "Contest", Contest)
    monkeypatch.setattr(choice, "find_or_make", found)
    opened = []
    auto = recipe.model_copy(update={"backend": "auto"})
    threads = [
        threading.Thread(target=lambda: opened.append(build_engine(auto, engine.model, tmp_path))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 3 and len({made.folder for made in opened}) == 1 and len(measured) == 1


def test_images_of_another_engine_are_said_to_be_there(engine, merged, recipe, random_mini, tmp_path, capsys):
    other = build_engine(recipe.model_copy(update={"vae_batch": 2}), random_mini, engine.folder.parent)
    settings = SETTINGS.model_copy(update={"images_per_class": 4, "sampling": Sampling(steps=1)})
    assert synthesize(engine, merged, settings, tmp_path, rank=2, world_size=3).images == 12
    idle = synthesize(engine, merged, settings, tmp_path, rank=0, world_size=2)
    assert (idle.images, idle.found) == (0, 12)
    assert "last bits" not in capsys.readouterr().err
    (tmp_path / "train-000001.tar").unlink()
    synthesize(other, merged, settings, tmp_path)
    assert f"engine {engine.key} drew the images that are there" in capsys.readouterr().err


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def refuse(lock):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(files.FileLock, "acquire", refuse)
    with pytest.raises(FglError, match="cannot be locked"), exclusive(tmp_path / "lock"):
        pass

"""Who a process is among several, as each launcher and each kind of Slurm job tells it."""

import os

import pytest
import torch

from fglfast.base import console, ranks
from fglfast.base.errors import UsageError
from fglfast.base.ranks import Rank, find_rank
from fglfast.verbs import command, options

NAMES = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "OMP_NUM_THREADS")
# What Slurm sets in a batch script of eight tasks, and what srun adds for each of them.
BATCH = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_NPROCS": "8", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
TASK = BATCH | {
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
}


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """A process that no launcher started, without a terminal."""
    for name in [name for name in os.environ if name in NAMES or name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(os, "isatty", lambda stream: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    def change(variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return change


@pytest.mark.parametrize(
    ("variables", "rank"),
    [
        ({}, Rank()),
        ({"RANK": "11", "WORLD_SIZE": "16", "LOCAL_RANK": "3"}, Rank(11, 16, 3)),
        ({"RANK": "11", "WORLD_SIZE": "16"}, Rank(11, 16, 11)),
        (TASK, Rank(5, 8, 1)),
        (TASK | {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}, Rank(1, 2, 1)),  # torchrun inside srun
        (BATCH, Rank()),
        (BATCH | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_ID": "0"}, Rank()),  # sbatch from within a step of one
        (TASK | {"SLURM_PROCID": "0", "SLURM_STEP_ID": "4294967290"}, Rank()),  # salloc's interactive step
    ],
)
def test_who_a_process_is(variables, rank, environment):
    environment(variables)
    assert find_rank() == rank


def test_a_shell_of_srun_pty_is_one_process(environment, monkeypatch):
    environment(TASK | {"SLURM_PROCID": "0"})
    assert find_rank() == Rank(0, 8, 1)
    monkeypatch.setattr(os, "isatty", lambda stream: stream == 2)
    assert find_rank() == Rank()


@pytest.mark.parametrize(
    ("variables", "word"),
    [
        ({"RANK": "0"}, "WORLD_SIZE is not"),
        ({"WORLD_SIZE": "2"}, "RANK is not"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK is 2, but WORLD_SIZE is 2"),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, "'-1'"),
        ({"RANK": "0", "WORLD_SIZE": "two"}, "'two'"),
        ({"RANK": "0", "WORLD_SIZE": "0"}, "WORLD_SIZE is 0"),
        (TASK | {"SLURM_PROCID": "8"}, "SLURM_PROCID is 8"),
        (TASK | {"SLURM_NTASKS": "4"}, "SLURM_NTASKS is 4"),
    ],
)
def test_what_contradicts_itself_is_refused(variables, word, environment):
    environment(variables)
    with pytest.raises(UsageError, match=word):
        find_rank()


@pytest.mark.parametrize(("shown", "gpu"), [(8, 3), (2, 1), (1, 0)])
def test_each_rank_takes_a_gpu_of_those_it_is_shown(shown, gpu, monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: shown)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    ranks.take_place(Rank(11, 16, 3))
    assert chosen == [gpu]


LISTED = """\
GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-aaaa)
GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-bbbb)
  MIG 3g.40gb     Device  0: (UUID: MIG-cccc)
  MIG 3g.40gb     Device  1: (UUID: MIG-dddd)
"""


@pytest.mark.parametrize(
    ("shown", "local", "own"),
    [
        ("4,5,6,7", 2, "6"),
        ("GPU-aaaa", 2, "GPU-aaaa"),  # a launcher that shows each rank its own
        ("MIG-cccc,MIG-dddd", 1, "MIG-dddd"),
        ("", 1, ""),
        (None, 0, "GPU-aaaa"),
        (None, 2, "MIG-dddd"),
        (None, 3, "GPU-aaaa"),
    ],
)
def test_each_rank_sees_one_gpu(shown, local, own, monkeypatch, tmp_path):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n[ \"$1\" = -L ] && cat <<'END'\n{LISTED}END\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown or "")
    if shown is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    ranks.show_gpu(Rank(9, 16, local))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == own


def test_without_a_list_of_gpus_all_stay_visible(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("PATH", str(tmp_path))
    ranks.show_gpu(Rank(1, 2, 1))
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


@pytest.mark.parametrize(
    ("machines", "first"),
    [
        ("gpu[03-07,12],big1", "gpu03"),
        ("big1,gpu[03-07]", "big1"),
        ("rack[2-3]node[1,5]-ib", "rack2node1-ib"),
        ("alone", "alone"),
    ],
)
def test_where_the_tasks_of_a_step_meet(machines, first, environment):
    environment(TASK | {"SLURM_STEP_NODELIST": machines, "SLURM_JOB_NODELIST": "another"})
    told = ranks.meeting(find_rank())
    assert (told["RANK"], told["WORLD_SIZE"], told["LOCAL_RANK"], told["MASTER_ADDR"]) == ("5", "8", "1", first)
    environment({"SLURM_STEP_ID": "1"})
    assert ranks.meeting(find_rank())["MASTER_PORT"] != told["MASTER_PORT"]  # two steps of one job side by side
    environment({"MASTER_ADDR": "mine", "MASTER_PORT": "7"})
    told = ranks.meeting(find_rank())
    assert (told["MASTER_ADDR"], told["MASTER_PORT"]) == ("mine", "7")


@pytest.mark.parametrize(("here", "given", "left"), [("2", "1", None), ("2", "3", "3"), ("1", "1", "1")])
def test_torchruns_one_thread_is_not_taken_for_the_users_wish(here, given, left, environment, monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "")
    monkeypatch.delenv("OMP_WAIT_POLICY")
    environment({"LOCAL_WORLD_SIZE": here, "OMP_NUM_THREADS": given})
    ranks.take_place(Rank(1, 2, 1))
    assert os.environ.get("OMP_NUM_THREADS") == left
    assert os.environ.get("OMP_WAIT_POLICY") == ("passive" if here == "2" else None)


def test_one_of_several_signs_its_lines_and_the_first_shows_progress(environment, monkeypatch, capsys):
    monkeypatch.setattr(console, "speaker", console.Speaker())
    monkeypatch.setattr(options, "speaker", console.speaker)
    monkeypatch.setattr(console, "stderr", console.Console(stderr=True, highlight=False, force_terminal=True))
    for number in ("0", "1"):
        environment({"RANK": number, "WORLD_SIZE": "2"})
        options.join_ranks()
        console.note("here")
        with console.Progress("draw", 4) as progress:
            progress.advance(4)
    command.tell({}, False, "done")
    said = capsys.readouterr()
    assert said.out == "rank 1 of 2: done\n"
    assert said.err.startswith("rank 0 of 2: here\nrank 0 of 2: draw: 4/4") and "\x1b" not in said.err
    assert said.err.endswith("rank 1 of 2: here\n") and said.err.count("draw") == 1

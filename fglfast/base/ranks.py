"""Which of several processes this one is, and its share of the machine.

A rank learns its number from the environment that its launcher set, and never talks to the others.
"""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass

from fglfast.base.errors import UsageError

HINT = "start it with torchrun or srun; with RANK=0 WORLD_SIZE=1 this process does all the work"
FIRST_PORT, PORTS = 20_000, 10_000  # below those that systems give out by themselves
# Slurm's numbers for steps that are no run of srun: pending, extern, batch and interactive are 0xfffffffd to ...fa.
FIRST_RESERVED_STEP = 0xFFFFFFF0


@dataclass(frozen=True)
class Rank:
    """A process among those that share a run.

    Attributes:
        number: 0 to world_size - 1.
        world_size: how many processes share the run, on all machines.
        local: its number among those of this machine.
    """

    number: int = 0
    world_size: int = 1
    local: int = 0

    def __str__(self) -> str:
        return f"rank {self.number} of {self.world_size}"


def find_rank() -> Rank:
    """This process as torchrun's variables number it, or else those of its Slurm step; or else alone.

    Raises:
        UsageError: a variable is missing, is not a number, or contradicts another.
    """
    if "RANK" in os.environ or "WORLD_SIZE" in os.environ:
        return _rank("RANK", "WORLD_SIZE", "LOCAL_RANK")
    if not _is_task_of_srun():
        return Rank()
    rank = _rank("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
    asked = _number("SLURM_NTASKS", rank.world_size)
    if rank.world_size not in (1, asked):
        raise UsageError(f"SLURM_STEP_NUM_TASKS is {rank.world_size}, but SLURM_NTASKS is {asked}", HINT)
    return rank


def _is_task_of_srun() -> bool:
    """Whether srun started this process as one of the tasks of a step.

    SLURM_NTASKS and SLURM_PROCID do not tell: a batch script and an interactive allocation of eight tasks have
    8 and 0 in them, and there nobody is ranks 1 to 7. SLURM_STEP_NUM_TASKS is set for the tasks of a step only
    (Slurm's src/common/env.c sets it in env_array_for_step, not in env_array_for_job or env_array_for_batch_job).
    Two kinds of step are a shell of one process all the same: the interactive one of salloc, known by its reserved
    number, and srun --pty, known by its terminal: other tasks of srun have pipes or files.
    """
    if "SLURM_STEP_NUM_TASKS" not in os.environ or _number("SLURM_STEP_ID", 0) >= FIRST_RESERVED_STEP:
        return False
    return not any(os.isatty(stream) for stream in (0, 1, 2))


def ranks_here() -> int:
    """How many ranks share this process's cores: torchrun's of this machine. srun gives each task cores of its own."""
    return max(1, _number("LOCAL_WORLD_SIZE", 1))


def meeting(rank: Rank) -> dict[str, str]:
    """Where the ranks of a Slurm step meet, as PyTorch's env:// reads it; MASTER_ADDR and MASTER_PORT overrule it.

    Task 0 is on the first machine of the step. The port is the same for all of a step and differs between steps.
    """
    machines = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_JOB_NODELIST", "")
    step = _number("SLURM_JOB_ID", 0) * 7 + _number("SLURM_STEP_ID", 0)
    return {
        "RANK": str(rank.number),
        "WORLD_SIZE": str(rank.world_size),
        "LOCAL_RANK": str(rank.local),
        "MASTER_ADDR": os.environ.get("MASTER_ADDR") or _first_machine(machines) or "localhost",
        "MASTER_PORT": os.environ.get("MASTER_PORT") or str(FIRST_PORT + step % PORTS),
    }


def _first_machine(machines: str) -> str:
    """The first of a list as Slurm writes it: "gpu[03-07,12],big1" begins with gpu03."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", machines)
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", first[0] if first else "")


def show_gpu(rank: Rank) -> None:
    """Let the rank see its own GPU and no other; call it before PyTorch is imported.

    It makes no difference whether a launcher shows each rank one GPU or all of them. The one that is seen is number 0
    in every rank, so that they share what was compiled for it.
    """
    gpus = _gpus()
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[rank.local % len(gpus)]


def _gpus() -> list[str]:
    """The names of the GPUs that this process may use; of one that is divided (MIG), those of its parts.

    By their unique names: CUDA numbers GPUs otherwise than nvidia-smi does, and parts not at all. Empty without
    nvidia-smi, unless CUDA_VISIBLE_DEVICES is set.
    """
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [name.strip() for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name.strip()]
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    listed = subprocess.run([program, "-L"], capture_output=True, text=True, check=False).stdout
    gpus: list[list[str]] = []
    for line in listed.splitlines():
        name = re.search(r"UUID: ([^)\s]+)", line)
        if name and line.startswith("GPU"):
            gpus.append([name[1]])
        elif name and gpus:
            gpus[-1].append(name[1])
    return [name for whole, *parts in gpus for name in parts or [whole]]


def take_place(rank: Rank) -> None:
    """Give the rank its own GPU, and as many CPU threads as it would have alone; call it before PyTorch is imported.

    The number of CPU threads decides the last bits of PyTorch's sums, so that torchrun's (one, unless the user chose
    another) would draw other images than a single process does: ranks on the same cores each use all of them, but wait
    without spinning.
    """
    show_gpu(rank)
    if ranks_here() > 1:
        if os.environ.get("OMP_NUM_THREADS") == "1":
            del os.environ["OMP_NUM_THREADS"]
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_device(rank.local % torch.cuda.device_count())


def _rank(number: str, world_size: str, local: str) -> Rank:
    for name in (number, world_size):
        if name not in os.environ:
            raise UsageError(f"one of {number} and {world_size} is set, but {name} is not", HINT)
    own, size = _number(number, 0), _number(world_size, 1)
    if own >= size:
        raise UsageError(f"{number} is {own}, but {world_size} is {size}", HINT)
    return Rank(own, size, _number(local, own))


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise UsageError(f"{name} is {text!r}, not a whole number", HINT)
    return int(text)

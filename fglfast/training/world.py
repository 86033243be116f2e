"""This process among those of a training run, and how it joins them."""

import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fglfast.base.console import hushed
from fglfast.base.errors import UsageError
from fglfast.base.ranks import find_rank, ranks_here


@dataclass(frozen=True)
class World:
    """This process among its peers; by default it has none."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def leads(self) -> bool:
        """Whether this process writes the files and speaks."""
        return self.rank == 0

    @property
    def machine(self) -> str:
        """The name of the machine that this process runs on."""
        return socket.gethostname()

    def on_machine(self) -> tuple[int, int]:
        """This process's number among those of its machine, and how many they are; all processes ask at once."""
        machines: list[Any] = [self.machine] * self.size
        if self.size > 1:
            torch.distributed.all_gather_object(machines, self.machine)
        here = [rank for rank, machine in enumerate(machines) if machine == self.machine]
        return here.index(self.rank), len(here)

    def sum(self, values: Tensor) -> Tensor:
        """The sum of a tensor over all processes, in every process."""
        total = values.clone()
        if self.size > 1:
            torch.distributed.all_reduce(total)
        return total

    def follow(self, values: Tensor) -> None:
        """Make a tensor what it is in the leading process."""
        if self.size > 1:
            torch.distributed.broadcast(values, 0)

    def wait(self) -> None:
        """Wait until every process has come here."""
        if self.size > 1:
            torch.distributed.barrier()


Join = Callable[[], AbstractContextManager[World]]  # enters this process among those of a run


@contextmanager
def environment(**values: str) -> Iterator[None]:
    """Environment variables that are set for a while."""
    before = {name: os.environ.get(name) for name in values}
    os.environ |= values
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def loopback() -> dict[str, str]:
    """What tells gloo that all processes are on this machine: it need not look its name up."""
    return {"GLOO_SOCKET_IFNAME": os.environ.get("GLOO_SOCKET_IFNAME", "lo")} if sys.platform == "linux" else {}


def _accelerator(processes: int) -> AbstractContextManager[None]:
    """What DeepSpeed computes on, unless its user said so, and how many processes of this machine it is asked by."""
    usual = {"DS_ACCELERATOR": "cuda" if torch.cuda.is_available() else "cpu", "LOCAL_SIZE": str(processes)}
    return environment(**{name: os.environ.get(name, value) for name, value in usual.items()})


@contextmanager
def alone() -> Iterator[World]:
    """A process group of this process alone, as DeepSpeed wants one: without a launcher, a port or a network.

    Afterwards this process is as it was: its environment, and no process group.
    """
    backend, device = ("nccl", torch.cuda.current_device()) if torch.cuda.is_available() else ("gloo", 0)
    with environment(LOCAL_RANK=str(device), **loopback()), _accelerator(processes=1):
        store = torch.distributed.HashStore()  # type: ignore[attr-defined]
        torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)
        leave: Callable[[], None] = torch.distributed.destroy_process_group
        try:
            world, leave = join_world(), _leave_world  # who is interrupted here has DeepSpeed half imported
            yield world
        finally:
            leave()


@contextmanager
def launched() -> Iterator[World]:
    """The process group of all workers, as torchrun or another launcher describes it in the environment.

    Raises:
        UsageError: two of them compute on one GPU, which NCCL refuses.
    """
    with environment(**_local_rank()), _accelerator(processes=ranks_here()):
        try:
            yield join_world()
        except torch.distributed.DistBackendError as error:
            if "Duplicate GPU" in str(error):
                raise UsageError("two training processes share one GPU", "start one process for each GPU") from error
            raise
        _leave_world()  # not after an error: it would wait for peers that are gone


def _local_rank() -> dict[str, str]:
    """The number that DeepSpeed takes for the GPU's: of those that this process sees, however many that are."""
    local = find_rank().local
    number = str(local % torch.cuda.device_count() if torch.cuda.is_available() else local)
    mpi = "OMPI_COMM_WORLD_LOCAL_RANK"  # DeepSpeed wants both to be the same
    return {"LOCAL_RANK": number} | ({mpi: number} if mpi in os.environ else {})


def join_world() -> World:
    """Join the process group through DeepSpeed: gloo between CPU processes, NCCL between GPUs."""
    import deepspeed

    if hushed():
        deepspeed.utils.logger.setLevel("ERROR")
    # Compiled on first use, for inference only: training needs neither it nor a compiler.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    deepspeed.init_distributed(verbose=False)
    return World(torch.distributed.get_rank(), torch.distributed.get_world_size(), device)


def _leave_world() -> None:
    import deepspeed

    deepspeed.comm.destroy_process_group()  # DeepSpeed's, that also forgets the groups it made of it

"""What a curious server sees of federated averaging: each client's weights after its own epochs.

The server is honest, but looks at what it gets (Nasr, Shokri and Houmansadr, arXiv 1812.00910, its passive global
attacker). A run keeps no updates, so the federation goes on for a few rounds from its final model: those are watched.
"""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from flwr.app import RecordDict
from flwr.serverapp import Grid

from fglfast.federation import wire
from fglfast.federation.client_app import app
from fglfast.federation.clients import simulated
from fglfast.federation.federation import Federation
from fglfast.federation.grid import Answers, CountedGrid
from fglfast.federation.loopback import LoopbackGrid
from fglfast.federation.members import Member
from fglfast.federation.method_names import Method
from fglfast.federation.method_plan import MethodPlan
from fglfast.federation.rounds import PlannedRounds
from fglfast.lab.audit.audited import AuditedImages, Clients
from fglfast.lab.audit.likelihood import confidences
from fglfast.lab.audit.opened import Run
from fglfast.lab.audit.roc import Floats
from fglfast.training.evaluate import open_classifier

WATCHED = 3  # rounds

T = TypeVar("T")
Look = Callable[[int, wire.Weights], None]  # the number of a client, and what it sent


def updates_seen(run: Run, method: Method, pool: AuditedImages, asked_N: Clients) -> Floats:
    """How sure of each image's true class the asked client is after its epochs [N]: the mean of `WATCHED` rounds.

    It is counted from the mean of all images of that class that are asked of that client: clients that hold much of a
    class are sure of all its images.

    Args:
        run: whose federation goes on.
        method: one that averages.
        pool: the images.
        asked_N: the client that each image is asked of.
    """
    experiment, file = run.experiment.chosen_for(method), str(run.file)
    network, class_names, _ = open_classifier(run.out / method / "model")
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    seen_N = np.zeros(len(asked_N))

    def look(client: int, update: wire.Weights) -> None:
        rows = np.flatnonzero(asked_N == client)
        network.load_state_dict(update)
        if len(rows):
            seen_N[rows] += confidences(network, pool.pixels_N3SS[rows], pool.images.labels[rows]) / WATCHED

    everyone = simulated(file, run.seed)
    clients = range(len(everyone))
    loopback = LoopbackGrid(app, clients, {"experiment": file, "seed": run.seed})
    grid = _Watched(loopback, experiment.timeout, len(clients), look)
    members = tuple(
        Member(name=client.name, node=node, images=len(client.dataset))
        for client, node in zip(everyone, grid.nodes(), strict=True)
    )
    known = experiment.model_copy(update={"trusted_counts": tuple(member.name for member in members)})
    federation = Federation(grid, members, known, run.seed, class_names, network, test=lambda _: 0.0)
    proximal_mu = experiment.rounds.proximal_mu if method == "fedprox" else 0.0
    with tempfile.TemporaryDirectory() as folder:
        PlannedRounds(federation, MethodPlan("watched rounds", WATCHED, proximal_mu)).run(weights, Path(folder))
    for client in clients:
        for label in range(len(class_names)):
            alike_N = (asked_N == client) & (pool.images.labels == label)
            seen_N[alike_N] -= seen_N[alike_N].mean() if alike_N.any() else 0.0
    return seen_N


class _Watched(CountedGrid):
    """A grid whose server looks at every update before it averages them."""

    def __init__(self, grid: Grid, timeout: float, least: int, look: Look) -> None:
        super().__init__(grid, timeout, least)
        self.look = look

    def ask(
        self, message_type: str, records: dict[str, Any], form: Callable[[RecordDict], T], names: Mapping[int, str]
    ) -> Answers[T]:
        """As ever; nobody notices."""
        answers = super().ask(message_type, records, form, names)
        if message_type == wire.TRAIN:
            for node, update in answers.good.items():
                self.look(self.nodes().index(node), cast(wire.Weights, update))
        return answers

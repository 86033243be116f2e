"""What the server of a finished experiment saw of its clients, as a score of each image.

It is the adversary of the threat model: honest, but curious. Of methods that average it sees each client's update in
every round; of one-shot FGL the uploads. Those of words say what the words say, which inversion reads; learned ones may
say more.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fglfast.engine.recipe import find_recipe
from fglfast.federation.clients import simulated
from fglfast.federation.experiment import FILE, Experiment
from fglfast.federation.method_names import Method
from fglfast.lab.audit import learned, updates
from fglfast.lab.audit.audited import AuditedImages, Clients, asked
from fglfast.lab.audit.outputs import Floats
from fglfast.lab.audit.records import View
from fglfast.payload import load_payload

AVERAGED: tuple[Method, ...] = ("fgl-rounds", "fgl-rounds-finetune", "fedavg", "fedprox")


def seen_by_server(experiment: Experiment, method: Method) -> dict[View, int]:
    """What the server of a method sees that may tell one image of a client, and in how many rounds or draws."""
    if method in AVERAGED:
        return {"updates": updates.WATCHED}
    return {"upload": learned.DRAWS} if method == "fgl" and experiment.prompt_level == "learned" else {}


def server_views(
    folder: Path, experiment: Experiment, method: Method, seed: int, pool: AuditedImages, holders_N: Clients
) -> dict[View, Floats]:
    """What each of those says of each image [N]: higher for what the asked client learned from.

    Args:
        folder: of the finished experiment.
        experiment: its settings.
        method: that was run.
        seed: likewise.
        pool: the images.
        holders_N: the client that gave each of them.
    """
    asked_N, out = asked(holders_N, pool.images.labels, seed), folder / f"seed{seed}"
    file, found = folder / FILE, dict[View, Floats]()
    for view in seen_by_server(experiment, method):
        if view == "upload":
            found[view] = _of_uploads(out / "one-shot" / "clients", file, experiment, seed, pool, asked_N)
        else:
            own = experiment.chosen_for(method)
            mu = own.rounds.proximal_mu if method == "fedprox" else 0.0
            found[view] = updates.updates_seen(file, own, seed, out / method / "model", mu, pool, asked_N)
    return found


def _of_uploads(
    uploads: Path, file: Path, experiment: Experiment, seed: int, pool: AuditedImages, asked_N: Clients
) -> Floats:
    """Of learned payloads: what the asked client's row of an image's class gains over the class prompt."""
    numbers = {client.name: number for number, client in enumerate(simulated(str(file), seed))}
    texts: list[NDArray[np.float16]] = []
    places = np.full((len(numbers), len(pool.images.class_names)), -1, dtype=np.int64)
    for path in sorted(uploads.glob("*.safetensors")):
        payload = load_payload(path)
        assert payload.embeddings is not None, "learned embeddings have no other form"
        places[numbers[payload.header.client], payload.labels] = len(texts) + np.arange(len(payload.labels))
        texts.extend(payload.embeddings)
    model = find_recipe(experiment.recipe).model_folder()
    return learned.gains(model, pool, np.stack(texts), places[asked_N, pool.images.labels])

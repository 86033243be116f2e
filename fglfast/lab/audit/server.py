"""What is seen of a finished experiment's clients, as a score of each image: in its model, and at its server.

The server is the adversary of the threat model: honest, but curious. Of methods that average it sees each client's
update in every round; of one-shot FGL the uploads. Those of words say what the words say, which inversion reads;
learned ones may say more.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fglfast.engine.recipe import find_recipe
from fglfast.federation.clients import simulated
from fglfast.federation.experiment import Experiment
from fglfast.federation.method_names import Method
from fglfast.lab.audit import learned, updates
from fglfast.lab.audit.audited import AuditedImages, Clients, asked, holders, learned_names
from fglfast.lab.audit.likelihood import confidences
from fglfast.lab.audit.opened import Run
from fglfast.lab.audit.records import MODEL, View
from fglfast.lab.audit.roc import Floats
from fglfast.payload import load_payload
from fglfast.training.evaluate import open_classifier

AVERAGED: tuple[Method, ...] = ("fgl-rounds", "fgl-rounds-finetune", "fedavg", "fedprox")


def seen_by_server(experiment: Experiment, method: Method) -> dict[View, int]:
    """What the server of a method sees that may tell one image of a client, and in how many rounds or draws."""
    if method in AVERAGED:
        return {"updates": updates.WATCHED}
    return {"upload": learned.DRAWS} if method == "fgl" and experiment.prompt_level == "learned" else {}


def all_views(
    run: Run, method: Method, pool: AuditedImages, rows: Mapping[str, int]
) -> tuple[Clients, dict[View, Floats]]:
    """The client that gave each image [N], and what each view says of it [N]: higher for what was learned from.

    Args:
        run: finished.
        method: whose final model and server are looked at.
        pool: the images.
        rows: where an image that a client names is in the pool.
    """
    model, _, _ = open_classifier(run.out / method / "model")
    holders_N = holders(learned_names(run, method), rows, len(pool.images))
    asked_N = asked(holders_N, pool.images.labels, run.seed)
    found: dict[View, Floats] = {MODEL: confidences(model, pool.pixels_N3SS, pool.images.labels)}
    for view in seen_by_server(run.experiment, method):
        if view == "upload":
            found[view] = _of_uploads(run, pool, asked_N)
        else:
            found[view] = updates.updates_seen(run, method, pool, asked_N)
    return holders_N, found


def _of_uploads(run: Run, pool: AuditedImages, asked_N: Clients) -> Floats:
    """Of learned payloads: what the asked client's row of an image's class gains over the class prompt."""
    numbers = {client.name: number for number, client in enumerate(simulated(str(run.file), run.seed))}
    texts: list[NDArray[np.float16]] = []
    places = np.full((len(numbers), len(pool.images.class_names)), -1, dtype=np.int64)
    for path in run.uploads():
        payload = load_payload(path)
        assert payload.embeddings is not None, "learned embeddings have no other form"
        places[numbers[payload.header.client], payload.labels] = len(texts) + np.arange(len(payload.labels))
        texts.extend(payload.embeddings)
    model = find_recipe(run.experiment.recipe).model_folder()
    return learned.gains(model, pool, np.stack(texts), places[asked_N, pool.images.labels])

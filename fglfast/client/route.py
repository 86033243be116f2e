"""A client's images to a payload of routing: what mixes the server's adapters, and which classes the client holds."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fglfast.base.errors import BadInputError, UsageError
from fglfast.base.files import claim, sole
from fglfast.client.embed import make_header
from fglfast.client.learn import BEGUN, Learned, read_examples, told_losses
from fglfast.client.privacy import Budget
from fglfast.client.private_route import private_route
from fglfast.client.prompts import class_level_prompts
from fglfast.client.settings import RouteSettings
from fglfast.generator.blocks import load_blocks
from fglfast.generator.fingerprints import weights_fingerprint
from fglfast.generator.inventory import Inventory, load_inventory
from fglfast.generator.learning.invert import check_generator
from fglfast.generator.learning.routing import CLIENT_FIT, Learner
from fglfast.generator.learning.student import Task
from fglfast.generator.load import load_generator, own_device, read_shapes
from fglfast.generator.text import load_prompts, native_image_size, text_fingerprint
from fglfast.generator.text_encoder import TextEncoder
from fglfast.images.labelled import LabelledImages
from fglfast.payload import Payload, PayloadHeader, Privacy


def route(
    dataset: LabelledImages,
    client: str,
    model: Path,
    inventory: Path,
    state: Path,
    settings: RouteSettings = RouteSettings(),  # noqa: B008 (frozen)
    domain: str | None = None,
    budget: Budget | None = None,
) -> Learned:
    """Learn which mixture of the server's adapters fits a client's images; killed, it goes on from its last checkpoint.

    Args:
        dataset: the client's private images.
        client: its name.
        model: the generator's diffusers directory.
        inventory: the server's file of adapters.
        state: folder of the checkpoint and the logged loss; nothing is kept under a budget.
        settings: how.
        domain: a word for all images; it stands in the prompts that are changed and in the header.
        budget: of differential privacy; None adds no noise.

    Raises:
        UsageError: the client's name or the domain is refused, or the model is SDXL or a blockwise student.
        BadInputError: the inventory cannot be used or is another generator's, or `state` was begun with other images,
            other classes, another inventory or other settings.
        MissingExtraError: there is a budget, and dp-accounting is not installed.
    """
    if load_blocks(model).boundaries:
        raise UsageError("no routing can be learned for a blockwise student", "use its teacher")
    size, encoded = native_image_size(model), text_fingerprint(model)
    check_generator(read_shapes(model, size), 1)
    adapters = load_inventory(inventory, encoded)
    if adapters.description.model != weights_fingerprint(model):
        raise BadInputError(f"{inventory}: learned through another generator", "use the server's model")
    header = make_header(client, dataset.class_names, "routed", encoded, domain, adapters.fingerprint())
    wording, every = load_prompts(model, domain).class_level, [1] * len(dataset.class_names)
    prompts = [row.prompt for row in class_level_prompts(dataset.class_names, every, wording)]  # as the server's are
    learner = _learner(model, adapters, prompts)
    counts_K = dataset.counts()
    fit = CLIENT_FIT.model_copy(update={"steps": settings.steps})
    if budget:
        examples, _ = read_examples(learner.generator, dataset.alone(), np.arange(len(counts_K)), size)
        found = private_route(learner, examples, counts_K, fit, budget)
        return Learned(_payload(header, found.logits, found.counts, found.privacy))
    with sole(state, BEGUN):
        held = np.flatnonzero(counts_K)  # the prompts of these alone are learned under
        learner = Learner(learner.generator, learner.task, learner.inventory, learner.prompts[held])
        examples, images = read_examples(learner.generator, dataset, held, size)
        words = {"prompts": [prompts[label] for label in held], "domain": domain}
        begun = {"images": images, "inventory": header.inventory, **words}
        claim(state / BEGUN, begun, "routing of other images or classes, of another inventory or another domain")
        logits_RH = learner.learn(examples, fit, state)
    losses = told_losses(
        learner.generator, learner.task, (learner.prompts, learner.texts(logits_RH)), examples, fit.batch_size
    )
    return Learned(_payload(header, logits_RH, counts_K, None), *losses)


def _learner(model: Path, inventory: Inventory, prompts: list[str]) -> Learner:
    """The frozen generator and the embeddings of all classes' prompts."""
    generator = load_generator(model, own_device())
    device, encoder = generator.projection.linear.weight.device, TextEncoder.load(model)
    prompts_KLD = torch.from_numpy(encoder.encode(encoder.tokenize(prompts))).to(device)
    return Learner(generator, Task.of_model(model), inventory.to(device), prompts_KLD)


def _payload(
    header: PayloadHeader, logits_RH: torch.Tensor, counts_K: NDArray[np.int64], privacy: Privacy | None
) -> Payload:
    """A row for each class that there are images of."""
    labels = np.flatnonzero(counts_K)
    routes = logits_RH.cpu().numpy().astype(np.float16)
    stated = header.model_copy(update={"privacy": privacy})
    return Payload(stated, None, None, labels.astype(np.int64), counts_K[labels].astype(np.int64), routes=routes)

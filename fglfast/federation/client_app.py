"""The client: a Flower ClientApp that answers with its payload, trains, judges and keeps the final model.

Nothing in a message chooses what it reads, where it writes or what it answers: that is in its own node configuration
(clients.py). What it does not answer, or cannot, it says in a reply of one line, which tells nothing of its images.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from transformers import PreTrainedModel

from fglfast.base.config import MOST_SEED
from fglfast.base.console import note
from fglfast.base.errors import BadInputError, FglError
from fglfast.client.embed import embed
from fglfast.client.learn import learn
from fglfast.client.route import route
from fglfast.federation import question, wire
from fglfast.federation.clients import Client, open_client
from fglfast.federation.local import train_locally
from fglfast.federation.moments import moments_of
from fglfast.payload import Payload, save_payload
from fglfast.training.adapt import adapt_model, draw_shots
from fglfast.training.batches import TrainingData
from fglfast.training.model import model_of, save_model
from fglfast.training.predict import count_right, placed
from fglfast.training.prototypes import Prototypes, checked_prototypes, remove_prototypes, save_prototypes

SEEDS = 1_000_003
OWN = "it could not answer; its own log says why"  # which may name its classes and files

app = ClientApp()


def _answering(answer: Callable[[Client, RecordDict], RecordDict]) -> Callable[[Message, Context], Message]:
    """Answer messages by what the client's own configuration lets it say, or by one line on why it says nothing."""

    def handle(message: Message, context: Context) -> Message:
        try:
            content = answer(open_client(context), message.content)
        except FglError as error:
            note(f"not answered: {error.message}")
            content = wire.refusal(error.message if isinstance(error, question.QuestionError) else OWN)
        except Exception as error:  # Flower would send its words
            note(f"not answered: {type(error).__name__}: {error}")
            content = wire.refusal(OWN)
        return Message(content, reply_to=message)

    return handle


@app.query("refused")
def refused(message: Message, context: Context) -> Message:
    """Say why the server does not take this client."""
    said = message.content.config_records.get(wire.CONFIG, ConfigRecord())
    note(f"the server does not take this client: {wire.one_line(said.get(wire.REFUSED, ''))}")
    return Message(RecordDict(), reply_to=message)


@app.query("payload")
@_answering
def payload(client: Client, content: RecordDict) -> RecordDict:
    """Prompt embeddings of the client's images, as the bytes of a payload file."""
    if client.payload is not None:  # asked twice, noise would be drawn twice, and two of it tell more than one
        return _sent(client.payload.read_bytes())
    asked = question.ForPrompts.of(content)
    _permit(client, f"payload:{asked.prompt_level}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "payload.safetensors"
        save_payload(_made(client, asked, content, Path(folder) / "learning"), path, client.signer)
        return _sent(path.read_bytes())


@app.train()
@_answering
def train(client: Client, content: RecordDict) -> RecordDict:
    """Local epochs from the global weights."""
    _permit(client, "train")
    asked = question.ToTrain.of(content)
    model, images = _global_model(asked, content), _images(client, asked)
    steps = {name: tensor.clone() for name, tensor in model.state_dict().items() if name.endswith(wire.STEPS)}
    for number in range(asked.server_round, asked.server_round + asked.rounds):
        seed = ((asked.seed * SEEDS + number) * SEEDS + client.number) % (MOST_SEED + 1)
        train_locally(model, images, asked.local, seed, asked.proximal_mu, number)
    return RecordDict({wire.ARRAYS: wire.weights_record(model.state_dict() | steps)})


@app.evaluate()
@_answering
def evaluate(client: Client, content: RecordDict) -> RecordDict:
    """The global weights on the client's held-out images."""
    _permit(client, "evaluate")
    asked = question.OfModel.of(content)
    model, images = _global_model(asked, content), _images(client, asked)
    if not len(images.held_out):
        return wire.metrics()
    return wire.metrics(**{wire.SHARE: _share_right(client, model, images)})


@app.query("moments")
@_answering
def moments(client: Client, content: RecordDict) -> RecordDict:
    """Statistics of the features that the global network makes of the client's images."""
    _permit(client, "moments")
    asked = question.OfModel.of(content)
    found = moments_of(_global_model(asked, content), _images(client, asked))
    return RecordDict({wire.ARRAYS: wire.weights_record(found)})


@app.query("adapt")
@_answering
def adapt(client: Client, content: RecordDict) -> RecordDict:
    """The final model on the client's held-out images, as it is and adapted to the others."""
    _permit(client, "evaluate")  # it says no more than that, twice
    asked = question.ToAdapt.of(content)
    model, images = _global_model(asked, content), _images(client, asked)
    prototypes = _prototypes(model, content)
    if not len(images.held_out) or not len(images.train):
        return wire.metrics()
    before = _share_right(client, model, images)
    shots = draw_shots(images.labels.numpy(), images.train, len(asked.class_names), asked.adapt)
    adapt_model(model, prototypes, images.pixels, images.labels, shots)
    return wire.metrics(**{wire.SHARE: before, wire.ADAPTED: _share_right(client, model, images)})


@app.query("deliver")
@_answering
def deliver(client: Client, content: RecordDict) -> RecordDict:
    """Keep the final model, if this client has a place for it."""
    _permit(client, "deliver")
    if client.out is not None:
        asked = question.OfModel.of(content)
        model = _global_model(asked, content)
        prototypes = _prototypes(model, content) if wire.PROTOTYPES in content.array_records else None
        remove_prototypes(client.out)  # an older model's: killed at any moment, none are left beside another one
        save_model(model, client.out, asked.image_size)
        if prototypes:
            save_prototypes(prototypes, client.out)
    return wire.metrics(**{wire.KEPT: int(client.out is not None)})


def _share_right(client: Client, model: PreTrainedModel, images: TrainingData) -> float:
    """Of the held-out images; where noise hides how many images there are, to a hundredth."""
    share = count_right(model, images, images.held_out) / len(images.held_out)
    return round(share, 2) if client.is_private else share


def _prototypes(model: PreTrainedModel, content: RecordDict) -> Prototypes:
    with question.reading():
        return checked_prototypes(question.arrays(content, wire.PROTOTYPES), model, "the final model")


def _permit(client: Client, what: str) -> None:
    """Refuse what the client's configuration does not name."""
    if what not in client.answers:
        raise question.QuestionError(
            f"this client does not answer {what}, only {', '.join(sorted(client.answers))}",
            f'add answers="{what}" to its node configuration, if it shall',
        )


def _made(client: Client, asked: question.ForPrompts, content: RecordDict, state: Path) -> Payload:
    if asked.prompt_level == "learned":
        learning = question.ToLearn.of(content)
        shown = client.training_images(learning.class_names, learning.validation_share)
        return learn(shown, client.name, client.model, state, learning.learn, domain=client.domain).payload
    if asked.prompt_level == "routed":
        return _routed(client, question.ToRoute.of(content), state)
    return embed(
        client.dataset.named(asked.class_names),
        client.name,
        client.model,
        asked.prompt_level,
        captions=client.captions,
        domain=client.domain,
        budget=client.budget,
    )


def _routed(client: Client, asked: question.ToRoute, state: Path) -> Payload:
    """Routing by the adapters that the server sent."""
    inventory = state.with_name("inventory.safetensors")
    inventory.write_bytes(asked.inventory)
    shown, how = client.training_images(asked.class_names, asked.validation_share), asked.route
    try:
        return route(shown, client.name, client.model, inventory, state, how, client.domain, client.budget).payload
    except BadInputError as error:
        if str(inventory) not in error.message:
            raise
        words = error.message.replace(str(inventory), "the server's adapters")  # whose file has no place that is known
        raise question.QuestionError(words, error.hint) from error


def _sent(payload: bytes) -> RecordDict:
    return RecordDict({wire.CONFIG: ConfigRecord({wire.FILE: payload})})


def _global_model(asked: question.OfModel, content: RecordDict) -> PreTrainedModel:
    with question.reading():
        return placed(model_of(asked.model, question.arrays(content, wire.ARRAYS)))


def _images(client: Client, asked: question.OfModel) -> TrainingData:
    return client.images(asked.class_names, asked.image_size, asked.validation_share)

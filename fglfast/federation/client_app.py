"""The client: a Flower ClientApp that answers with its payload, trains, judges and keeps the final model.

Nothing in a message chooses what it reads, where it writes or what it answers: that is in its own node configuration
(clients.py). What it does not answer, or cannot, it says in a reply of one line.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from transformers import PreTrainedModel

from fglfast.base.console import note
from fglfast.base.errors import BadInputError, FglError
from fglfast.client.embed import embed
from fglfast.client.learn import learn
from fglfast.client.route import route
from fglfast.client.settings import LearnSettings, RouteSettings
from fglfast.federation import wire
from fglfast.federation.clients import Client, open_client
from fglfast.federation.experiment import LocalSettings
from fglfast.federation.local import train_locally
from fglfast.federation.moments import moments_of
from fglfast.images.decoding import MOST_SIDE
from fglfast.payload import Payload, save_payload
from fglfast.training.adapt import adapt_model, draw_shots
from fglfast.training.batches import TrainingData
from fglfast.training.model import model_of, save_model
from fglfast.training.predict import count_right, placed
from fglfast.training.prototypes import Prototypes, checked_prototypes, save_prototypes
from fglfast.training.settings import AdaptSettings

SEEDS = 1_000_003
Answer = Callable[[Client, dict[str, Any], RecordDict], RecordDict]

app = ClientApp()


@app.query("payload")
def payload(message: Message, context: Context) -> Message:
    """Prompt embeddings of the client's images, as the bytes of a payload file."""
    return _answer(message, context, _payload)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Local epochs from the global weights."""
    return _answer(message, context, _train)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """The global weights on the client's held-out images."""
    return _answer(message, context, _evaluate)


@app.query("moments")
def moments(message: Message, context: Context) -> Message:
    """Statistics of the features that the global network makes of the client's images."""
    return _answer(message, context, _moments)


@app.query("adapt")
def adapt(message: Message, context: Context) -> Message:
    """The final model on the client's held-out images, as it is and adapted to the others."""
    return _answer(message, context, _adapt)


@app.query("deliver")
def deliver(message: Message, context: Context) -> Message:
    """Keep the final model, if this client has a place for it."""
    return _answer(message, context, _deliver)


@app.query("refused")
def refused(message: Message, context: Context) -> Message:
    """Say why the server does not take this client."""
    note(f"the server does not take this client: {wire.one_line(_asked(message.content).get(wire.REFUSED, ''))}")
    return Message(RecordDict(), reply_to=message)


def _answer(message: Message, context: Context, answer: Answer) -> Message:
    """What the client's own configuration lets it say, or one line on why it says nothing."""
    try:
        client, asked = open_client(context), _asked(message.content)
        content = answer(client, asked, message.content)
    except FglError as error:
        note(f"not answered: {error.message}")
        content = RecordDict({wire.CONFIG: ConfigRecord({wire.REFUSED: wire.one_line(error.message)})})
    return Message(content, reply_to=message)


def _payload(client: Client, asked: dict[str, Any], content: RecordDict) -> RecordDict:
    if client.payload is not None:  # asked twice, noise would be drawn twice, and two of it tell more than one
        return _sent(client.payload.read_bytes())
    _permit(client, f"payload:{asked['prompt-level']}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "payload.safetensors"
        save_payload(_made(client, asked, Path(folder) / "learning"), path, client.signer)
        return _sent(path.read_bytes())


def _train(client: Client, asked: dict[str, Any], content: RecordDict) -> RecordDict:
    _permit(client, "train")
    settings = LocalSettings.model_validate_json(asked["local"])
    model, images = _global_model(asked, content), _images(client, asked)
    first = asked["server-round"]
    for number in range(first, first + asked.get("rounds", 1)):  # several, where the upload is the only one
        seed = (asked["seed"] * SEEDS + number) * SEEDS + client.number
        train_locally(model, images, settings, seed, asked["proximal-mu"], number)
    return RecordDict({wire.ARRAYS: wire.weights_record(model.state_dict())})


def _evaluate(client: Client, asked: dict[str, Any], content: RecordDict) -> RecordDict:
    _permit(client, "evaluate")
    model, images = _global_model(asked, content), _images(client, asked)
    if not len(images.held_out):
        return wire.metrics()
    return wire.metrics(**{wire.SHARE: _share_right(client, model, images)})


def _moments(client: Client, asked: dict[str, Any], content: RecordDict) -> RecordDict:
    _permit(client, "moments")
    found = moments_of(_global_model(asked, content), _images(client, asked))
    return RecordDict({wire.ARRAYS: wire.weights_record(found)})


def _adapt(client: Client, asked: dict[str, Any], content: RecordDict) -> RecordDict:
    _permit(client, "evaluate")  # it says no more than that, twice
    settings = AdaptSettings.model_validate_json(asked["adapt"])
    model, images = _global_model(asked, content), _images(client, asked)
    if not len(images.held_out) or not len(images.train):
        return wire.metrics()
    before = _share_right(client, model, images)
    shots = draw_shots(images.labels.numpy(), images.train, len(asked["class-names"]), settings)
    adapt_model(model, _prototypes(model, content), images.pixels, images.labels, shots)
    return wire.metrics(**{wire.SHARE: before, wire.ADAPTED: _share_right(client, model, images)})


def _deliver(client: Client, asked: dict[str, Any], content: RecordDict) -> RecordDict:
    _permit(client, "deliver")
    if client.out is not None:
        model = _global_model(asked, content)
        if wire.PROTOTYPES in content.array_records:
            save_prototypes(_prototypes(model, content), client.out)
        save_model(model, client.out, asked["image-size"])
    return wire.metrics(**{wire.KEPT: int(client.out is not None)})


def _share_right(client: Client, model: PreTrainedModel, images: TrainingData) -> float:
    """Of the held-out images; where noise hides how many images there are, to a hundredth."""
    share = count_right(model, images, images.held_out) / len(images.held_out)
    return round(share, 2) if client.is_private else share


def _prototypes(model: PreTrainedModel, content: RecordDict) -> Prototypes:
    return checked_prototypes(wire.weights(content.array_records[wire.PROTOTYPES]), model, "the final model")


def _permit(client: Client, what: str) -> None:
    """Refuse what the client's configuration does not name."""
    if what not in client.answers:
        raise BadInputError(
            f"this client does not answer {what}, only {', '.join(sorted(client.answers))}",
            f'add answers="{what}" to its node configuration, if it shall',
        )


def _made(client: Client, asked: dict[str, Any], state: Path) -> Payload:
    level, class_names = asked["prompt-level"], tuple(asked["class-names"])
    if level == "learned":
        settings = LearnSettings.model_validate_json(asked["learn"])
        shown = client.training_images(class_names, asked["validation-share"])
        return learn(shown, client.name, client.model, state, settings, domain=client.domain).payload
    if level == "routed":
        return _routed(client, asked, state)
    return embed(
        client.dataset.named(class_names),
        client.name,
        client.model,
        level,
        captions=client.captions,
        domain=client.domain,
        budget=client.budget,
    )


def _routed(client: Client, asked: dict[str, Any], state: Path) -> Payload:
    """Routing by the adapters that the server sent."""
    inventory = state.with_name("inventory.safetensors")
    inventory.write_bytes(asked["inventory"])
    settings = RouteSettings.model_validate_json(asked["route"])
    shown = client.training_images(tuple(asked["class-names"]), asked["validation-share"])
    try:
        return route(shown, client.name, client.model, inventory, state, settings, client.domain, client.budget).payload
    except BadInputError as error:  # whose file has no place that anybody knows
        raise BadInputError(error.message.replace(str(inventory), "the server's adapters"), error.hint) from error


def _sent(payload: bytes) -> RecordDict:
    return RecordDict({wire.CONFIG: ConfigRecord({wire.FILE: payload})})


def _asked(content: RecordDict) -> dict[str, Any]:
    return dict(content.config_records[wire.CONFIG])


def _global_model(asked: dict[str, Any], content: RecordDict) -> PreTrainedModel:
    return placed(model_of(asked["model"], wire.weights(content.array_records[wire.ARRAYS])))


def _images(client: Client, asked: dict[str, Any]) -> TrainingData:
    if not 1 <= asked["image-size"] <= MOST_SIDE:
        raise BadInputError(f"the server asks for images of {asked['image-size']} pixels", "ask who runs it")
    return client.images(tuple(asked["class-names"]), asked["image-size"], asked["validation-share"])

"""The client: a Flower ClientApp that answers with its payload, trains, judges and keeps the final model.

Nothing in a message chooses what it reads or where it writes: that is in its own node configuration (clients.py).
"""

import tempfile
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from transformers import PreTrainedModel

from fglfast.base.errors import BadInputError
from fglfast.client.embed import embed
from fglfast.client.learn import LearnSettings, learn
from fglfast.federation import wire
from fglfast.federation.clients import Client, open_client
from fglfast.federation.experiment import LocalSettings
from fglfast.federation.local import train_locally
from fglfast.images.decoding import MOST_SIDE
from fglfast.payload import Payload, save_payload
from fglfast.training.batches import TrainingData
from fglfast.training.model import model_of, save_model
from fglfast.training.predict import count_right

SEEDS = 1_000_003

app = ClientApp()


@app.query("payload")
def payload(message: Message, context: Context) -> Message:
    """Prompt embeddings of the client's images, as the bytes of a payload file."""
    client, asked = open_client(context), _asked(message)
    if client.payload is not None:  # asked twice, noise would be drawn twice, and two of it tell more than one
        return _sent(client.payload.read_bytes(), message)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "payload.safetensors"
        save_payload(_made(client, asked, Path(folder) / "learning"), path, client.signer)
        return _sent(path.read_bytes(), message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Local epochs from the global weights."""
    client, asked = open_client(context), _asked(message)
    settings = LocalSettings.model_validate_json(asked["local"])
    model, images = _global_model(message), _images(client, asked)
    seed = (asked["seed"] * SEEDS + asked["server-round"]) * SEEDS + client.number
    loss = train_locally(model, images, settings, seed, asked["proximal-mu"])
    metrics = MetricRecord({wire.EXAMPLES: len(images.train), wire.LOSS: loss})
    content = RecordDict({wire.ARRAYS: wire.weights_record(model.state_dict()), wire.METRICS: metrics})
    return Message(content, reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """The global weights on the client's held-out images."""
    client, asked = open_client(context), _asked(message)
    model, images = _global_model(message), _images(client, asked)
    right = count_right(model, images, images.held_out)
    metrics = MetricRecord({wire.EXAMPLES: len(images.held_out), wire.RIGHT: right})
    return Message(RecordDict({wire.METRICS: metrics}), reply_to=message)


@app.query("deliver")
def deliver(message: Message, context: Context) -> Message:
    """Keep the final model, if this client has a place for it."""
    client, asked = open_client(context), _asked(message)
    if client.out is not None:
        save_model(_global_model(message), client.out, asked["image-size"])
    metrics = MetricRecord({wire.EXAMPLES: len(client.dataset), wire.KEPT: int(client.out is not None)})
    return Message(RecordDict({wire.METRICS: metrics}), reply_to=message)


def _made(client: Client, asked: dict[str, Any], state: Path) -> Payload:
    level, class_names = asked["prompt-level"], tuple(asked["class-names"])
    if level == "learned":
        settings = LearnSettings.model_validate_json(asked["learn"])
        shown = client.training_images(class_names, asked["validation-share"])
        return learn(shown, client.name, client.model, state, settings, domain=client.domain).payload
    return embed(
        client.dataset.named(class_names),
        client.name,
        client.model,
        level,
        captions=client.captions,
        domain=client.domain,
        budget=client.budget,
    )


def _sent(payload: bytes, message: Message) -> Message:
    return Message(RecordDict({wire.CONFIG: ConfigRecord({wire.FILE: payload})}), reply_to=message)


def _asked(message: Message) -> dict[str, Any]:
    return dict(message.content.config_records[wire.CONFIG])


def _global_model(message: Message) -> PreTrainedModel:
    return model_of(_asked(message)["model"], wire.weights(message.content.array_records[wire.ARRAYS]))


def _images(client: Client, asked: dict[str, Any]) -> TrainingData:
    if not 1 <= asked["image-size"] <= MOST_SIDE:
        raise BadInputError(f"the server asks for images of {asked['image-size']} pixels", "ask who runs it")
    return client.images(tuple(asked["class-names"]), asked["image-size"], asked["validation-share"])

"""Clients that answer by rule, at once: what they train and say needs no images."""

import torch
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fglfast.federation import client_app, wire
from fglfast.federation.grid import CountedGrid
from fglfast.federation.loopback import SERVER_NODE, LoopbackGrid
from fglfast.federation.members import Member

GOOD, CHANCE = 0.9, 0.34


def small_steps(number, weights):
    """Weights moved a little, as training does: each client in a direction of its own, and all a bit in one."""
    draw, common = (torch.Generator().manual_seed(seed) for seed in (number, 1000))
    moved = {}
    for name, tensor in weights.items():
        own, alike = (torch.randn(tensor.shape, generator=each) for each in (draw, common))
        step = 0.01 * (0.8 * own + 0.6 * alike) if tensor.is_floating_point() else 1
        moved[name] = (tensor + step).abs() if name.endswith("running_var") else tensor + step
    return moved


def near(start, most=3.0):
    """Judges weights by how far they are from where they began."""

    def share(number, weights):
        learned = [name for name, tensor in start.items() if tensor.is_floating_point()]
        gone = sum((weights[name].double() - start[name].double()).square().sum() for name in learned)
        return GOOD if gone.sqrt() < most else CHANCE

    return share


def playing_app(train=small_steps, judge=lambda number, weights: GOOD, asked=None):
    """`train` and `judge` are given a client's number and the weights."""
    app = ClientApp()

    def told(message, context):
        if asked is not None:
            asked.append((context.node_config["partition-id"], dict(message.content.config_records[wire.CONFIG])))
        return context.node_config["partition-id"], wire.weights(message.content.array_records[wire.ARRAYS])

    @app.train()
    def training(message, context):
        weights = train(*told(message, context))
        return Message(RecordDict({wire.ARRAYS: wire.weights_record(weights)}), reply_to=message)

    @app.evaluate()
    def judging(message, context):
        number = context.node_config["partition-id"]
        share = judge(number, wire.weights(message.content.array_records[wire.ARRAYS]))
        content = wire.metrics() if share is None else wire.metrics(**{wire.SHARE: float(share)})
        return Message(content, reply_to=message)

    @app.query("deliver")
    def delivery(message, context):
        told(message, context)
        return Message(wire.metrics(**{wire.KEPT: 1}), reply_to=message)

    return app


def grid_of(app, count, least=2):
    return CountedGrid(LoopbackGrid(app, list(range(count)), {}), timeout=10, least=least)


def grid_of_node(node, run=None):
    """One client of the real app, by its node's configuration."""
    grid = LoopbackGrid(client_app.app, [0], {})
    grid.contexts = {SERVER_NODE + 1: Context(1, SERVER_NODE + 1, node, RecordDict(), run or {})}
    return CountedGrid(grid, timeout=10, least=1)


def members_of(images):
    """Members by the images that each claims."""
    return tuple(
        Member(name=f"client{number:03d}", node=SERVER_NODE + 1 + number, images=claimed)
        for number, claimed in enumerate(images)
    )

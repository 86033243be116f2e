"""The clients' weights made one, by Flower's strategies: averages, server optimisers, robust ones.

A server optimiser moves parameters; batch statistics are no parameters, a step along their change means nothing, so
they are averaged. Robust strategies take the median of those.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower
from torch import Tensor, from_numpy

from fglfast.federation import wire
from fglfast.federation.aggregation import Aggregation
from fglfast.federation.wire import Weights

EXAMPLES = "num-examples"  # Flower's name of what weighs a reply
ROBUST = ("trimmed-mean", "median", "krum", "multi-krum")
Update = tuple[Weights, int]  # a client's weights, and the images that it counts by


class Aggregator:
    """One strategy and, of a server optimiser, its state; what is none of the parameters is averaged, or the median."""

    def __init__(self, settings: Aggregation, parameters: Sequence[str]) -> None:
        self.settings, self.parameters = settings, frozenset(parameters)
        self.strategy = _strategy(settings)
        self.others = flower.FedMedian() if settings.strategy in ROBUST else flower.FedAvg()

    def __call__(self, number: int, before: Weights, updates: Sequence[Update]) -> Weights:
        """The global weights after a round of at least one update; whole numbers, as batch norms count, stay whole."""
        moved = sorted(self.parameters)  # weights read from a file are in another order
        rest = sorted(set(before) - self.parameters)
        self._tell(number, {name: before[name] for name in moved})
        if self.settings.strategy in ROBUST:
            found = self._robust(number, before, [(own, 1) for own, _ in updates], moved)
            found |= _aggregated(self.others, number, updates, rest)
        else:
            found = _aggregated(self.strategy, number, updates, moved) | _aggregated(self.others, number, updates, rest)
        return {name: found[name].to(tensor.dtype).reshape(tensor.shape) for name, tensor in before.items()}

    def _robust(self, number: int, before: Weights, updates: Sequence[Update], names: Sequence[str]) -> Weights:
        """Of the clients' steps, not weights: of these Flower finds distances by a difference that rounding swallows.

        At least one client is cut at either end, where there are three: Flower's share of four at 0.2 is none.
        """
        if isinstance(self.strategy, flower.FedTrimmedAvg) and self.settings.trim and len(updates) > 2:
            self.strategy.beta = max(self.settings.trim, (1 + 1e-9) / len(updates))
        start = {name: before[name].double() for name in names}
        steps = [({name: own[name].double() - start[name] for name in names}, images) for own, images in updates]
        found = _aggregated(self.strategy, number, steps, names)
        return {name: found[name].reshape(start[name].shape) + start[name] for name in names}

    def plain(self, before: Weights, updates: Sequence[Update]) -> Weights:
        """What a fresh strategy without a server optimiser makes of some updates: to find out what is wrong."""
        robust = self.settings.strategy if self.settings.strategy in ROBUST else "fedavg"
        settings = self.settings.model_copy(update={"strategy": robust})
        return Aggregator(settings, tuple(self.parameters))(1, before, updates)

    def moments(self) -> Weights:
        """What a server optimiser remembers, by name; empty where there is nothing."""
        kept: Any = self.strategy
        if isinstance(kept, flower.FedAvgM):
            found = {f"{place:06d}": value for place, value in enumerate(kept.momentum_vector or ())}
        else:
            parts = {part: getattr(kept, part, None) or {} for part in ("m_t", "v_t")}
            found = {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}
        return {name: from_numpy(np.array(value)) for name, value in found.items()}

    def put(self, moments: Weights) -> None:
        """Go on with what `moments` gave."""
        kept: Any = self.strategy
        if isinstance(kept, flower.FedAvgM):
            kept.momentum_vector = [moments[name].numpy() for name in sorted(moments)] or None
        elif hasattr(kept, "m_t"):
            for part in ("m_t", "v_t"):
                own = {name: tensor.numpy() for name, tensor in moments.items() if name.startswith(f"{part}.")}
                setattr(kept, part, {name.removeprefix(f"{part}."): value for name, value in own.items()} or None)

    def _tell(self, number: int, before: Weights) -> None:
        """What Flower's optimisers note when they send a round's messages, which here the grid sends."""
        kept: Any = self.strategy
        if isinstance(kept, flower.FedAvgM):
            kept.current_arrays = wire.weights_record(before)
        elif hasattr(kept, "current_arrays"):
            kept.current_arrays = {name: tensor.detach().cpu().numpy() for name, tensor in before.items()}


def _strategy(asked: Aggregation) -> flower.FedAvg:
    rate = asked.rate or (1.0 if asked.strategy == "fedavgm" else 0.1)
    adaptive: dict[str, Any] = {"eta": rate, "beta_1": asked.momentum, "tau": asked.tau}
    match asked.strategy:
        case "fedavg":
            return flower.FedAvg()
        case "fedavgm":
            return flower.FedAvgM(server_learning_rate=rate, server_momentum=asked.momentum)
        case "fedadagrad":
            return flower.FedAdagrad(eta=rate, tau=asked.tau)
        case "fedadam":
            return flower.FedAdam(**adaptive, beta_2=asked.second)
        case "fedyogi":
            return flower.FedYogi(**adaptive, beta_2=asked.second)
        case "trimmed-mean":
            return flower.FedTrimmedAvg(beta=asked.trim)
        case "median":
            return flower.FedMedian()
        case "krum":
            return flower.Krum(num_malicious_nodes=asked.hostile)
        case "multi-krum":
            return flower.MultiKrum(num_malicious_nodes=asked.hostile, num_nodes_to_select=2)


def _aggregated(
    strategy: flower.FedAvg, number: int, updates: Sequence[Update], names: Sequence[str]
) -> dict[str, Tensor]:
    """Some of the weights by a strategy, which sees what the server wrote and not what the clients did."""
    if not names:
        return {}
    arrays, _ = strategy.aggregate_train(number, [_reply(weights, images, names) for weights, images in updates])
    assert arrays is not None, "there is an update"
    return {name: from_numpy(np.asarray(array.numpy())) for name, array in arrays.items()}


def _reply(weights: Weights, images: int, names: Sequence[str]) -> Message:
    arrays = ArrayRecord({name: Array(weights[name].detach().cpu().numpy()) for name in names})
    content = RecordDict({wire.ARRAYS: arrays, wire.METRICS: MetricRecord({EXAMPLES: images})})
    return Message(content, dst_node_id=1, message_type=wire.TRAIN)

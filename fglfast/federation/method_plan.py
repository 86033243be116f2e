"""What a federated method does in its rounds."""

from collections.abc import Callable
from dataclasses import dataclass

from fglfast.federation.wire import Weights


@dataclass(frozen=True)
class MethodPlan:
    """What distinguishes one federated method from another.

    Attributes:
        name: of the method.
        rounds: how many.
        proximal_mu: FedProx's; 0 for FedAvg.
        fine_tune: what the server does with the average before it is sent again.
        asks: whether clients train; if not, what the server does is all that a round is.
    """

    name: str
    rounds: int
    proximal_mu: float = 0.0
    fine_tune: Callable[[Weights, int], Weights] | None = None
    asks: bool = True

"""What a server makes of its clients' weights: the names of Flower's strategies, and their settings."""

from typing import Literal

from pydantic import Field, model_validator

from fglfast.base.config import Settings

Strategy = Literal[
    "fedavg", "fedavgm", "fedadagrad", "fedadam", "fedyogi", "trimmed-mean", "median", "krum", "multi-krum"
]
OPTIMISERS, KRUM = ("fedavgm", "fedadagrad", "fedadam", "fedyogi"), ("krum", "multi-krum")


class Aggregation(Settings):
    """What the server makes of the clients' weights, by Flower's strategies; optimisers' defaults are Flower's.

    Attributes:
        strategy: `fedavg` (McMahan et al., arXiv 1602.05629); with a server optimiser `fedavgm` (Hsu et al.,
            1909.06335), `fedadagrad`, `fedadam`, `fedyogi` (Reddi et al., 2003.00295); robust ones `trimmed-mean`,
            `median` (Yin et al., 1803.01498), `krum`, `multi-krum` (Blanchard et al., 1703.02757), which count no
            images.
        rate: of a server optimiser, and of nothing else; None is Flower's, 1 for `fedavgm` and 0.1 for the others.
        momentum: of `fedavgm`; the first moment's of the others.
        second: the second moment's, of `fedadam` and `fedyogi`.
        tau: how adaptive those three are.
        trim: share that `trimmed-mean` cuts off at either end; of three clients and more at least one.
        hostile: clients that `krum` and `multi-krum` expect to be hostile; fewer than half of a round's, less 1.
        guard: whether an average is judged before it is kept, and clients that ruin one are left out. None: in a
            federation it is; in a comparison, whose simulated clients are honest, FedAvg is plain FedAvg.
    """

    strategy: Strategy = "fedavg"
    rate: float | None = Field(None, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    second: float = Field(0.99, ge=0, lt=1)
    tau: float = Field(1e-3, gt=0)
    trim: float = Field(0.2, ge=0, lt=0.5)
    hostile: int = Field(1, ge=0)
    guard: bool | None = None

    @model_validator(mode="after")
    def _has_rate(self) -> "Aggregation":
        if self.rate is not None and self.strategy not in OPTIMISERS:
            raise ValueError(f"rate: {self.strategy} has no server optimiser; choose of {', '.join(OPTIMISERS)}")
        return self

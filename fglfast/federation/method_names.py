"""The methods that an experiment compares: what they are called, and which of them need whom."""

from typing import Literal, get_args

Method = Literal[
    "public-only",
    "server-only",
    "fgl",
    "fgl-longer",
    "fgl-rounds",
    "fgl-rounds-finetune",
    "fedavg",
    "fedprox",
    "fedcgs",
    "ensemble",
    "dense",
    "centralized",
    "local",
]
METHODS: tuple[Method, ...] = get_args(Method)
ALONE = METHODS[:2]  # what the server reaches without any client
FEDERATED = METHODS[2:11]  # those that a real federation can run
TRAINED: tuple[Method, ...] = (  # those whose clients train, each at a rate of its own if it has one
    "fgl-rounds",
    "fgl-rounds-finetune",
    "fedavg",
    "fedprox",
    "ensemble",
    "centralized",
    "local",
)
TITLES: dict[Method, str] = {
    "public-only": "public only",
    "server-only": "server only",
    "fgl": "one-shot FGL",
    "fgl-longer": "FGL, trained longer",
    "fgl-rounds": "FGL rounds",
    "fgl-rounds-finetune": "FGL rounds, fine-tuned",
    "fedavg": "FedAvg",
    "fedprox": "FedProx",
    "fedcgs": "FedCGS",
    "ensemble": "ensemble of local models",
    "dense": "DENSE",
    "centralized": "centralized",
    "local": "each client alone",
}

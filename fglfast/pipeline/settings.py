"""What a one-shot run is asked for: the one place of its defaults. Knows no torch."""

from typing import Literal

from pydantic import Field

from fglfast.base.config import Seed, Settings
from fglfast.engine.choices import PrecisionName
from fglfast.training.settings import TrainSettings

PILOT_IMAGES = 100  # of a class, that pilots learn from
# For a few thousand images of this size seen a few times: a small network, small batches, little augmentation
# (benchmarks/RESULTS.md, "The demo's training").
TRAIN = TrainSettings(
    arch="resnet10-narrow", epochs=14, batch_size=64, learning_rate=4e-3, image_size=64, crop_padding=2, erasing=0.0
)


class OneShot(Settings):
    """What a server does with its clients' prompts.

    Attributes:
        recipe: the generator's recipe: the name of a shipped one, or a .toml file.
        precision: of the generator's weights and arithmetic, instead of the recipe's.
        drawn_size: side in pixels of the images that are drawn, instead of the recipe's.
        images_per_class: synthetic images of each class.
        max_share_per_client: of those, where several clients hold the class; 1 takes their counts as they are; see
            `fglfast.payload.claims` for those that are asked for by name.
        allow_same_prompt: whether classes may send the same prompt, and be drawn alike but for their label.
        train: the training on synthetic images.
    """

    recipe: str = "mini-few"
    precision: PrecisionName | None = None
    drawn_size: int | None = Field(None, ge=8, le=4096)
    images_per_class: int = Field(300, ge=1)
    max_share_per_client: float = Field(1.0, gt=0, le=1)
    allow_same_prompt: bool = False
    train: TrainSettings = TRAIN


class Demo(OneShot):
    """Settings of a demonstration: a one shot, and the clients that it comes from.

    Attributes:
        private: images that are dealt out to the clients, PATH[:SPLIT].
        test: real images that the global model is tested on, PATH[:SPLIT].
        clients: how many clients are simulated.
        beta: Dirichlet concentration: the smaller, the more the clients' classes differ.
        prompt_level: of the clients' prompts.
        seed: of the clients' shares, of synthesis and of training.
    """

    private: str = "fashion:private"
    test: str = "fashion:test"
    clients: int = Field(5, ge=1)
    beta: float = Field(0.01, ge=1e-4)
    prompt_level: Literal["class", "instance"] = "class"
    seed: Seed = 0

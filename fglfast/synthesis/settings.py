"""What a user decides of a data set, and the plan that follows from it."""

from pathlib import Path
from typing import Self

from pydantic import Field

from fglfast.base.config import Seed, Settings
from fglfast.payload.merge import Merged
from fglfast.sampler.guide import Guide
from fglfast.sampler.schedule import Sampling
from fglfast.shards.tar import ImageFormat
from fglfast.synthesis.plan import Plan, make_plan


class SynthesisSettings(Settings):
    """What decides the images, besides engine and payloads.

    Attributes:
        images_per_class: images of every class that a client sent a row of.
        seed: plan seed.
        shard_size: images a shard.
        image_format: encoding.
        sampling: solver, steps and guidance.
        max_share_per_client: of the images of a class that several clients hold; 1 takes the clients' counts as they
            are, the only choice that leaves every honest federation alone: with a Dirichlet beta of 0.01 one client
            rightly has all but an image or two of a class that others hold too. A claim that no honest client makes is
            asked for by name before a plan is made; see `fglfast.payload.claims`.
        judge: fingerprint of the model whose score of each image is written beside it.
        generator: what its folder says of drawing; None where that is not known, as in earlier data sets.
    """

    images_per_class: int = Field(default=500, ge=1, le=10_000_000)
    seed: Seed = 0
    shard_size: int = Field(default=512, ge=1, le=100_000)
    image_format: ImageFormat = "png"
    sampling: Sampling = Sampling()
    max_share_per_client: float = Field(default=1.0, gt=0, le=1)
    judge: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    generator: Guide | None = None

    def drawn_with(self, model: Path) -> Self:
        """The same, of the generator in a folder.

        Raises:
            BadInputError: one of its configs cannot be used.
        """
        return self.model_copy(update={"generator": Guide.of(model, self.sampling)})


def plan_of(weights: str, image_size: int, merged: Merged, settings: SynthesisSettings) -> Plan:
    """The plan of a data set by any engine of some weights and image size."""
    return make_plan(
        merged,
        settings.images_per_class,
        settings.seed,
        settings.shard_size,
        facts_of(weights, image_size, settings),
        settings.max_share_per_client,
    )


def facts_of(weights: str, image_size: int, settings: SynthesisSettings) -> dict[str, object]:
    """What decides the images of an identity."""
    return {
        "weights": weights,
        "image_size": image_size,
        "image_format": settings.image_format,
        "sampling": settings.sampling.model_dump(mode="json", exclude_none=True),
        **settings.model_dump(mode="json", include={"judge", "generator"}, exclude_none=True),
    }

"""What a measurement found, frozen and ready for JSON.

Throughout, `share` is the rate of the counted operations over that of the ceiling in the precision that computed them.
"""

from fglfast.base.config import Settings
from fglfast.base.timing import Figure, Timing
from fglfast.sampler.schedule import Sampling


class Ceiling(Settings):
    """The most multiply-adds a second in a precision that anything here reached, the engines themselves included.

    Attributes:
        precision: of the factors.
        threads: threads of PyTorch on a CPU.
        by: what reached it.
        tflops: TFLOP/s, of eight-bit integers TOP/s.
        by_the_book: what the processor's own description comes to; None where it says too little, or on a GPU.
        timing: of one round of it.
    """

    precision: str
    threads: int
    by: str
    tflops: Figure
    by_the_book: Figure | None
    timing: Timing


class Operations(Settings):
    """Floating-point operations of the float32 model, as torch counts them: a multiply-add is two.

    Attributes:
        unet: one row of one UNet pass.
        decoder: one latent decoded.
        image: one image: all its UNet rows and the decoder.
    """

    unet: int
    decoder: int
    image: int


class Rate(Settings):
    """How fast a part of an engine runs at the engine's own batch.

    Attributes:
        rows: rows of one round: latents of a pass, images of an end-to-end round.
        per_second: rows a second.
        tflops: TFLOP/s.
        share: of the ceiling.
        timing: of one round.
    """

    rows: int
    per_second: Figure
    tflops: Figure
    share: Figure
    timing: Timing


class EndToEnd(Rate):
    """From payload rows to written shards; `network_share` of the time is spent inside UNet and VAE."""

    network_share: Figure


class EngineBench(Settings):
    """One engine.

    Attributes:
        name: backend, and the precision if it is not float32.
        key: the engine's key.
        ceiling: precision of the ceiling that shares refer to.
        unet: one UNet pass.
        decoder: one pass of the VAE decoder.
        end_to_end: `synthesize` into an empty folder; None if it was left out.
    """

    name: str
    key: str
    ceiling: str
    unet: Rate
    decoder: Rate
    end_to_end: EndToEnd | None


class EncodeRate(Settings):
    """Encoding and writing shards, without a generator.

    Attributes:
        image_format: png or webp.
        side: of an image, in pixels.
        threads: encoding threads.
        images_per_second: images encoded, written and synced.
        bytes_per_image: their mean size.
        timing: of one round.
    """

    image_format: str
    side: int
    threads: int
    images_per_second: Figure
    bytes_per_image: int
    timing: Timing


class TrainingRate(Settings):
    """Steps of the global model's training: data, augmentation, forward, backward, optimiser.

    Attributes:
        arch: of the global model.
        side: of an image, in pixels.
        batch: images a step.
        precision: of products and convolutions.
        images_per_second: images trained on.
        tflops: TFLOP/s of forward and backward.
        share: of the ceiling in the precision that it trains in.
        timing: of one step.
    """

    arch: str
    side: int
    batch: int
    precision: str
    images_per_second: Figure
    tflops: Figure
    share: Figure
    timing: Timing


class BenchRecord(Settings):
    """Everything `fglfast bench` measured in one run.

    Attributes:
        model: the model folder's name.
        image_size: side in pixels.
        batch: images drawn together.
        sampling: how an image is sampled.
        machine: in words.
        versions: of the packages that decide a figure.
        ceilings: one for each precision that is held against it.
        operations: of the float32 model.
        engines: the engines, measured in turn.
        encode: encoding and writing.
        training: the global model's step; None if it was left out.
        peak_memory_bytes: of this process, all engines together; on a GPU, of the memory that torch holds there.
        left_out: what was not measured, and why.
    """

    model: str
    image_size: int
    batch: int
    sampling: Sampling
    machine: dict[str, str]
    versions: dict[str, str]
    ceilings: tuple[Ceiling, ...]
    operations: Operations
    engines: tuple[EngineBench, ...]
    encode: tuple[EncodeRate, ...]
    training: TrainingRate | None
    peak_memory_bytes: int
    left_out: tuple[str, ...]

    def ceiling(self, precision: str) -> Ceiling:
        """The ceiling of a precision."""
        return next(ceiling for ceiling in self.ceilings if ceiling.precision == precision)

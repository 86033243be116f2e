"""Build, cache and open engines: the engine of a recipe, of whatever blocks its model has."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from PIL import Image

from fglfast.base.console import note
from fglfast.engine import backends
from fglfast.engine.choice import choose, chosen_before
from fglfast.engine.finding import Source, find_or_make
from fglfast.engine.manifest import FILE, Key, Manifest, device_name
from fglfast.engine.networks import Networks, by_time
from fglfast.engine.passes import ROUNDS, seconds_of
from fglfast.engine.recipe import Build, Recipe
from fglfast.engine.sketch import sketch
from fglfast.generator.blocks import Blocks, load_blocks
from fglfast.generator.fingerprints import weights_fingerprint
from fglfast.generator.shapes import Shapes
from fglfast.generator.text_encoder import unknown_to_clients
from fglfast.sampler.schedule import Sampling, Schedule

SAMPLING = Sampling()


@dataclass(frozen=True)
class Engine:
    """A compiled engine, open and checked.

    Attributes:
        folder: where it lies; the folder's name is the key.
        manifest: what it was built from and how equal it is.
        networks: its four networks.
        model: the diffusers directory it came from.
        cached: whether it was found rather than built.
    """

    folder: Path
    manifest: Manifest
    networks: Networks
    model: Path
    cached: bool

    @property
    def key(self) -> str:
        """The engine's name."""
        return self.manifest.key.digest()

    @property
    def shapes(self) -> Shapes:
        """Sizes of latents and text."""
        return self.manifest.shapes

    @property
    def build(self) -> Build:
        """What it was built as."""
        return self.manifest.key.build

    def draw(
        self, prompts: str | Sequence[str], n: int = 1, sampling: Sampling = SAMPLING, seed: int = 0
    ) -> list[Image.Image]:
        """Draw images of prompts, for a look: what a data set is made of is drawn by `synthesize`.

        Args:
            prompts: as a client would write them; or one.
            n: images of each.
            sampling: solver, steps and guidance; a recipe has its own.
            seed: of the noise.

        Returns:
            `n` images of the first prompt, then of the next.
        """
        return sketch(self.networks, self.shapes, self.model, prompts, n, sampling, seed)


@dataclass
class LazyEngine:
    """An engine in a folder of them, opened when it is first needed, and shared by who draws and who judges."""

    recipe: Recipe
    engines: Path
    opener: Callable[[], Engine]

    @cached_property
    def engine(self) -> Engine:
        """The engine, open."""
        return self.opener()


def build_engine(recipe: Recipe, model: Path | str, engines: Path | str) -> Engine:
    """Open the engine of a recipe, building it first if it is not there.

    Args:
        recipe: what to build; of several backends and precisions that `pairs` names the fastest is kept. Its sampling
            is what the gate looks at; an engine that is there serves any other.
        model: the diffusers directory.
        engines: folder that holds engines by key.

    Raises:
        MissingExtraError: the backend is not installed.
        UsageError: it does not compute at that precision, or the solver does not fit the model.
        BadInputError: the model is of a kind that cannot be used, or the solver draws noise that cannot be given to it.
        FglError: the parity gate refused; nothing is left behind.
    """
    model, engines = Path(model), Path(engines)
    blocks = load_blocks(model)
    first, *later = blocks.folders(model)
    engine = build_block(recipe, first, engines)
    if not later:
        return engine
    same = recipe.as_built(engine.build)
    return _joined([engine, *(build_block(same, folder, engines) for folder in later)], blocks)


def is_built(recipe: Recipe, model: Path, engines: Path) -> bool:
    """Whether `build_engine` would find all that it opens, told without loading a network or compiling anything.

    That is the engine of each block, chosen before if it is "auto". The model's weights must be there.

    Raises:
        MissingExtraError: the backend is not installed.
        UsageError: it does not compute at that precision.
    """
    for block in load_blocks(model).folders(model):
        key = chosen_before(keys_of(recipe, block), engines)
        if key is None or not (engines / key.digest() / FILE).is_file():
            return False
        recipe = recipe.as_built(key.build)
    return True


def _joined(engines: list[Engine], blocks: Blocks) -> Engine:
    """The engines of the blocks of a model as one: in the place of the first, under a key of its own."""
    first, widths = engines[0], [engine.shapes.projected_width for engine in engines]
    weights = blocks.fingerprint([engine.manifest.key.weights for engine in engines])
    key = first.manifest.key.model_copy(update={"weights": weights})
    shapes = replace(first.shapes, projected_width=sum(widths))
    return replace(
        first,
        manifest=first.manifest.model_copy(update={"key": key, "shapes": shapes}),
        networks=by_time([engine.networks for engine in engines], widths, blocks.boundaries),
        cached=all(engine.cached for engine in engines),
    )


def build_block(recipe: Recipe, model: Path, engines: Path) -> Engine:
    """As `build_engine`, of one block alone: its own folder, or that of the whole model for the first."""
    Schedule.of_model(model, recipe.sampling)  # refused before anything is loaded
    for path, activation in unknown_to_clients(model).items():
        note(f"{path}: clients' text encoder knows no hidden_act {activation!r}: they have to embed with --send tokens")
    keys = keys_of(recipe, model)
    source = Source(model, recipe.image_size, recipe.sampling, engines)
    made = find_or_make(keys[0], source) if len(keys) == 1 else choose(keys, source)
    return Engine(made.folder, made.manifest, made.networks, model, made.cached)


def keys_of(recipe: Recipe, model: Path) -> list[Key]:
    """The keys of the engines of a model that may be built by a recipe: one, or all that "auto" measures."""
    weights = weights_fingerprint(model)
    return [_key(recipe, *pair, weights) for pair in backends.pairs(recipe.backend, recipe.precision)]


def seconds_per_pass(engine: Engine, rounds: int = ROUNDS) -> float:
    """Median seconds of one UNet pass at the engine's own batch, after one to warm up."""
    return seconds_of(engine.networks, engine.shapes, engine.build.unet_batch, rounds)


def _key(recipe: Recipe, backend_name: str, precision: str, weights: str) -> Key:
    backend = backends.find_backend(backend_name)
    versions = backends.versions(backend, precision)
    if backend.needs_export:
        versions["export"] = str(backend.route(precision))
    return Key(weights=weights, build=recipe.build(backend_name, precision), versions=versions, device=device_name())

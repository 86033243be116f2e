"""A recipe: which model, compiled how, sampled how."""

from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from fglfast.base.config import Settings, first_problem
from fglfast.base.errors import BadInputError, UsageError
from fglfast.engine.choices import BackendName, PrecisionName
from fglfast.generator.kinds import Need, embedded_guidance
from fglfast.generator.text import resolve_model
from fglfast.images.decoding import MOST_SIDE
from fglfast.sampler.schedule import Sampling


class Build(Settings):
    """What of a recipe is compiled in: the part of an engine's key that the user chose."""

    backend: str
    precision: str
    image_size: int
    unet_batch: int
    vae_batch: int


class Recipe(Settings):
    """What `engines/*.toml` holds.

    Attributes:
        model: `mini`, a diffusers directory, a checkpoint in one file, or a hub id.
        revision: of the hub id.
        mirror: a second hub id, tried when the first cannot be had.
        lora: an adapter that is added to the UNet's weights: a `.safetensors` file, its folder, or a hub id.
        lora_weight: what it is multiplied by.
        embedded_guidance: of a latent consistency model, whose UNet is told the guidance scale: 1 is none.
        family: the architecture that `--random-weights` draws.
        backend: who runs it; "auto" measures those installed, those that are known to be behind if all others fail.
        precision: of weights and arithmetic; "auto" is the device's own 16 bits if the backend has them, else float32.
        image_size: side in pixels.
        unet_batch: rows of one UNet pass.
        vae_batch: latents of one decoder pass.
        sampling: how it is sampled.
    """

    model: str = "mini"
    revision: str | None = None
    mirror: str | None = None
    lora: str | None = None
    lora_weight: float = Field(default=1.0, ge=-10, le=10)
    embedded_guidance: float = Field(default=8.5, ge=1, le=50)
    family: Literal["sd15", "sd21-base", "sdxl"] | None = None
    backend: BackendName = "auto"
    precision: PrecisionName = "auto"
    image_size: int = Field(ge=8, le=MOST_SIDE, multiple_of=8)
    unet_batch: int = Field(default=32, ge=2, le=4096)
    vae_batch: int = Field(default=16, ge=1, le=4096)
    sampling: Sampling = Sampling()

    def build(self, backend: str, precision: str) -> Build:
        """What a backend compiles of it, in a precision that is not "auto"."""
        sizes = self.model_dump(include=set(Build.model_fields) - {"backend", "precision"})
        return Build(backend=backend, precision=precision, **sizes)

    def of_model(self, model: str) -> "Recipe":
        """The same with another model, whose revision and mirror are its own."""
        return self.model_copy(update={"model": model, "revision": None, "mirror": None})

    def as_built(self, build: Build) -> "Recipe":
        """The same by the backend and in the precision of an engine, where its own may be "auto"."""
        return self.model_copy(update={"backend": build.backend, "precision": build.precision})

    def changed(self, **asked: Any) -> "Recipe":
        """The same with what is asked for, where that is not None.

        Raises:
            UsageError: a value is out of range.
        """
        changes = {key: value for key, value in asked.items() if value is not None}
        try:
            return Recipe.model_validate(self.model_dump() | changes)
        except ValidationError as error:
            raise UsageError(first_problem(error), "mend that value") from error

    def model_folder(self, need: Need = "all") -> Path:
        """Where the model is, fetched if need be, with its adapter if it has one.

        Args:
            need: see `resolve_model`; what changes the UNet alone is left out where that is.

        Raises:
            BadInputError: it cannot be had, or the adapter does not fit it.
        """
        folder = resolve_model(self.model, self.revision, self.mirror, need)
        if need == "all" and self.lora:
            from fglfast.generator.adapter import with_adapter

            folder = with_adapter(folder, self.lora, self.lora_weight)
        if need == "all" and embedded_guidance(folder):
            from fglfast.generator.guidance import with_guidance

            folder = with_guidance(folder, self.embedded_guidance)
        return folder


def find_recipe(name: str) -> Recipe:
    """Read a recipe by path, or by name from those that ship with the package.

    A model or an adapter that a file calls `./…` lies beside that file: they can be moved together.

    Raises:
        BadInputError: no such recipe, or its content is refused.
    """
    path = Path(name)
    if path.suffix == ".toml":
        recipe, here = Recipe.from_toml(path), path.parent.resolve()
        if recipe.lora and recipe.lora.startswith("./"):
            recipe = recipe.model_copy(update={"lora": str(here / recipe.lora)})
        return recipe.of_model(str(here / recipe.model)) if recipe.model.startswith("./") else recipe
    shipped = shipped_recipes()
    if name not in shipped:
        raise BadInputError(f"no recipe named {name!r}", f"shipped recipes: {', '.join(shipped)}; or give a .toml file")
    return Recipe.from_toml(shipped[name])


def shipped_recipes() -> dict[str, Path]:
    """Name and path of every shipped recipe: in the wheel, or in a checkout's `engines/`."""
    package = Path(str(files("fglfast")))
    for folder in (package / "assets" / "engines", package.parent / "engines"):
        if folder.is_dir():
            return {path.stem: path for path in sorted(folder.glob("*.toml"))}
    return {}

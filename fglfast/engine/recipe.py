"""A recipe: which model, compiled how, sampled how. Knows nothing of backends' insides."""

from importlib.resources import files
from pathlib import Path
from typing import Literal

from pydantic import Field

from fglfast.config import Settings
from fglfast.errors import BadInputError

BackendName = Literal["auto", "torch", "onnxruntime", "openvino", "tensorrt"]


class Sampling(Settings):
    """How latents are sampled; part of a synthesis plan, not of an engine's key."""

    steps: int = Field(default=25, ge=1, le=1000)
    guidance_scale: float = Field(default=2.0, ge=0.0, le=50.0)


class Recipe(Settings):
    """What `engines/*.toml` holds."""

    model: str = "mini"
    revision: str | None = None
    mirror: str | None = None
    backend: BackendName = "auto"
    precision: Literal["float32"] = "float32"
    image_size: int = Field(ge=8, le=4096, multiple_of=8)
    unet_batch: int = Field(default=32, ge=2, le=4096, description="rows of one UNet pass; guidance takes two an image")
    vae_batch: int = Field(default=16, ge=1, le=4096)
    sampling: Sampling = Sampling()


def find_recipe(name: str) -> Recipe:
    """Read a recipe by path, or by name from those that ship with the package.

    Raises:
        BadInputError: no such recipe, or its content is refused.
    """
    path = Path(name)
    if path.suffix == ".toml":
        return Recipe.from_toml(path)
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

"""A diffusers directory as files: find it, its prompts, its text side's fingerprint. Loads no network."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from fglfast.base.config import Settings
from fglfast.base.errors import BadInputError, FglError, MissingExtraError
from fglfast.base.untrusted import loading
from fglfast.base.wording import first_line
from fglfast.generator.blocks import load_blocks
from fglfast.generator.configs import check_folder, read_config, read_optional
from fglfast.generator.hub_model import fetch_model
from fglfast.generator.kinds import (
    INDEX,
    STABLE_DIFFUSION,
    Need,
    check_index,
    check_needed,
    networks,
    pipeline_name,
)
from fglfast.generator.kit import check_kit, find_kit, fingerprint, text_files
from fglfast.generator.parts import BUNDLED, bundled, is_bundled, part
from fglfast.generator.weights import weight_files
from fglfast.images.decoding import MOST_SIDE

BUNDLED_BY = (
    "The bundled generator learned from 30,000 labelled public images of ten classes of clothes, the public half of "
    "Fashion-MNIST. Who has those can train on them without any client: on these classes a run shows that the "
    "machinery works, not that it is needed."
)
PHOTOGRAPHS = "real world images"  # the paper's words where no domain is named
MOST_BLOCKS = 16  # of a network, each at half the size of the one before
OLD_SIDE, TRUSTED = 64, (0, 9)  # of latents, before this version of diffusers: many a config said 32


Template = Annotated[str, Field(max_length=1000)]


class DomainPrompts(Settings):
    """What `prompts.json` says of one domain; the rest is the model's own, with the domain's word in it."""

    class_level: Template | None = None
    instance_level: Template | None = None
    negative: Template | None = None


class Prompts(Settings):
    """Prompt templates; the defaults are the paper's, a model folder may carry its own in `prompts.json`.

    Attributes:
        class_level: takes {label}, and {domain} if it likes.
        instance_level: takes {caption} too, which may stand alone: of a generator that learned no class.
        negative: what images are guided away from.
        domains: templates of domains that have their own.
    """

    class_level: Template = "{label}, {domain}, high resolution"
    instance_level: Template = "{label}, {caption}, {domain}, high resolution."
    negative: Template = "low quality, low resolution"
    domains: dict[str, DomainPrompts] = Field(default_factory=dict)

    def of(self, domain: str | None) -> "Prompts":
        """The templates for a domain, its word filled in."""
        own = self.domains.get(domain or "", DomainPrompts())
        return self.model_copy(
            update={
                "class_level": _filled(own.class_level or _named(self.class_level, domain), domain),
                "instance_level": _filled(own.instance_level or _named(self.instance_level, domain), domain),
                "negative": self.negative if own.negative is None else own.negative,
            }
        )


def resolve_model(name: str, revision: str | None = None, mirror: str | None = None, need: Need = "all") -> Path:
    """The folder of a model: bundled, a local diffusers directory, or a hub id; of a checkpoint, what it becomes.

    Args:
        name: `mini`, a folder, a checkpoint in one `.safetensors` file, or a hub id.
        revision: of the hub id.
        mirror: what is tried when the first cannot be had.
        need: "text" leaves out what draws, "configs" all weights: what is left out is neither fetched nor demanded.

    Raises:
        BadInputError: nothing of that name, or the folder is not a diffusers directory.
        MissingExtraError: the bundled model's weights are not installed.
    """
    if name in BUNDLED:
        return _complete(bundled(name), need)
    tried = []
    for place in filter(None, (name, mirror)):
        if Path(place).is_dir():
            return _complete(Path(place), need)
        if Path(place).is_file():
            from fglfast.generator.checkpoint import as_folder

            return as_folder(Path(place))
        if not is_hub_id(place):
            tried.append(f"{place} (no such folder or file)")
            continue
        try:
            return _complete(fetch_model(place, revision, need), need)
        except (OSError, ValueError) as error:  # the hub's errors are of these kinds
            tried.append(f"{place} (no such folder or file; from the hub: {first_line(error)})")
    raise BadInputError(
        f"no model named {name!r}: tried {'; '.join(tried)}",
        f"give {' or '.join(BUNDLED)}, a diffusers directory, a checkpoint (.safetensors), or a reachable hub id",
    )


def resolve_text(name: str, revision: str | None = None, mirror: str | None = None) -> Path:
    """The folder of a model's text side, all that a client needs of a generator: a kit, or as `resolve_model`.

    Raises:
        BadInputError: nothing of that name, or it has no text side that can be used.
    """
    if Path(name).is_dir() and find_kit(Path(name)):
        check_kit(Path(name))
        return Path(name)
    return resolve_model(name, revision, mirror, need="text")


def taught_by(folder: Path) -> str:
    """What a reader of results has to be told of the images a generator learned from; empty where nothing is known."""
    return BUNDLED_BY if is_bundled(folder) else ""


def is_hub_id(name: str) -> bool:
    """Whether the hub could have a repository of that name: NAME or OWNER/NAME; other names are paths."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def load_prompts(folder: Path, domain: str | None = None) -> Prompts:
    """The prompt templates of a model folder for images of a domain; without one, of photographs."""
    return read_optional(part(folder, "prompts.json"), Prompts).of(domain)


def with_domain(template: str, domain: str | None) -> str:
    """A template with the domain's word in its place: that of {domain}, or else after the label or a lone caption."""
    return _filled(_named(template, domain), domain)


def _named(template: str, domain: str | None) -> str:
    """A template that names the domain, if there is one."""
    if domain is None or "{domain}" in template:
        return template
    named = "{label}" if "{label}" in template else "{caption}"
    return template.replace(named, f"{named}, {{domain}}", 1)


def _filled(template: str, domain: str | None) -> str:
    return template.replace("{domain}", (domain or PHOTOGRAPHS).replace("{", "{{").replace("}", "}}"))


def text_fingerprint(folder: Path) -> str:
    """sha256 over the text encoders' weights and configs and the tokenizers' files, names included.

    Of a kit, that of the generator that it was made of.
    """
    kit = find_kit(folder)
    return fingerprint(kit.files if kit else text_files(folder))


def native_image_size(folder: Path) -> int:
    """Side in pixels of the images a model was trained on.

    Raises:
        BadInputError: its configs do not say.
    """
    if kit := find_kit(folder):
        return kit.image_size
    unet, vae = (read_config(part(folder, name) / "config.json") for name in ("unet", "vae"))
    side, channels = _latent_side(folder, unet), vae.get("block_out_channels")
    size = 0
    if isinstance(side, int) and isinstance(channels, list) and 1 <= len(channels) <= MOST_BLOCKS:
        size = side * 2 ** (len(channels) - 1)
    if not 1 <= size <= MOST_SIDE:
        raise BadInputError(
            f"{folder}: its configs do not say on which size of image it was trained",
            "use a complete diffusers directory",
        )
    return size


def _latent_side(folder: Path, unet: dict[str, Any]) -> Any:
    """What a UNet's config says, or what `StableDiffusionPipeline` takes instead, as it distrusts old configs."""
    from packaging.version import Version

    side, version = unet.get("sample_size"), unet.get("_diffusers_version")
    if pipeline_name(folder) != STABLE_DIFFUSION or not isinstance(side, int) or not isinstance(version, str):
        return side
    with loading(part(folder, "unet") / "config.json"):
        return max(side, OLD_SIDE) if Version(version).release < TRUSTED else side


def _complete(folder: Path, need: Need) -> Path:
    """The folder, if it holds what is needed of a diffusers directory and may be read, a stranger's or not."""
    if need != "text" or (folder / INDEX).exists():
        check_index(folder)
    check_folder(folder)
    blocks = load_blocks(folder).folders(folder)
    for block in blocks:
        check_needed(block, need)
        for name in networks(block, need):
            if not weight_files(part(block, name)):
                raise _without_weights(block, name)
    return folder


def _without_weights(model: Path, network: str) -> FglError:
    if is_bundled(model):  # as a client has it
        return MissingExtraError(
            f"{model.name} draws with weights that are a package of their own, which is not installed",
            "pip install fglfast-mini; in a checkout, pip install ./engines/mini",
        )
    return BadInputError(f"{model / network}: no safetensors weights", "only safetensors are read; convert the model")

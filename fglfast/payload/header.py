"""The header of a payload: who sends it, and what its rows mean."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

from pydantic import Field, ValidationError, model_validator

from fglfast.base.config import Settings, first_problem
from fglfast.base.console import visible
from fglfast.base.errors import BadInputError
from fglfast.base.names import ClassName, ClassNames, ClientName
from fglfast.base.untrusted import json_object
from fglfast.base.wording import some

FORMAT_VERSION, ROUTED_VERSION = 2, 3
VERSIONS = (1, 2, 3)  # that are read; the second brought eight bits, short token rows, the domain; the third is routing
METADATA_KEY = "fglfast"
PromptLevel = Literal["class", "instance", "learned", "routed"]

REVEALS: dict[PromptLevel, str] = {
    "class": "which classes the client holds, and how many images of each",
    "instance": "which classes the client holds, how many images of each, and what their captions say",
    "learned": "which classes the client holds, how many images of each, and vectors fitted to the images themselves",
    "routed": "which classes the client holds, how many images of each, and how all of them together differ from the "
    "server's, in a few numbers fitted to them",
}

ANEW = "make the payload anew with fglfast embed"

NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Privacy(Settings):
    """What a privacy mechanism did to the rows, as the client states it.

    Attributes:
        mechanism: its name, such as "gaussian".
        unit: what neighbouring data sets differ in: one image, added, removed or replaced.
        epsilon: privacy loss of all uploads together.
        delta: probability that the loss is larger.
        uploads: how many of the same images share epsilon and delta.
        clip: L2 norm that what an image adds to an embedding, or to a step of learning, was clipped to; 0 where images
            change no embedding.
        noise: standard deviation of the noise on each count; on a coordinate of a sum of embeddings, `clip` times that.
    """

    mechanism: ClassName
    unit: Literal["image"] = "image"
    epsilon: NotNegative
    delta: Annotated[float, Field(ge=0, le=1)]
    uploads: Annotated[int, Field(ge=1)] = 1
    clip: NotNegative
    noise: NotNegative


class PayloadHeader(Settings):
    """The metadata of a payload.

    Attributes:
        format_version: one of `VERSIONS`.
        client: the client's name; fit to be a file name.
        class_names: all classes of the federation, in the order of the labels.
        prompt_level: one prompt a class; one a caption; one a class, learned from its images; or one a class, changed
            by a mixture of the server's adapters that was learned from the images.
        text_encoder: sha256 of the text encoder's weights and tokenizer, in hex.
        privacy: what was done to the embeddings; None is nothing.
        domain: the word for all images of this client, such as "sketch"; it chooses the server's negative prompt.
        template: of class-level prompts, where the client used one of its own; a server encodes it to prove the rows.
        inventory: sha256 of the file of the server's adapters, in hex, where they are mixed.
    """

    format_version: Annotated[int, Field(ge=VERSIONS[0], le=VERSIONS[-1])] = FORMAT_VERSION
    client: ClientName
    class_names: ClassNames
    prompt_level: PromptLevel
    text_encoder: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    privacy: Privacy | None = None
    domain: ClassName | None = None
    template: ClassName | None = None
    inventory: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None

    @model_validator(mode="after")
    def _known_to_its_version(self) -> "PayloadHeader":
        if self.format_version == 1 and self.domain is not None:
            raise ValueError("domain: a payload of version 1 has none")
        if self.template is not None and (self.format_version == 1 or self.prompt_level != "class"):
            raise ValueError("template: class-level rows of version 2 alone have one")
        if self.format_version == 1 and self.prompt_level == "learned":
            raise ValueError("prompt_level: a payload of version 1 has no learned embeddings")
        routed = self.format_version == ROUTED_VERSION
        if (self.prompt_level == "routed") != routed or (self.inventory is not None) != routed:
            raise ValueError(
                f"inventory: payloads of version {ROUTED_VERSION} are routed and name one, and no others do"
            )
        return self

    def canonical(self) -> str:
        """The header as JSON, the same text for the same header; what later releases brought is left out."""
        absent = {name for name in ("domain", "template", "inventory") if getattr(self, name) is None}
        facts = self.model_dump(mode="json", exclude=absent)
        return json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def parse_header(text: str, path: Path) -> PayloadHeader:
    """Read a header's JSON.

    Raises:
        BadInputError: the version is unknown, or a key breaks a rule.
    """
    version = strict_json(text, "metadata", path).get("format_version")
    if version not in VERSIONS or not isinstance(version, int) or isinstance(version, bool):
        hint = "client and server must run releases of fglfast that share a payload format"
        refuse(
            path,
            "format_version",
            f"{version!r}, and this release reads {some([str(version) for version in VERSIONS])}",
            hint,
        )
    try:
        return PayloadHeader.model_validate_json(text, strict=True)
    except ValidationError as error:
        field, _, problem = first_problem(error).partition(": ")
        refuse(path, field, problem)


def strict_json(text: bytes | str, field: str, path: Path) -> dict[str, Any]:
    """Parse a JSON object in which no key is there twice, of bounded content.

    Raises:
        BadInputError: it is none.
    """
    try:
        return json_object(text)
    except ValueError as error:
        refuse(path, field, f"not strict JSON ({error})")


def refuse(path: Path, field: str, problem: str, hint: str = ANEW) -> NoReturn:
    """Refuse a file; what it says itself is shown without its control characters."""
    text = visible(f"{field}: {problem}").replace("\n", " ")
    raise BadInputError(f"{path}: {text[:400]}", hint)

"""Class-level rows are proved: each is the encoding of its class name in the model's template, or is refused.

Who has the text encoder can make every such row again, so a flipped label or junk in the place of an embedding is no
matter of trust. A template or a domain of a client's own could say anything, so it is said, or has to be known. Noise
on counts changes no row. Rows of instance level and learned ones follow from images that only the client has: nothing
proves those, and neither would anything prove class-level rows with noise of their own.
"""

from collections.abc import Collection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fglfast.base.console import note
from fglfast.base.errors import BadInputError, FglError
from fglfast.client.prompts import check_template
from fglfast.generator.text import load_prompts, text_fingerprint, with_domain
from fglfast.generator.text_encoder import TextEncoder
from fglfast.payload import Payload
from fglfast.payload.coding import STEPS

HALF_TOLERANCE = 2.0**-9  # of a position's largest value: two steps of float16, for another machine's arithmetic
CODE_TOLERANCE = 1.0 / STEPS  # a step of eight bits, of which rounding takes a half


class ClassRows:
    """What class-level rows have to be, for one model; each prompt is encoded once.

    Clients' own templates are taken if they are among `templates`, and domains that the model's prompts do not know if
    they are among `domains`; None takes any, and a note says which and whose.
    """

    def __init__(
        self, model: Path, templates: Collection[str] | None = None, domains: Collection[str] | None = None
    ) -> None:
        self.model, self.templates, self.domains = model, templates, domains
        self.known_domains = {None, *load_prompts(model).domains}
        self.fingerprint = text_fingerprint(model)
        self.encoder: TextEncoder | None = None
        self.known: dict[str, tuple[NDArray[np.int32], NDArray[np.float32]]] = {}

    def check(self, payload: Payload) -> Payload:
        """The payload, if its rows are not of class level or are what its labels say.

        One of another text encoder is refused where a model draws from it, not here.

        Raises:
            BadInputError: a row is not the encoding of its class; the message names client and class.
        """
        header = payload.header
        if header.prompt_level != "class" or header.text_encoder != self.fingerprint:
            return payload
        who = f"client {header.client!r}"
        if header.privacy is not None and header.privacy.clip > 0:
            raise BadInputError(
                f"{who}: class-level rows with noise on their embeddings, which nobody can prove",
                "embed again: at class level noise belongs on the counts alone",
            )
        if len(set(payload.labels.tolist())) < len(payload.labels):
            raise BadInputError(f"{who}: several class-level rows of one class", "embed again, or leave it out")
        self._check_domain(header.domain, who)
        template = self._template(payload, who)
        for row, label in zip(payload.prompts(), payload.labels.tolist(), strict=True):
            if not self._is_encoding(row, template.format(label=header.class_names[label]), payload):
                name = header.class_names[label]
                problem = f"{who}: its row for class {name!r} is not the encoding of that class"
                raise BadInputError(problem, "leave its payload out, or ask the client to embed it again")
        return payload

    def _check_domain(self, domain: str | None, who: str) -> None:
        """Every prompt has the word in it, whatever it is."""
        if domain in self.known_domains:
            return
        if self.domains is not None and domain not in self.domains:
            hint = "embed without a domain, or have the server name this one in its experiment's domains"
            raise BadInputError(f"{who}: its images are of a domain that this server does not know: {domain!r}", hint)
        if self.domains is None:
            note(f"{who}, and whoever says so too, has images of the domain {domain!r}, which is in their prompts")
        self.known_domains.add(domain)

    def _template(self, payload: Payload, who: str) -> str:
        """The template of a payload, the model's or its own; only fields that cannot grow."""
        header = payload.header
        if header.template is not None:
            if self.templates is not None and header.template not in self.templates:
                hint = "embed with the model's own template, or have the server name this one"
                raise BadInputError(f"{who}: embedded with a template of its own: {header.template!r}", hint)
            note(f"{who} embedded with a template of its own: {header.template!r}")
            template = with_domain(header.template, header.domain)
        else:
            template = load_prompts(self.model, header.domain).class_level
        try:
            check_template(template, {"label"})
        except FglError as error:
            raise BadInputError(f"{who}: {error.message}", "embed with another template") from error
        return template

    def _is_encoding(self, row: NDArray[np.generic], prompt: str, payload: Payload) -> bool:
        tokens_T, embedding_LD = self.encoded(prompt)
        if payload.token_ids is not None:
            return np.array_equal(row, tokens_T)
        if row.shape != embedding_LD.shape:
            return False
        allowed_L1 = np.abs(embedding_LD).max(axis=1, keepdims=True)
        allowed_L1 *= CODE_TOLERANCE if payload.int8 else HALF_TOLERANCE
        return bool((np.abs(row.astype(np.float32) - embedding_LD) <= allowed_L1).all())

    def encoded(self, prompt: str) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Token ids [T] and embedding [L,D] of a prompt; the encoder is loaded when first used."""
        if self.encoder is None:
            self.encoder = TextEncoder.load(self.model)
        if prompt not in self.known:
            tokens_1T = self.encoder.tokenize([prompt])
            self.known[prompt] = tokens_1T[0], self.encoder.encode(tokens_1T)[0]
        return self.known[prompt]

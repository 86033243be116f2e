"""Who signed a payload's file, for which federation and when. Knows no tensor, and not whom to believe.

The signature is Ed25519 (RFC 8032) over the whole file: sha256 of its bytes, with the 128 digits of the signature
themselves as zeros, behind a prefix that no other use of a key signs. So there is no byte of a file that can change
unnoticed, and it can be checked before a tensor is parsed. It lies in the file's metadata beside the header; a plan's
payload hash does not depend on it.
"""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import AwareDatetime, Field, ValidationError

from fglfast.base.config import Settings, first_problem
from fglfast.base.errors import UsageError
from fglfast.base.names import ClassName
from fglfast.payload.header import refuse, strict_json
from fglfast.payload.keys import ed25519, public_text, read_key

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SIGNATURE_KEY = "signature"
PREFIX = b"fglfast payload signature, version 1\0"
BLANK = "0" * 128
ALTERED = "ask the client to send it again"

PublicKey = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Signature(Settings):
    """What a payload's file says of its signature.

    Attributes:
        federation: for which the client made the payload; another one refuses it.
        time: when it was signed, by the client's clock.
        key: the signer's public key, in hex.
        value: the signature, in hex.
    """

    federation: ClassName
    time: AwareDatetime
    key: PublicKey
    value: Annotated[str, Field(pattern="^[0-9a-f]{128}$")]


def parse_signature(text: str, path: Path) -> Signature:
    """Read a signature's JSON; nothing is proved yet.

    Raises:
        BadInputError: a key breaks a rule.
    """
    strict_json(text, SIGNATURE_KEY, path)
    try:
        return Signature.model_validate_json(text, strict=True)
    except ValidationError as error:
        refuse(path, SIGNATURE_KEY, first_problem(error), ALTERED)


def verify(content: bytes, signature: Signature, path: Path) -> None:
    """Prove that the holder of the signature's key signed the file of this content.

    Raises:
        BadInputError: the file is not what was signed.
        MissingExtraError: the `cryptography` package is not installed.
    """
    key = ed25519().Ed25519PublicKey.from_public_bytes(bytes.fromhex(signature.key))
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(bytes.fromhex(signature.value), _signed_bytes(content, signature.value))
    except (InvalidSignature, ValueError):
        refuse(path, SIGNATURE_KEY, "the file was altered after it was signed", ALTERED)


@dataclass(frozen=True)
class Signer:
    """A client's private key, and the federation that it signs for."""

    key: "Ed25519PrivateKey"
    federation: str

    def blank(self) -> str:
        """The signature's JSON with zeros for its value, to be put into the file that `sign` takes."""
        now = datetime.now(UTC).replace(microsecond=0)
        return Signature(federation=self.federation, time=now, key=public_text(self.key), value=BLANK).model_dump_json()

    def sign(self, content: bytes) -> bytes:
        """The file with the signature in its place."""
        place = _place(content, BLANK)
        value = self.key.sign(_signed_bytes(content, BLANK)).hex()
        return content[:place] + value.encode() + content[place + len(value) :]


def open_signer(path: Path | None, federation: str | None) -> Signer | None:
    """Read a private key to sign for a federation with; None if neither is given.

    Raises:
        BadInputError: the file holds no key.
        MissingExtraError: the `cryptography` package is not installed.
        UsageError: one is given without the other, or no federation can have this name.
    """
    if path is None and federation is None:
        return None
    if path is None or federation is None:
        raise UsageError("a signature needs both a key (sign) and a name (federation)", "give both, or neither")
    signer = Signer(read_key(path), federation)
    try:
        signer.blank()
    except ValidationError as error:
        raise UsageError(f"no federation is called {federation!r}", "give the name that its server uses") from error
    return signer


def _signed_bytes(content: bytes, value: str) -> bytes:
    place, view = _place(content, value), memoryview(content)
    digest = hashlib.sha256(view[:place])
    digest.update(BLANK.encode())
    digest.update(view[place + len(value) :])
    return PREFIX + digest.digest()


def _place(content: bytes, value: str) -> int:
    """Where the header of a safetensors file holds the signature's digits.

    In metadata the quotes of a JSON text have one backslash; in names of the payload's header, three.

    Raises:
        ValueError: nowhere, or in two places.
    """
    before, end = b'\\"value\\":\\"', 8 + int.from_bytes(content[:8], "little")
    sought = before + value.encode()
    place = content.find(sought, 8, end)
    if place < 0 or content.find(sought, place + 1, end) >= 0:
        raise ValueError("the signature is not in its one place")
    return place + len(before)

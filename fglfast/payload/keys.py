"""Ed25519 keys: private ones in files, public ones as text."""

import os
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from fglfast.base.console import note
from fglfast.base.errors import BadInputError
from fglfast.base.extras import needing
from fglfast.base.files import write_new
from fglfast.base.limits import unwritable

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

MOST_BYTES = 10_000  # of a key file
OTHERS = 0o077  # permission bits of group and others


def ed25519() -> ModuleType:
    """The `cryptography` package's Ed25519 (RFC 8032).

    Raises:
        MissingExtraError: the package is not installed.
    """
    with needing("sign", "a signature"):
        from cryptography.hazmat.primitives.asymmetric import ed25519
    return ed25519


def find_or_make_key(path: Path) -> tuple[str, bool]:
    """The public key of a private key's file, which is made if it is not there; whether it was.

    A new file is PKCS8 in PEM without a password, readable by its owner alone (mode 0600) from its first byte on, and
    there as a whole or not at all. A file that is there is never written to.

    Raises:
        BadInputError: the file holds something else.
        UsageError: it cannot be written.
        FglError: the disk is full.
    """
    if path.exists():
        return public_text(read_key(path)), False
    key: Ed25519PrivateKey = ed25519().Ed25519PrivateKey.generate()
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    content = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        write_new(path, content)
    except OSError as error:
        raise unwritable(error, path, "free space, or choose another place") from error
    return public_text(key), True


def read_key(path: Path) -> "Ed25519PrivateKey":
    """The private key in a file; a note says so if others can read it.

    Raises:
        BadInputError: the file cannot be read, or holds no such key.
        MissingExtraError: the `cryptography` package is not installed.
    """
    kind: type[Ed25519PrivateKey] = ed25519().Ed25519PrivateKey
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        with path.open("rb") as stream:
            mode, content = os.fstat(stream.fileno()).st_mode, stream.read(MOST_BYTES)
        key = load_pem_private_key(content, password=None)
    except OSError as error:
        raise BadInputError(f"{path}: cannot be read ({error.strerror})", "make a key with fglfast key") from error
    except (ValueError, TypeError, UnsupportedAlgorithm):  # TypeError: it has a password
        key = None
    if not isinstance(key, kind):
        raise BadInputError(f"{path}: not an Ed25519 private key in PEM without a password", "make one: fglfast key")
    if os.name == "posix" and mode & OTHERS:  # Windows has other permissions, which the mode does not tell
        note(f"{path}: other users may read this private key; chmod 600 mends that")
    return key


def public_text(key: "Ed25519PrivateKey") -> str:
    """The public part of a key: its 32 bytes in hex."""
    return key.public_key().public_bytes_raw().hex()

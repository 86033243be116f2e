"""A payload to its file. Knows no reader but the rules that both obey."""

from pathlib import Path

from safetensors.numpy import save

from fglfast.base.files import write_atomic
from fglfast.base.limits import unwritable
from fglfast.payload.coding import pack
from fglfast.payload.header import METADATA_KEY, ROUTED_VERSION, parse_header
from fglfast.payload.proof import MEMORY, ROUTED, check_rows, check_shapes, specs_of
from fglfast.payload.read import check_header_size
from fglfast.payload.rows import Payload, little_endian
from fglfast.payload.signature import SIGNATURE_KEY, Signer


def save_payload(payload: Payload, path: Path | str, signer: Signer | None = None) -> int:
    """Write a payload: under a temporary name, fsynced, then renamed. Equal unsigned payloads, equal bytes.

    Returns:
        Bytes written.

    Raises:
        BadInputError: the payload breaks a rule that `load_payload` enforces.
        UsageError: the place cannot be written to.
        FglError: the disk is full.
    """
    path, text = Path(path), payload.header.canonical()
    parse_header(text, path)
    check_shapes(
        specs_of(payload.tensors()), ROUTED if payload.header.format_version == ROUTED_VERSION else MEMORY, path
    )
    check_rows(payload, path)
    tensors = {name: little_endian(tensor) for name, tensor in pack(payload).items()}
    content = save(tensors, metadata={METADATA_KEY: text} | ({SIGNATURE_KEY: signer.blank()} if signer else {}))
    content = signer.sign(content) if signer else content
    check_header_size(int.from_bytes(content[:8], "little"), len(content), path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, content)
    except OSError as error:
        raise unwritable(error, path, "free space, or choose another place") from error
    return len(content)

"""What travels: prompts and labels in one safetensors file.

A payload comes from a stranger, so `load_payload` proves the header before it reads a tensor, and the
tensors before it returns them. `save_payload` holds its own file to the same rules.
"""

from fglfast.payload.allow import AllowList
from fglfast.payload.coding import eight_bits, tensor_bytes
from fglfast.payload.header import PayloadHeader, Privacy
from fglfast.payload.read import Limits, client_of, load_payload, load_signed
from fglfast.payload.rows import Form, Payload, merge_equal
from fglfast.payload.signature import Signature, Signer, open_signer
from fglfast.payload.write import save_payload

__all__ = [
    "AllowList",
    "Form",
    "Limits",
    "Payload",
    "PayloadHeader",
    "Privacy",
    "Signature",
    "Signer",
    "client_of",
    "eight_bits",
    "load_payload",
    "load_signed",
    "merge_equal",
    "open_signer",
    "save_payload",
    "tensor_bytes",
]

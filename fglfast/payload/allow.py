"""Whose payloads a server takes: the clients of one federation and their keys. Proves no signature."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, Field

from fglfast.base.config import Settings
from fglfast.base.names import ClassName, ClientName
from fglfast.payload.header import PayloadHeader, refuse
from fglfast.payload.signature import SIGNATURE_KEY, PublicKey, Signature

CLOCKS = timedelta(hours=1)  # that a client's clock may be ahead


def _one_each(clients: dict[str, str]) -> dict[str, str]:
    """One person with many names would need as many keys."""
    owners: dict[str, str] = {}
    for name, key in clients.items():
        if (other := owners.setdefault(key, name)) != name:
            raise ValueError(f"{other!r} and {name!r} have the same key")
    return clients


class AllowList(Settings):
    """What `--allow` reads.

    Attributes:
        federation: the name that clients sign for. A payload that was made for another federation is refused, though
            the same client and key may be in both.
        after: payloads that were signed before are refused: what a client sent to an earlier round of this federation
            and anyone kept since. Two payloads of one client are refused in any case, and neither wins.
        clients: the public key of each client, by the name in its payloads; each has its own.
    """

    federation: ClassName
    after: AwareDatetime | None = None
    clients: Annotated[dict[ClientName, PublicKey], Field(min_length=1), AfterValidator(_one_each)]

    def admit(self, header: PayloadHeader, signature: Signature | None, path: Path) -> Signature:
        """Refuse a payload by what it says of itself; that this is true remains to be proved.

        Returns:
            Its signature.

        Raises:
            BadInputError: it is unsigned, of a client that is not listed, signed by another key or for another
                federation, too early, or later than now.
        """
        client = header.client
        if client not in self.clients:
            refuse(
                path, "client", f"{client!r} is not on the list of those who may send", "leave it out, or add its key"
            )
        if signature is None:
            hint = "the client has to embed with --sign KEY --federation NAME"
            refuse(path, SIGNATURE_KEY, f"there is none, and {client!r} has to sign", hint)
        if signature.key != self.clients[client]:
            problem = f"of key {signature.key[:16]}..., and {client!r} has {self.clients[client][:16]}..."
            refuse(path, SIGNATURE_KEY, problem, "leave it out, or ask the client which key is its own")
        if signature.federation != self.federation:
            problem = f"made for federation {signature.federation!r}, and this is {self.federation!r}"
            refuse(path, SIGNATURE_KEY, problem, f"the client has to embed with --federation {self.federation!r}")
        if self.after and signature.time < self.after:
            problem = f"of {signature.time}, and nothing from before {self.after} is taken"
            refuse(path, SIGNATURE_KEY, problem, "the client has to embed anew")
        if signature.time > datetime.now(UTC) + CLOCKS:
            refuse(path, SIGNATURE_KEY, f"of {signature.time}, which is in the future", "set the client's clock")
        return signature

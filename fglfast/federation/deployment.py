"""The files of a federation of real machines: certificate, keys, Flower's configuration, a script for each step.

A folder `server` for the server's machine and one a client, each to be taken to its own. Whoever makes them has had all
keys in hand: a client that shall trust nobody makes its own two (`ssh-keygen -t ecdsa -b 384`, `fglfast key`) and sends
their public halves.
"""

import datetime
import ipaddress
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tomli_w
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import TypeAdapter, ValidationError

from fglfast.base.config import Settings, first_problem
from fglfast.base.errors import UsageError
from fglfast.base.files import finished_folder, write_atomic
from fglfast.base.names import ClassName, ClientName
from fglfast.federation.experiment import FILE, Experiment
from fglfast.payload.keys import find_or_make_key

YEARS = 2  # that a certificate is valid
LOCAL = ("localhost", "127.0.0.1")
QUIET = "export FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1"
APP = {
    "project": {"name": "fglfast-federation", "version": "1.0.0", "license": "Apache-2.0"},
    "tool": {
        "flwr": {
            "app": {
                "publisher": "fglfast",
                "components": {
                    "serverapp": "fglfast.federation.server_app:app",
                    "clientapp": "fglfast.federation.client_app:app",
                },
                "config": {"experiment": "", "method": "fgl", "seed": 0, "out": "", "engines": "", "again": False},
            }
        }
    },
}


class Deployment(Settings):
    """A federation to be set up.

    Attributes:
        name: of the federation: what clients sign for, and Flower's name of the connection.
        host: of the server, as clients reach it: a name or an address; it stands in the certificate.
        port: of the SuperLink.
        clients: their names.
        model: the generator's folder or hub id, as each client finds it.
        experiment: what is run; who may send and how many there are is filled in.
    """

    name: ClassName
    host: str
    port: int
    clients: tuple[ClientName, ...]
    model: str
    experiment: Experiment


def write_deployment(asked: Deployment, folder: Path) -> list[Path]:
    """Write all files, or none; returns the folders, the server's first.

    Raises:
        UsageError: the folder exists, or names are no names or the same.
    """
    if folder.exists():
        raise UsageError(f"{folder}: exists, and holds keys that may be in use", "give another folder")
    with finished_folder(folder) as place:
        for name in asked.clients:
            _write_client(asked, name, place / name, place / "server" / "keys")
        _write_server(asked, place)
    folder.chmod(0o700)
    return [folder / name for name in ("server", *asked.clients)]


def check_names(clients: Sequence[str]) -> tuple[str, ...]:
    """Names of clients, each fit to be a folder's and another than the server's.

    Raises:
        UsageError: one is not, or two are the same.
    """
    try:
        names = tuple(TypeAdapter(ClientName).validate_python(name) for name in clients)
    except ValidationError as error:
        raise UsageError(f"no client can have this name: {first_problem(error)}", "choose another") from error
    if len({name.casefold() for name in (*names, "server")}) <= len(names) or not names:
        raise UsageError("clients need names of their own, and none is called server", "for example --clients ann,bob")
    return names


def write_authority(folder: Path, host: str) -> None:
    """A certificate that is its own authority, `server.pem`, for a host and this machine; its key, `server.key`."""
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fglfast federation")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=365 * YEARS))
        .add_extension(x509.SubjectAlternativeName(list(map(_general_name, dict.fromkeys((host, *LOCAL))))), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    write_atomic(folder / "server.pem", certificate.public_bytes(serialization.Encoding.PEM))
    _write_private(folder / "server.key", key, serialization.PrivateFormat.TraditionalOpenSSL)


def write_node_key(path: Path) -> bytes:
    """A node's key as OpenSSH writes it (ECDSA, 384 bits), by which the SuperLink knows it; returns its public half."""
    key = ec.generate_private_key(ec.SECP384R1())
    _write_private(path, key, serialization.PrivateFormat.OpenSSH)
    return key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)


def _write_client(asked: Deployment, name: str, folder: Path, public_keys: Path) -> None:
    folder.mkdir(parents=True)
    public_keys.mkdir(parents=True, exist_ok=True)
    write_atomic(public_keys / f"{name}.pub", write_node_key(folder / "node.key"))
    public, _ = find_or_make_key(folder / "sign.pem")
    write_atomic(public_keys / f"{name}.sign", public)
    told = {"name": name, "model": asked.model, "sign": "sign.pem", "federation": asked.name, "out": "model"}
    config = " ".join(f"{key}={_toml(value)}" for key, value in told.items())
    lines = [
        QUIET,
        'export FLWR_HOME="$PWD/flwr"',
        "# bash supernode.sh DATA ['more=\"node configuration\"' [OPTIONS OF FLOWER]]: joins, and stays. After a crash",
        "# wait half a minute, until the SuperLink takes the old node for gone.",
        f"exec flower-supernode --superlink {shlex.quote(f'{asked.host}:{asked.port}')} \\",
        "  --root-certificates server.pem --auth-supernode-private-key node.key \\",
        f'  --node-config {shlex.quote(config)}" data=\\"$data\\" ${{2:-}}" "${{@:3}}"',
    ]
    # DATA is PATH[:SPLIT], seen from where the script is called, or names what the package carries.
    place = [
        'path="${1%%:*}" split="${1#"${1%%:*}"}"',
        'data="$1"',
        '[ ! -e "$path" ] || data="$(realpath "$path")$split"',
    ]
    _script(folder / "supernode.sh", lines, place)


def _write_server(asked: Deployment, place: Path) -> None:
    folder, keys = place / "server", place / "server" / "keys"
    write_authority(folder, asked.host)
    for name in asked.clients:
        write_atomic(place / name / "server.pem", (folder / "server.pem").read_bytes())
    public = {name: (keys / f"{name}.sign").read_text(encoding="utf-8") for name in asked.clients}
    write_atomic(folder / "clients.toml", tomli_w.dumps({"federation": asked.name, "clients": public}))
    partition = asked.experiment.partition.model_copy(update={"clients": len(asked.clients)})
    filled = asked.experiment.model_copy(update={"allow": Path("clients.toml"), "partition": partition})
    write_atomic(folder / FILE, filled.to_toml())
    (folder / "app").mkdir()
    write_atomic(folder / "app" / "pyproject.toml", tomli_w.dumps(APP))
    write_atomic(folder / "flower.env", _environment(asked.port))
    _write_steps(asked, folder)


def _environment(port: int) -> str:
    """What the scripts tell Flower; its configuration wants a whole path, which is known where the folder lies."""
    connection = {"address": f"{LOCAL[1]}:{port}", "root-certificates": "FOLDER/server.pem"}
    config = tomli_w.dumps({"superlink": {"default": "here", "here": connection}})
    lines = [
        QUIET,
        'export FLWR_HOME="$PWD/flwr"',
        'mkdir -p "$FLWR_HOME"',
        'cat > "$FLWR_HOME/config.toml" <<END',
        config.replace("FOLDER", "$PWD").rstrip(),
        "END",
    ]
    return "\n".join(lines) + "\n"


def _write_steps(asked: Deployment, folder: Path) -> None:
    home = ". ./flower.env"
    _script(
        folder / "1-superlink.sh",
        [
            home,
            "# Stays. Its database lets it come back with the same nodes; the run is then started again.",
            "exec flower-superlink --ssl-certfile server.pem --ssl-keyfile server.key --ssl-ca-certfile server.pem \\",
            "  --enable-supernode-auth --disable-runtime-dependency-installation --database superlink.db \\",
            f"  --host 0.0.0.0 --port {asked.port}",
        ],
    )
    register = [f"flwr supernode register {shlex.quote(f'keys/{name}.pub')} here" for name in asked.clients]
    _script(folder / "2-register.sh", [home, "# Once.", *register])
    _script(
        folder / "3-run.sh",
        [
            home,
            "# bash 3-run.sh [METHOD]: begins, or goes on where it stopped. It waits for the clients.",
            "# bash 3-run.sh METHOD again: asks them for their payloads anew, and keeps the images that stay.",
            "flwr run app here --run-config \"experiment='$PWD/experiment.toml' method='${1:-fgl}' seed=0 \\",
            "out='$PWD/run' engines='$PWD/engines' again=$([ \"${2:-}\" = again ] && echo true || echo false)\"",
        ],
    )
    _script(
        folder / "4-log.sh",
        [home, "# bash 4-log.sh RUN: what the run said, a line a round.", 'flwr log "$1" here --show'],
    )


def _script(path: Path, lines: Sequence[str], before: Sequence[str] = ()) -> None:
    """A script that works in its own folder; `before` are lines that work where it is called."""
    head = ["#!/usr/bin/env bash", "set -euo pipefail", *before, 'cd "$(dirname "$0")"']
    write_atomic(path, "\n".join([*head, *lines]) + "\n")


def _toml(value: str) -> str:
    return tomli_w.dumps({"x": value}).removeprefix("x = ").strip()


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write_private(path: Path, key: Any, form: serialization.PrivateFormat) -> None:
    path.touch(mode=0o600)
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))

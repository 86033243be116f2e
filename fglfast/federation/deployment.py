"""The files of a federation of real machines: certificate, keys, Flower's configuration, a script for each step.

A folder `server` for the server's machine and one a client, each to be taken to its own. Whoever makes them has had all
keys in hand: a client that shall trust nobody makes its own two (`ssh-keygen -t ecdsa -b 384`, `fglfast key`) and sends
their public halves.
"""

import datetime
import ipaddress
import re
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
from fglfast.payload.merge import looks

YEARS = 2  # that a certificate is valid
LOCAL = ("localhost", "127.0.0.1", "::1")
MOST_NAME_BYTES = 200  # of a client: file systems take 255, and files are called NAME.sign
LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
HOST = re.compile(rf"(?=.{{1,253}}\Z)({LABEL}\.)*(?![0-9]+\Z){LABEL}\Z")  # no name ends in a number, but addresses do
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
        UsageError: the folder exists, the host is none, the experiment is not for so few clients, or a name has a
            letter that Flower's node configuration does not take.
    """
    if folder.exists():
        raise UsageError(f"{folder}: exists, and holds keys that may be in use", "give another folder")
    check_host(asked.host)
    for what, value in (("the name of the federation", asked.name), ("the model", asked.model)):
        _check_quotable(value, what)
    _filled(asked)
    with finished_folder(folder) as place:
        for name in asked.clients:
            _write_client(asked, name, place / name, place / "server" / "keys")
        _write_server(asked, place)
    folder.chmod(0o700)
    return [folder / name for name in ("server", *asked.clients)]


def check_names(clients: Sequence[str]) -> tuple[str, ...]:
    """Names of clients, each fit to be a folder's and another than the server's.

    Raises:
        UsageError: one is not, or two are the same to the eye (see `looks`).
    """
    try:
        names = tuple(TypeAdapter(ClientName).validate_python(name) for name in clients)
    except ValidationError as error:
        raise UsageError(f"no client can have this name: {first_problem(error)}", "choose another") from error
    if not names:
        raise UsageError("a federation needs clients", "for example --clients ann,bob")
    taken = {looks("server"): "server"}
    for name in names:
        _check_quotable(name, "a client's name")
        if (length := len(name.encode())) > MOST_NAME_BYTES:
            most = f"files are called by it, and take {MOST_NAME_BYTES}: choose a shorter one"
            raise UsageError(f"the client's name {name[:10]!r}... is {length} bytes long", most)
        if (other := taken.get(looks(name))) is not None:
            raise UsageError(
                f"client {name!r} is called as {other!r} is, or looks alike",
                "clients need names of their own, and none is called server: for example --clients ann,bob",
            )
        taken[looks(name)] = name
    return names


def check_host(host: str) -> None:
    """Refuse what is neither the name of a host nor an address.

    Raises:
        UsageError: it is neither.
    """
    if not HOST.match(host) and (_address(host) is None or "%" in host):
        hint = "give the server's as clients reach it: fl.example.org, 192.0.2.7 or 2001:db8::7; the port is --port"
        raise UsageError(f"--host {host!r}: neither the name of a host nor an address", hint)


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
        f"exec flower-supernode --superlink {shlex.quote(_reached(asked.host, asked.port))} \\",
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
    write_atomic(folder / FILE, _filled(asked).to_toml())
    (folder / "app").mkdir()
    write_atomic(folder / "app" / "pyproject.toml", tomli_w.dumps(APP))
    write_atomic(folder / "flower.env", _environment(asked))
    _write_steps(asked, folder)


def _filled(asked: Deployment) -> Experiment:
    """The experiment with what is known of its clients.

    Raises:
        UsageError: it is not for so few.
    """
    clients, table = len(asked.clients), asked.experiment.model_dump()
    table |= {"allow": Path("clients.toml"), "min_clients": min(asked.experiment.min_clients, clients)}
    table["partition"]["clients"] = clients
    try:
        return Experiment.model_validate(table)
    except ValidationError as error:
        raise UsageError(f"the experiment is not for {clients} clients: {first_problem(error)}", "change it") from error


def _environment(asked: Deployment) -> str:
    """What the scripts tell Flower; its configuration wants a whole path, which is known where the folder lies."""
    here = _reached(LOCAL[2] if _is_six(asked.host) else LOCAL[1], asked.port)
    connection = {"address": here, "root-certificates": "FOLDER/server.pem"}
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
            f"  --host {'::' if _is_six(asked.host) else '0.0.0.0'} --port {asked.port}",
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


def _check_quotable(value: str, what: str) -> None:
    """Refuse what TOML would write with a backslash: Flower takes the text apart before it reads it as TOML."""
    if _toml(value) != f'"{value}"':
        hint = "double quotes and backslashes end up wrong there: choose another"
        raise UsageError(f"{what} {value!r} cannot stand in Flower's node configuration", hint)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_six(host: str) -> bool:
    return isinstance(_address(host), ipaddress.IPv6Address)


def _reached(host: str, port: int) -> str:
    return f"[{host}]:{port}" if _is_six(host) else f"{host}:{port}"


def _general_name(host: str) -> x509.GeneralName:
    return x509.DNSName(host) if (address := _address(host)) is None else x509.IPAddress(address)


def _write_private(path: Path, key: Any, form: serialization.PrivateFormat) -> None:
    path.touch(mode=0o600)
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))

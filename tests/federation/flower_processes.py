"""A federation of real processes on loopback: certificates, keys, a SuperLink, SuperNodes."""

import datetime
import ipaddress
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import tomli_w
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

REPOSITORY = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
PATIENCE = 240.0  # seconds


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def write_authority(folder):
    """A certificate authority of one, for 127.0.0.1."""
    folder.mkdir()
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, folder.name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(_private(key, serialization.PrivateFormat.TraditionalOpenSSL))
    return folder / "certificate.pem", folder / "key.pem"


def write_node_key(folder, name):
    """A node's key pair as OpenSSH writes it."""
    key = ec.generate_private_key(ec.SECP384R1())
    (folder / name).write_bytes(_private(key, serialization.PrivateFormat.OpenSSH))
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    (folder / f"{name}.pub").write_bytes(public)
    return folder / name, folder / f"{name}.pub"


def _private(key, form):
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


class Deployment:
    """A SuperLink, and SuperNodes as they are asked for or simulated; all of them are killed at the end."""

    def __init__(self, folder, simulation=False):
        self.folder, self.processes, self.address = folder, [], f"127.0.0.1:{free_port()}"
        self.certificate, self.key = write_authority(folder / "authority")
        self.simulation = simulation
        self.environment = os.environ | {
            "FLWR_HOME": str(folder / "flwr"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "OMP_NUM_THREADS": "1",
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",  # Flower starts its own programs by name
        }
        (folder / "flwr").mkdir()
        trust = {"insecure": True} if simulation else {"root-certificates": str(self.certificate)}
        connection = {"address": self.address, **trust}
        (folder / "flwr" / "config.toml").write_text(
            tomli_w.dumps({"superlink": {"default": "here", "here": connection}})
        )

    def start(self, name, *command):
        """A process of its own session, its output in a file."""
        log = (self.folder / f"{name}.log").open("w")
        process = subprocess.Popen(
            [BIN / command[0], *map(str, command[1:])],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=self.environment,
            cwd=self.folder,
            start_new_session=True,
        )
        self.processes.append(process)
        return process

    def superlink(self):
        tls = ("--ssl-certfile", self.certificate, "--ssl-keyfile", self.key, "--ssl-ca-certfile", self.certificate)
        options = ("--insecure", "--simulation") if self.simulation else (*tls, "--enable-supernode-auth")
        place = ("--host", "127.0.0.1", "--port", self.address.split(":")[1])
        link = self.start(
            "superlink", "flower-superlink", *options, *place, "--disable-runtime-dependency-installation"
        )

        def answers():
            assert link.poll() is None, self.log("superlink")
            return self.flwr("supernode", "list", "here", check=False).returncode == 0

        wait(answers, "the SuperLink answers")

    def supernode(self, log, key, /, root=None, **config):
        words = " ".join(f'{word}="{value}"' for word, value in config.items())
        trust = ("--root-certificates", root or self.certificate, "--auth-supernode-private-key", key)
        place = ("--superlink", self.address, "--host", "127.0.0.1", "--port", free_port(), "--max-retries", 2)
        return self.start(log, "flower-supernode", *trust, *place, "--node-config", words)

    def run(self, method, *options):
        """Start a run of `experiment.toml`, its results in `run`."""
        run = {"experiment": "experiment.toml", "method": method, "out": "run", "engines": "engines"}
        words = " ".join(
            f'{word}="{value if word == "method" else self.folder / value}"' for word, value in run.items()
        )
        self.flwr("run", REPOSITORY, "here", "--run-config", words, *options)

    def flwr(self, *command, check=True):
        done = subprocess.run([BIN / "flwr", *map(str, command)], env=self.environment, capture_output=True, text=True)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def online(self):
        listed = json.loads(self.flwr("supernode", "list", "here", "--format", "json").stdout)
        return sum(node["status"] == "online" for node in listed["nodes"])

    def log(self, name):
        return (self.folder / f"{name}.log").read_text()

    def close(self):
        for process in self.processes:
            kill(process)


def kill(process):
    """End a process and all it started, at once."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def wait(condition, what, patience=PATIENCE):
    until = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < until, f"waited in vain until {what}"
        time.sleep(0.5)

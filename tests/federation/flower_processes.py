"""A federation of real processes on loopback: what `fglfast federation init` makes is run as it is."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import tomli_w

REPOSITORY = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
PATIENCE = 400.0  # seconds


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Processes:
    """Processes that are killed at the end, each with its output in a file."""

    def __init__(self, folder):
        self.folder, self.processes = folder, []
        self.port = free_port()
        self.environment = os.environ | {
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_HOME": str(folder / "flwr"),
            "OMP_NUM_THREADS": "1",
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",  # Flower starts its own programs by name
        }

    def start(self, name, *command):
        """A process of its own session."""
        log = (self.folder / f"{name}.log").open("a")
        process = subprocess.Popen(
            [*map(str, command)],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=self.environment,
            cwd=self.folder,
            start_new_session=True,
        )
        self.processes.append(process)
        return process

    def done(self, *command, check=True):
        """A process that ends by itself."""
        ended = subprocess.run(
            [*map(str, command)], env=self.environment, capture_output=True, text=True, cwd=self.folder
        )
        assert not check or ended.returncode == 0, ended.stdout + ended.stderr
        return ended

    def log(self, name):
        return (self.folder / f"{name}.log").read_text()

    def answers(self, link):
        """Whether a SuperLink is up."""
        assert link.poll() is None, self.log("superlink")
        return self.done("flwr", "supernode", "list", "here", check=False).returncode == 0

    def close(self):
        for process in self.processes:
            kill(process)


class Simulation(Processes):
    """A SuperLink that simulates its nodes."""

    def __init__(self, folder):
        super().__init__(folder)
        (folder / "flwr").mkdir()
        connection = {"address": f"127.0.0.1:{self.port}", "insecure": True}
        (folder / "flwr" / "config.toml").write_text(
            tomli_w.dumps({"superlink": {"default": "here", "here": connection}})
        )

    def superlink(self):
        options = ("--insecure", "--simulation", "--disable-runtime-dependency-installation")
        link = self.start("superlink", "flower-superlink", *options, "--host", "127.0.0.1", "--port", self.port)
        wait(lambda: self.answers(link), "the SuperLink answers")

    def run(self, method, *options):
        """Start a run of `experiment.toml`, its results in `run`."""
        run = {"experiment": "experiment.toml", "out": "run", "engines": "engines"}
        words = " ".join(f'{word}="{self.folder / value}"' for word, value in run.items())
        self.done("flwr", "run", REPOSITORY, "here", "--run-config", f'method="{method}" {words}', *options)


class Deployment(Processes):
    """The machines of a federation, each its folder, as they were made for it."""

    def __init__(self, folder, clients, experiment, model):
        super().__init__(folder)
        init = ("--out", "fed", "--host", "127.0.0.1", "--port", self.port, "--clients", ",".join(clients))
        self.done(BIN / "fglfast", "federation", "init", *init, "--experiment", experiment, "--model", model)
        self.server = folder / "fed" / "server"
        self.environment["FLWR_HOME"] = str(self.server / "flwr")  # of our own questions

    def superlink(self):
        link = self.start("superlink", "bash", self.server / "1-superlink.sh")
        wait(lambda: self.answers(link), "the SuperLink answers")
        return link

    def supernode(self, name, data, config, folder=None, options=()):
        script = (folder or self.folder / "fed" / name) / "supernode.sh"
        place = ("--host", "127.0.0.1", "--port", free_port())
        return self.start(f"node-{name}", "bash", script, data, config, *place, *options)

    def online(self):
        listed = json.loads(self.done("flwr", "supernode", "list", "here", "--format", "json").stdout)
        return sum(node["status"] == "online" for node in listed["nodes"])


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

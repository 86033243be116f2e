"""A client process in which nothing of a server, and nothing of POSIX alone, can be imported."""

import json
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

from fglfast.base.extras import EXTRAS

EMBED = {*EXTRAS["embed"]}
SERVER = {module for extra in ("server", "cpu", "gpu", "fed", "pretrain") for module in EXTRAS[extra]} | {
    "torchmetrics"
}
POSIX = {"fcntl", "grp", "pwd", "resource", "termios"}
THIN = EMBED | SERVER | POSIX


def run(code: str, folder: Path, barred: Collection[str] = THIN) -> str:
    """What a client process prints, of code that cannot import some modules."""
    # Packages with code for each system are imported before the bar is set: their Windows wheels need no POSIX.
    begin = f"import sys, filelock, psutil, typer.testing\nsys.modules.update(dict.fromkeys({sorted(barred)}))\n"
    command = [sys.executable, "-c", begin + code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


def verbs(commands: list[list[str]], folder: Path, barred: Collection[str] = THIN) -> list[tuple[int, str, str]]:
    """Exit code, output and messages of commands, one after another in one such process."""
    code = f"""
import json
from typer.testing import CliRunner
from fglfast.verbs.app import app
said = [CliRunner().invoke(app, words) for words in json.loads({json.dumps(json.dumps(commands))})]
print(json.dumps([(one.exit_code, one.stdout, one.stderr) for one in said]))
"""
    return [tuple(one) for one in json.loads(run(code, folder, barred).splitlines()[-1])]

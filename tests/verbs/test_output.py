"""Output as shells set it up: closed, full, read by nobody, in an old encoding."""

import json
import os
import shlex
import subprocess
import sys

import numpy as np
import pytest

from fglfast.payload import Payload, PayloadHeader, save_payload

NAME = "kočka 猫"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A payload whose class names few encodings have."""
    header = PayloadHeader(client="c", class_names=(NAME,), prompt_level="class", text_encoder="0" * 64)
    path = tmp_path_factory.mktemp("output") / "c.safetensors"
    save_payload(Payload(header, np.ones((1, 3, 4), np.float16), None, np.array([0]), np.array([3])), path)
    return path


def shell(command, file, **environment):
    """Run a command line of `fglfast` in a shell: (exit code, standard output, standard error)."""
    fglfast = shlex.join([sys.executable, "-m", "fglfast"])
    line = command.replace("fglfast", fglfast, 1).replace("FILE", shlex.quote(str(file)))
    asked = {"capture_output": True, "check": False, "env": {**os.environ, **environment}}
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {line}"], **asked)
    said = done.stderr.decode()
    assert "bug" not in said and "Traceback" not in said and "Exception ignored" not in said, said
    return done.returncode, done.stdout, said


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("fglfast inspect FILE --json >&-", 0),
        ("fglfast inspect FILE >&- 2>&- <&-", 0),
        ("fglfast inspect FILE.not --json >&-", 4),
        ("fglfast inspect FILE --json >/dev/full", 1),
        ("fglfast --version >/dev/full", 1),
    ],
)
def test_output_that_goes_nowhere(command, code, file):
    found, _, said = shell(command, file)
    assert found == code and ("cannot be written" in said) == ("full" in command)


@pytest.mark.parametrize("command", ["fglfast inspect FILE --json | exec 0<&-", "fglfast inspect FILE | exec 0<&-"])
def test_a_reader_that_has_gone_ends_it_in_silence(command, file):
    assert shell(command, file) == (1, b"", "")


def test_what_closed_output_swallows_is_in_no_file(file, tmp_path):
    """A file that is opened would have the number of standard output, and with it what C libraries print."""
    opened = "stream = open('f', 'w'); os.write(1, b'x')"
    code = f"import os; from fglfast.base.console import open_streams; open_streams(); {opened}"
    subprocess.run(["bash", "-c", f"{shlex.join([sys.executable, '-c', code])} >&-"], check=True, cwd=tmp_path)
    assert (tmp_path / "f").read_bytes() == b""


def test_letters_that_an_encoding_lacks(file):
    code, shown, _ = shell("fglfast inspect FILE", file, PYTHONIOENCODING="ascii")
    assert code == 0 and "ko?ka ?" in shown.decode("ascii")
    code, result, _ = shell("fglfast inspect FILE --json", file, PYTHONIOENCODING="ascii")
    assert code == 0 and json.loads(result.decode("ascii"))["images_by_class"] == {NAME: 3}

"""Signed payloads: known answers, and everything that an allow-list refuses."""

import hashlib
import json
import struct
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from fglfast.base.errors import BadInputError, UsageError
from fglfast.payload import (
    AllowList,
    Payload,
    PayloadHeader,
    Signer,
    load_payload,
    load_signed,
    open_signer,
    save_payload,
)
from fglfast.payload.keys import ed25519, find_or_make_key, public_text, read_key
from fglfast.payload.read import load
from fglfast.verbs.app import app

# RFC 8032, section 7.1, TEST 1: of the empty message.
SECRET = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
PUBLIC = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
SIGNATURE = "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
SIGNATURE += "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
ANN, BOB = Ed25519PrivateKey.from_private_bytes(SECRET), Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
HERE = "hospital"
run = CliRunner().invoke


def payload(client="ann", names=("x", "y")):
    header = PayloadHeader(client=client, class_names=names, prompt_level="class", text_encoder="ab" * 32)
    rows = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float16)
    return Payload(header, rows, None, np.array([0, 1]), np.array([3, 4]))


def allowed(**changes):
    facts = {"federation": HERE, "clients": {"ann": public_text(ANN), "bob": public_text(BOB)}}
    return AllowList.model_validate(facts | changes)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "ann.safetensors"
    save_payload(payload(), path, Signer(ANN, HERE))
    return path


def test_the_library_computes_what_the_standard_says():
    key = ed25519().Ed25519PrivateKey.from_private_bytes(SECRET)
    assert public_text(key) == PUBLIC and key.sign(b"").hex() == SIGNATURE


def test_the_signature_is_over_the_file_with_zeros_in_its_place(file):
    content = file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    said = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["signature"])
    assert content.count(said["value"].encode()) == 1
    blank = content.replace(said["value"].encode(), b"0" * 128)
    message = b"fglfast payload signature, version 1\0" + hashlib.sha256(blank).digest()
    Ed25519PublicKey.from_public_bytes(bytes.fromhex(PUBLIC)).verify(bytes.fromhex(said["value"]), message)


def test_a_signed_payload_is_the_payload_and_says_who_signed_it(file):
    found, signature = load_signed(file, allowed=allowed())
    assert found.digest() == payload().digest() == load_payload(file).digest()
    assert (signature.federation, signature.key) == (HERE, PUBLIC)
    assert timedelta(0) <= datetime.now(UTC) - signature.time < timedelta(minutes=5)


@pytest.mark.parametrize("name", ["0" * 128, '"value":"' + "0" * 128, '\\"value\\":\\"' + "0" * 128])
def test_names_cannot_pass_for_the_signature(name, tmp_path):
    path = tmp_path / "p.safetensors"
    save_payload(payload(names=(name, "y")), path, Signer(ANN, HERE))
    assert load_payload(path, allowed=allowed()).header.class_names[0] == name


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
def test_any_changed_byte_of_a_signed_payload_is_refused(file, data):
    content = bytearray(file.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] = data.draw(st.integers(0, 255).filter(lambda value: value != content[place]))
    changed = file.with_name("changed.safetensors")
    changed.write_bytes(content)
    with pytest.raises(BadInputError) as refused:
        load_payload(changed, allowed=allowed())
    assert "\n" not in refused.value.message


def test_every_byte_of_the_signature_and_around_it_counts(file):
    content = file.read_bytes()
    start = content.index(b"signature")
    for place in range(start, 8 + struct.unpack("<Q", content[:8])[0]):
        changed = file.with_name("changed.safetensors")
        changed.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(BadInputError):
            load_payload(changed, allowed=allowed())


LATER = datetime.now(UTC) + timedelta(days=1)


@pytest.mark.parametrize(
    ("client", "signer", "listed", "words"),
    [
        ("ann", None, {}, "signature: there is none, and 'ann' has to sign"),
        ("eve", Signer(ANN, HERE), {}, "client: 'eve' is not on the list"),
        ("ann", Signer(BOB, HERE), {}, "signature: of key"),
        ("ann", Signer(ANN, "school"), {}, "signature: made for federation 'school'"),
        ("ann", Signer(ANN, HERE), {"after": LATER}, "nothing from before"),
    ],
)
def test_who_may_not_send_is_refused_in_a_line(client, signer, listed, words, tmp_path, monkeypatch):
    path = tmp_path / "p.safetensors"
    save_payload(payload(client), path, signer)
    monkeypatch.setattr("fglfast.payload.read.load", lambda content: pytest.fail("a tensor was read"))
    with pytest.raises(BadInputError) as refused:
        load_payload(path, allowed=allowed(**listed))
    assert words in refused.value.message and "\n" not in refused.value.message


def test_tensors_are_read_only_behind_a_proved_signature(file, monkeypatch):
    read = []
    monkeypatch.setattr("fglfast.payload.read.load", lambda content: read.append(1) or load(content))
    load_payload(file, allowed=allowed())
    assert read == [1]
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(BadInputError, match="altered after it was signed"):
        load_payload(file, allowed=allowed())
    assert read == [1]


def test_a_clock_that_is_ahead_is_told(file):
    _, signature = load_signed(file)
    late = signature.model_copy(update={"time": datetime.now(UTC) + timedelta(hours=2)})
    with pytest.raises(BadInputError, match="in the future"):
        allowed().admit(payload().header, late, file)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ('federation = "a"\n[clients]\nann = "12"', "clients.ann"),
        (f'federation = "a"\n[clients]\nann = "{PUBLIC}"\nbob = "{PUBLIC}"', "'ann' and 'bob' have the same key"),
        (f'federation = "a"\nafter = 2025-01-01T00:00:00\n[clients]\nann = "{PUBLIC}"', "after"),
        (f'[clients]\nann = "{PUBLIC}"', "federation"),
        ('federation = "a"\n[clients]', "clients"),
        ("federation", "TOML"),
    ],
)
def test_a_list_that_says_something_else_is_refused(text, word, tmp_path):
    path = tmp_path / "allow.toml"
    path.write_text(text)
    with pytest.raises(BadInputError, match=word):
        AllowList.from_toml(path)


def test_keys_are_made_once_for_their_owner_alone(tmp_path):
    path = tmp_path / "ann.pem"
    made = json.loads(run(app, ["key", str(path), "--json"]).stdout)
    assert made["made"] and path.stat().st_mode & 0o777 == 0o600 and list(tmp_path.iterdir()) == [path]
    assert made["public_key"] == public_text(read_key(path))
    content = path.read_bytes()
    again = run(app, ["key", str(path)])
    assert (
        path.read_bytes() == content and made["public_key"] in again.stdout and content.startswith(b"-----BEGIN PRIV")
    )
    assert find_or_make_key(tmp_path / "bob.pem")[0] != made["public_key"]


def test_what_is_no_private_key_is_refused_and_one_for_all_eyes_is_told(tmp_path, capsys):
    locked, public, absent = tmp_path / "locked.pem", tmp_path / "public.pem", tmp_path / "none.pem"
    secret = BestAvailableEncryption(b"word")
    locked.write_bytes(ANN.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, secret))
    public.write_text("-----BEGIN PUBLIC KEY-----\n")
    for path in (locked, public, absent):
        with pytest.raises(BadInputError, match=path.name):
            open_signer(path, HERE)
    find_or_make_key(absent)
    absent.chmod(0o644)
    read_key(absent)
    assert "chmod 600" in capsys.readouterr().err
    for federation in (None, "", "a\nb", "x" * 300):
        with pytest.raises(UsageError):
            open_signer(absent, federation)


def test_signing_needs_an_extra_package_that_reading_does_not(file, tmp_path):
    """Without cryptography: payloads are read, a list or a key ends with code 3 and the install command."""
    (tmp_path / "allow.toml").write_text(f'federation = "{HERE}"\n[clients]\nann = "{PUBLIC}"\n')
    code = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from typer.testing import CliRunner; from fglfast.verbs.app import app\n"
        f"run = lambda *words: CliRunner().invoke(app, [str(word) for word in words])\n"
        f"assert run('inspect', {str(file)!r}).exit_code == 0\n"
        f"for words in (('inspect', {str(file)!r}, '--allow', {str(tmp_path / 'allow.toml')!r}), ('key', 'new.pem')):\n"
        "    done = run(*words); assert done.exit_code == 3 and \"pip install 'fglfast[sign]'\" in done.output, done"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "new.pem").exists()


def test_from_key_to_proved_payload_on_the_command_line(random_mini, tmp_path):
    key, listed, out = tmp_path / "ann.pem", tmp_path / "allow.toml", tmp_path / "ann.safetensors"
    public = json.loads(run(app, ["key", str(key), "--json"]).stdout)["public_key"]
    listed.write_text(f'federation = "{HERE}"\n[clients]\nann = "{public}"\n')
    embed = ["embed", "fashion:test", "--out", str(out), "--model", str(random_mini), "--sign", str(key)]
    alone = run(app, embed)
    assert alone.exit_code == 2 and "federation" in alone.output and not out.exists()
    assert run(app, [*embed, "--federation", HERE]).exit_code == 0
    shown = json.loads(run(app, ["inspect", str(out), "--allow", str(listed), "--json"]).stdout)["signature"]
    assert shown["proved"] and (shown["key"], shown["federation"]) == (public, HERE)
    assert not json.loads(run(app, ["inspect", str(out), "--json"]).stdout)["signature"]["proved"]
    listed.write_text(f'federation = "{HERE}"\n[clients]\nbob = "{public}"\n')
    pattern = ["--embeddings", str(out), "--allow", str(listed)]
    for verb in (
        ["synthesize", "--out", "s"],
        ["verify", "s"],
        ["distill", "--out", "s"],
        ["place-steps", "--out", "s.toml"],
        ["tune", "--out", "s", "--validation", "fashion:test", "--budget", "9"],
    ):
        done = run(app, [*verb, *pattern])
        assert done.exit_code == 4 and "'ann' is not on the list" in done.output, done.output
    unread = run(app, ["verify", "s", "--allow", str(listed)])
    assert unread.exit_code == 2 and "--embeddings" in unread.output

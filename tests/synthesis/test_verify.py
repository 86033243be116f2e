"""Damage of every kind: found, named, mended to the byte; or refused."""

import io
import json
import shutil
import subprocess
import sys
import tarfile

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from idle_engine import spoilt
from test_synthesize import SETTINGS, hashes
from typer.testing import CliRunner

from fglfast.base.errors import BadInputError, FglError, UsageError
from fglfast.base.files import file_digest
from fglfast.payload import save_payload
from fglfast.payload.merge import merge_payloads
from fglfast.shards.checksums import FOLDER, read_checksum
from fglfast.synthesis.repair import repair
from fglfast.synthesis.synthesize import synthesize
from fglfast.synthesis.verify import verify
from fglfast.verbs import datasets
from fglfast.verbs.app import app


@pytest.fixture(scope="module")
def made(idle, merged, tmp_path_factory):
    """Three shards with redrawn images among them."""
    out = tmp_path_factory.mktemp("made")
    assert synthesize(idle(spoilt), merged, SETTINGS, out).redrawn
    return out


@pytest.fixture(params=["checksums", "older, without"])
def copy(made, tmp_path, request):
    shutil.copytree(made, tmp_path / "synth")
    if request.param != "checksums":
        shutil.rmtree(tmp_path / "synth" / FOLDER)
    return tmp_path / "synth"


def members(tar):
    with tarfile.open(tar) as opened:
        return [(member.name, opened.extractfile(member).read()) for member in opened]


def beside(tar):
    return members(tar.with_name("train-000000.tar"))


def write(tar, files):
    with tarfile.open(tar, "w", format=tarfile.USTAR_FORMAT) as opened:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o644
            opened.addfile(member, io.BytesIO(content))


def changed(tar, place, change):
    files = members(tar)
    files[place] = change(*files[place])
    write(tar, files)


def saying(**facts):
    return lambda name, content: (
        name,
        json.dumps(json.loads(content) | facts, sort_keys=True, separators=(",", ":")).encode(),
    )


DAMAGE = {
    "missing": lambda tar: tar.unlink(),
    "empty": lambda tar: tar.write_bytes(b""),
    "truncated": lambda tar: tar.write_bytes(tar.read_bytes()[:-3000]),
    "a bit of an image": lambda tar: tar.write_bytes(bytes(b ^ (i == 700) for i, b in enumerate(tar.read_bytes()))),
    "a bit of a header": lambda tar: tar.write_bytes(bytes(b ^ (i == 110) for i, b in enumerate(tar.read_bytes()))),
    "after the end": lambda tar: tar.write_bytes(tar.read_bytes() + b"more"),
    "no tar": lambda tar: tar.write_bytes(b"nothing" * 1000),
    "order": lambda tar: write(tar, members(tar)[3:] + members(tar)[:3]),
    "label": lambda tar: changed(tar, 1, lambda name, content: (name, b"2" if content != b"2" else b"1")),
    "no label": lambda tar: changed(tar, 1, lambda name, content: (name, b"-1")),
    "no image": lambda tar: changed(tar, 0, lambda name, content: (name, b"\x89PNG\r\n\x1a\n" + b"0" * 50)),
    "no facts": lambda tar: changed(tar, 2, lambda name, content: (name, b"[1]")),
    "seed": lambda tar: changed(tar, 2, saying(seed=9)),
    "payload": lambda tar: changed(tar, 2, saying(payload="0" * 64)),
    "twice": lambda tar: changed(tar, 8, lambda name, content: (name, members(tar)[17][1])),
    "in another shard too": lambda tar: changed(tar, 2, lambda name, _: (name, beside(tar)[2][1])),
}


def problems(out, merged=None):
    return {shard.number: shard.problem for shard in verify(out, merged) if shard.problem}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_shard_is_found_and_drawn_again_to_the_byte(kind, copy, made, idle, merged):
    assert problems(copy) == problems(copy, merged) == {}
    DAMAGE[kind](copy / "train-000001.tar")
    found = problems(copy)
    assert list(found) == [1] and (found[1] == "missing" if kind == "missing" else found[1].startswith("damaged: "))
    untouched = (copy / "train-000000.tar").stat().st_mtime_ns
    repair(idle(spoilt), merged, copy, verify(copy, merged))
    assert hashes(copy) == hashes(made) and problems(copy) == {}
    assert (copy / "train-000000.tar").stat().st_mtime_ns == untouched


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(0, 1, exclude_max=True), st.integers(1, 255))
def test_no_byte_can_change_unseen(made, merged, tmp_path, place, change):
    """Without a checksum, by the shard and its plan, which know all but how often an image was drawn again."""
    older = tmp_path / "older"
    if not older.exists():
        shutil.copytree(made, older, ignore=shutil.ignore_patterns(FOLDER))
    tar = older / "train-000001.tar"
    content = bytearray((made / tar.name).read_bytes())
    spot = int(place * len(content))
    assume(not content[:spot].endswith(b'"redraw":'))
    content[spot] ^= change
    tar.write_bytes(content)
    assert list(problems(older, merged)) == [1]


def test_identities_are_the_plans_with_payloads_and_without(copy, merged):
    changed(copy / "train-000001.tar", 2, saying(ordinal=6000))
    assert list(problems(copy, merged)) == [1]
    shutil.rmtree(copy / FOLDER, ignore_errors=True)
    for given_payloads in (None, merged):
        assert "another image than the plan's" in problems(copy, given_payloads)[1]


def test_checksums_are_those_of_sha256sum_and_of_the_shards(made):
    for tar in made.glob("*.tar"):
        assert read_checksum(tar) == file_digest(tar)
        assert (made / FOLDER / f"{tar.name}.sha256").read_text() == f"{file_digest(tar)}  {tar.name}\n"


def test_a_damaged_checksum_is_none(copy):
    (copy / FOLDER).mkdir(exist_ok=True)
    (copy / FOLDER / "train-000001.tar.sha256").write_bytes(b"\xff nonsense")
    assert problems(copy) == {} and verify(copy)[1].how == "structure"


def test_other_engines_and_payloads_are_refused_before_anything_is_drawn(copy, made, idle, merged, payload):
    (copy / "train-000001.tar").unlink()
    checked = verify(copy)
    with pytest.raises(UsageError, match="was drawn by engine idle, this is engine other"):
        repair(idle(name="other"), merged, copy, checked)
    with pytest.raises(BadInputError, match="other payloads: payload of bob there only"):
        repair(idle(), merge_payloads([payload("ann", (3, 0, 1))]), copy, checked)
    engine = idle()
    engine.manifest.key.weights = "cd" * 32
    with pytest.raises(UsageError, match="was drawn with weights abab"):
        repair(engine, merged, copy, checked)
    assert not (copy / "train-000001.tar").exists()


def test_a_shard_that_comes_out_otherwise_is_not_put_in_its_place(made, idle, merged, tmp_path):
    shutil.copytree(made, tmp_path / "synth")
    tar = tmp_path / "synth" / "train-000001.tar"
    tar.write_bytes(b"damaged")
    with pytest.raises(FglError, match="drawn again it has sha256"):
        repair(idle(lambda latents: -spoilt(latents)), merged, tmp_path / "synth", verify(tmp_path / "synth"))
    assert tar.read_bytes() == b"damaged" and read_checksum(tar) == file_digest(made / tar.name)


def test_the_verb(copy, made, idle, payload, monkeypatch, tmp_path):
    monkeypatch.setattr(datasets, "open_engine", lambda *_, **__: idle(spoilt))
    for client, counts in (("ann", (3, 0, 1)), ("bob", (1, 5, 0))):
        save_payload(payload(client, counts), tmp_path / f"{client}.safetensors")
    line, given = ["verify", str(copy), "--json"], ["--embeddings", f"{tmp_path}/*.safetensors"]
    sound = CliRunner().invoke(app, line)
    assert sound.exit_code == 0 and json.loads(sound.stdout)["damaged"] == {}
    (copy / "train-000002.tar").write_bytes(b"")
    damaged = CliRunner().invoke(app, line)
    assert damaged.exit_code == 5 and "damaged or missing: 1 of 3 shards" in damaged.stderr
    assert list(json.loads(damaged.stdout)["damaged"]) == ["train-000002.tar"]
    assert "train-000002.tar: damaged" in CliRunner().invoke(app, line[:2]).stdout
    assert CliRunner().invoke(app, [*line, "--repair"]).exit_code == 2
    mended = CliRunner().invoke(app, [*line, "--repair", *given])
    assert mended.exit_code == 0 and json.loads(mended.stdout)["repaired"] is True
    assert hashes(copy) == hashes(made) and CliRunner().invoke(app, line).exit_code == 0
    (copy / "train-000003.tar").write_bytes(b"")
    assert CliRunner().invoke(app, line).exit_code == 4
    (copy / "dataset.json").write_text('{"format_version": 1, "plan": 3}')
    broken = CliRunner().invoke(app, line)
    assert broken.exit_code == 4 and "dataset.json: " in broken.stderr


@pytest.mark.parametrize("verb", ["verify", "inspect"])
def test_a_sound_data_set_is_looked_at_without_any_networks_libraries(copy, verb):
    code = (
        f"import sys; sys.argv = ['fglfast', {verb!r}, {str(copy)!r}]\n"
        "from fglfast.__main__ import main\n"
        "try: main()\n"
        "except SystemExit as end: sys.exit(end.code or len({'torch', 'diffusers', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

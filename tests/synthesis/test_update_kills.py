"""Killed in the middle of an update, of a forgetting, of a share: nothing is lost and nothing is left."""

import multiprocessing
import os
import random
import signal
import time
from functools import partial
from pathlib import Path

import pytest
from idle_engine import decode
from living import content, maker

from fglfast.base.errors import IncompleteError
from fglfast.payload.merge import merge_payloads
from fglfast.sampler.schedule import Sampling
from fglfast.shards.description import read_description
from fglfast.synthesis.forget import forget
from fglfast.synthesis.settings import SynthesisSettings
from fglfast.synthesis.synthesize import synthesize

KILLS = int(os.environ.get("FUZZ_KILLS", 200)) // 2
ASKED = SynthesisSettings(images_per_class=4, shard_size=3, sampling=Sampling(steps=1, guidance_scale=1.0))
ANN, BOB = [("bag", 1, 3), ("shoe", 2, 1)], [("bag", 1, 1), ("bag", 3, 4), ("hat", 4, 2)]
CID = "cid-the-forgotten", [("hat", 9, 5), ("shoe", 8, 1)]


@pytest.fixture(scope="module")
def clients(random_mini):
    make = maker(random_mini)
    return {"ann": make("ann", ANN), "bob": make("bob", BOB), CID[0]: make(*CID)}


def ended(work):
    """The status of work in a process of its own."""
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    return process.exitcode


def killed_at(count, work):
    """Do work in this process, and kill it at the n-th thing it does to the disk."""
    left = [count]

    def counting(real):
        def call(*args, **kwargs):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        return call

    for name in ("rename", "replace", "unlink", "rmdir", "fsync", "link", "mkdir"):
        setattr(os, name, counting(getattr(os, name)))
    work()


def forget_cid(engine, clients, out):
    forget(CID[0], clients.values(), out, lambda: engine)


def torment(engine, clients, moments, tmp_path):
    """Kill a forgetting at each of some moments, then let it end; hold the set against what a fresh run makes."""
    three, two = merge_payloads(clients.values()), merge_payloads(list(clients.values())[:2])
    synthesize(engine, two, ASKED, tmp_path / "fresh")
    fresh, amid = content(tmp_path / "fresh"), 0
    gone = [CID[0], three.digests[2]]
    for number, moment in enumerate(moments):
        out = tmp_path / str(number)
        synthesize(engine, three, ASKED, out)
        before, work = content(out), partial(forget_cid, engine, clients, out)
        if ended(partial(killed_at, moment, work)) == -signal.SIGKILL:
            amid += 1
            try:
                read_description(out)
                assert content(out).items() >= before.items()  # not decided: all is there
            except IncompleteError:
                assert ended(work) == 0  # decided: nobody reads until it is done
            else:
                assert ended(work) == 0
        now = content(out)
        assert {name: data for name, data in now.items() if not name.startswith("forgotten-")} == fresh, moment
        assert not [name for name, data in now.items() if any(secret.encode() in data for secret in gone)]
    return amid


def test_an_update_killed_at_any_of_its_steps_ends_as_if_it_was_not(idle, clients, tmp_path):
    assert torment(idle(), clients, range(2, 130, 9), tmp_path) >= 8


@pytest.mark.fuzz
@pytest.mark.timeout(0)
def test_a_hundred_updates_killed_at_random(idle, clients, tmp_path):
    draw = random.Random(0)
    assert torment(idle(), clients, [draw.randint(1, 130) for _ in range(KILLS)], tmp_path) > KILLS // 2


def slow(latents):
    time.sleep(0.1)
    return decode(latents)


def test_the_share_of_a_killed_rank_is_drawn_by_the_other(idle, clients, tmp_path):
    """No rerun: the other takes what the dead one had claimed, and ends with the whole data set."""
    asked, merged = ASKED.model_copy(update={"images_per_class": 32}), merge_payloads(clients.values())
    fork = multiprocessing.get_context("fork")
    ranks = [
        fork.Process(target=synthesize, args=(idle(slow), merged, asked, tmp_path / "out", rank, 2)) for rank in (0, 1)
    ]
    for rank in ranks:
        rank.start()
    deadline = time.monotonic() + 60
    while not list(Path(tmp_path / "out").glob("*.tar")) and time.monotonic() < deadline:
        time.sleep(0.01)
    ranks[1].kill()
    for rank in ranks:
        rank.join(100)
    assert [rank.exitcode for rank in ranks] == [0, -signal.SIGKILL]
    synthesize(idle(), merged, asked, tmp_path / "whole")
    assert content(tmp_path / "out").items() >= content(tmp_path / "whole").items()

"""Which claims are asked for by name: those that no honest client makes and that displace others, and no others."""

import numpy as np
import pytest

from fglfast.base.errors import BadInputError
from fglfast.images.partition import partition_dirichlet
from fglfast.payload.claims import HONEST, check_claims, excessive, outweighing, tell_outweighing
from fglfast.payload.merge import Merged


def merged(*claims, domains=None):
    """Of (client, label, prompt, count)."""
    names = tuple(sorted({client for client, *_ in claims}))
    clients, labels, content, counts = zip(*sorted(claims), strict=True)
    return Merged(
        class_names=tuple(f"c{label}" for label in range(max(labels) + 1)),
        embeddings=np.zeros((max(content) + 1, 1, 2), np.float16),
        token_ids=None,
        content=np.array(content),
        labels=np.array(labels),
        counts=np.array(counts, dtype=np.int64),
        clients=names,
        domains=domains or (None,) * len(names),
        levels=("instance",) * len(names),
        row_client=np.array([names.index(client) for client in clients]),
        digests=names,
        text_encoder="ab" * 32,
    )


ABSURD = (("ann", 0, 0, 600), ("bob", 0, 1, 400), ("eve", 0, 2, 10**9))


def test_a_claim_that_no_honest_client_makes_is_asked_for_by_name():
    with pytest.raises(BadInputError, match=r"'eve' claims 1,000,000,000 images of class 'c0'.*1,000:") as refused:
        check_claims(merged(*ABSURD), (), 1.0, "--trusted-counts CLIENT")
    assert "--trusted-counts CLIENT" in refused.value.hint
    check_claims(merged(*ABSURD), ("eve",), 1.0, "")
    check_claims(merged(*ABSURD), (), 0.5, "")


@pytest.mark.parametrize(
    "claims",
    [
        [("eve", 0, 0, 10**9)],  # alone
        [("eve", 0, 0, 10**9), ("ann", 1, 1, 1)],  # nobody else holds the class
        [("ann", 0, 0, 600), ("eve", 0, 0, 10**9)],  # of a prompt that all send
        [("ann", 0, 0, 600), ("eve", 0, 1, HONEST)],
        [("ann", 0, 0, HONEST), ("eve", 0, 1, 50 * HONEST)],  # others of that size
        [("ann", 0, 0, 1), *(("eve", label, label + 1, 300_000) for label in range(1000))],  # many classes
    ],
)
def test_what_displaces_nobody_or_may_be_is_taken_as_it_is(claims):
    assert not excessive(merged(*claims), ())


def test_several_prompts_of_a_client_count_together_and_a_domain_makes_a_prompt_another():
    parts = [("ann", 0, 0, 600), *(("eve", 0, k, 300_000) for k in range(1, 5))]
    assert set(excessive(merged(*parts), ())) == {"eve"}
    same = [("ann", 0, 0, 600), ("eve", 0, 0, 10**9)]
    assert set(excessive(merged(*same, domains=(None, "sketch")), ())) == {"eve"}


@pytest.mark.parametrize("beta", [0.01, 0.1, 100.0])
@pytest.mark.parametrize("seed", range(3))
def test_honest_skew_of_a_million_images_is_never_asked_for(beta, seed):
    labels = np.repeat(np.arange(10), 1000)
    parts = partition_dirichlet(labels, 5, beta, seed)
    counts = [
        (f"client{k}", *each)
        for k, part in enumerate(parts)
        for each in zip(*np.unique(labels[part], return_counts=True), strict=True)
    ]
    claims = [(who, int(label), k, 100 * int(count)) for k, (who, label, count) in enumerate(counts)]
    assert not excessive(merged(*claims), ())


def test_who_outweighs_all_others_is_said_unless_trusted_or_one_of_two(capsys):
    assert outweighing({"ann": 3, "bob": 1, "cid": 1}) == {"ann": 2}
    assert outweighing({"ann": 3}) == {} and outweighing({"ann": 2, "bob": 1, "cid": 1}) == {}
    tell_outweighing(merged(*ABSURD[:2]), ())
    tell_outweighing(merged(*ABSURD), ("eve",))
    assert capsys.readouterr().err == ""
    tell_outweighing(merged(*ABSURD), ())
    assert "'eve' claims 1,000,000,000 images, more than all others together (1,000)" in capsys.readouterr().err

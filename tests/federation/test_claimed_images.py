"""What claims of images weigh, and what members agree on."""

import pytest

from fglfast.federation.members import Member, Members, agreed, median


def weights(*claims, trusted=()):
    members = [Member(name=f"c{number}", node=number, images=images) for number, images in enumerate(claims)]
    return list(Members(members, trusted).images.values())


@pytest.mark.parametrize(
    ("claims", "found"),
    [
        ((50, 60, 70), [50, 60, 70]),
        ((50, 60, 1000), [50, 60, 110]),
        ((50, 60, 70, 10**9), [50, 60, 70, 60]),
        ((50, 60, 70, 10**9, 2 * 10**11), [50, 60, 70, 60, 60]),  # the larger lie makes the smaller no truth
        ((50, 60, 70, 10**9, 5 * 10**9), [50, 60, 70, 60, 60]),
        ((10, 20, 1000, 1100), [10, 20, 1000, 1030]),
        ((7,), [7]),
        ((0, 0), [0, 0]),
    ],
)
def test_a_claim_weighs_no_more_than_others_make_credible(claims, found):
    assert weights(*claims) == found


def test_a_trusted_claim_weighs_whole():
    assert weights(50, 60, 10**9, trusted=("c2",)) == [50, 60, 10**9]


def test_fewer_than_three_agree_on_nothing():
    assert agreed({"ann": 1.0, "bob": 0.0}) is None and median({"ann": 1.0, "bob": 0.0}) == 0.5
    assert agreed({"ann": 1.0, "bob": 0.0, "eve": 0.2}) == 0.2

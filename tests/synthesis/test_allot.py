import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fglfast.images.partition import partition_dirichlet
from fglfast.synthesis.allot import allot, allot_rows

counted = st.lists(st.tuples(st.integers(1, 10**6), st.integers(0, 4)), min_size=1, max_size=12)


@given(st.integers(0, 1000), st.lists(st.integers(1, 10**9), min_size=1, max_size=20))
def test_allotment_is_exact_and_proportional(total, counts):
    shares = allot(total, np.array(counts))
    assert shares.sum() == total
    assert all(abs(share - total * count / sum(counts)) < 1 for share, count in zip(shares, counts, strict=True))


@given(st.integers(0, 1000), counted, st.floats(0.01, 1))
def test_no_client_is_above_its_cap_and_nothing_is_lost(total, pairs, share):
    counts, clients = np.array(pairs, dtype=np.int64).T
    rows = np.arange(len(counts))
    shares = allot_rows(total, counts, rows, clients, share)
    of_client = [shares[clients == client].sum() for client in np.unique(clients)]
    cap = max(share * total, -(-total // len(of_client)))
    assert shares.sum() == total and (shares >= 0).all() and max(of_client) <= cap + 1e-9
    assert np.array_equal(allot_rows(total, counts, rows, clients, 1.0), allot(total, counts))


claims = st.lists(st.tuples(st.integers(1, 50), st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=12)


@given(st.integers(0, 100), claims, st.sampled_from([0.1, 0.5, 1.0]), st.randoms(), st.permutations(range(5)))
def test_rows_that_several_clients_claim_get_the_same_whatever_the_order_and_names(total, claimed, share, order, names):
    def shares(some):
        counts, rows, clients = np.array(some, dtype=np.int64).T
        return allot_rows(total, counts, np.unique(rows, return_inverse=True)[1], clients, share)

    shuffled = [(count, row, names[client]) for count, row, client in claimed]
    order.shuffle(shuffled)
    assert shares(claimed).sum() == total and np.array_equal(shares(claimed), shares(shuffled))


def test_one_client_cannot_own_a_class_that_others_hold_too():
    counts, rows, clients = np.array([10**12, 3, 1]), np.arange(3), np.array([0, 1, 2])
    assert allot(100, counts).tolist() == [100, 0, 0]
    assert allot_rows(100, counts, rows, clients, 0.5).tolist() == [50, 38, 12]
    assert allot_rows(100, counts[:1], rows[:1], clients[:1], 0.5).tolist() == [100]
    assert allot_rows(100, np.array([6, 2, 2]), rows, clients, 0.5).tolist() == [50, 25, 25]
    assert allot_rows(100, np.array([5, 3, 2]), rows, clients, 0.5).tolist() == [50, 30, 20]


def test_a_large_claim_on_a_shared_row_counts_for_its_client_alone():
    """Ann says 96 of the row that bob shares with her; capped at half, her quota and bob's meet in that row."""
    counts, rows, clients = np.array([96, 2, 2]), np.array([0, 0, 1]), np.array([0, 1, 1])
    assert allot_rows(100, counts, rows, clients, 1.0).tolist() == [98, 2]
    assert allot_rows(100, counts, rows, clients, 0.5).tolist() == [75, 25]


def test_any_cap_below_one_would_cut_honest_clients():
    """Beta 0.01: a class held by two of whom one has all but a few images; so the default cuts nothing."""
    labels = np.repeat(np.arange(10), 3000)
    largest = 0.0
    for seed in range(20):
        owners = [np.bincount(labels[part], minlength=10) for part in partition_dirichlet(labels, 5, 0.01, seed)]
        held = np.array(owners)[:, (np.array(owners) > 0).sum(0) > 1]
        largest = max(largest, (held.max(0) / held.sum(0)).max(initial=0))
    assert largest > 0.99

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fglfast.base.errors import UsageError
from fglfast.images.partition import partition_by_domain, partition_dirichlet, partition_iid

labels_of = st.lists(st.integers(0, 6), min_size=12, max_size=200).map(lambda values: np.array(values, dtype=np.int64))


def covers(parts, labels):
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))
    assert all(np.array_equal(part, np.sort(part)) for part in parts)


@given(labels_of, st.integers(1, 12), st.floats(0.001, 100), st.integers(0, 5))
def test_dirichlet_deals_every_image_once_and_leaves_nobody_empty(labels, clients, beta, seed):
    parts = partition_dirichlet(labels, clients, beta, seed)
    covers(parts, labels)
    assert len(parts) == clients and min(len(part) for part in parts) >= 1
    again = partition_dirichlet(labels, clients, beta, seed)
    assert all(np.array_equal(one, other) for one, other in zip(parts, again, strict=True))


@given(labels_of, st.integers(1, 12), st.integers(0, 5))
def test_iid_deals_evenly(labels, clients, seed):
    parts = partition_iid(labels, clients, seed)
    covers(parts, labels)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_small_beta_skews_and_large_beta_does_not():
    labels = np.repeat(np.arange(10), 200)
    held = [[len(np.unique(labels[part])) for part in partition_dirichlet(labels, 5, beta, 0)] for beta in (0.01, 100)]
    assert sum(held[0]) < 25 and sum(held[1]) == 50


def test_domains_are_clients():
    assert [part.tolist() for part in partition_by_domain(["sketch", "photo", "sketch"])] == [[1], [0, 2]]


@pytest.mark.parametrize(("images", "clients", "beta"), [(3, 4, 0.5), (3, 0, 0.5), (3, 2, 0.0)])
def test_refusals(images, clients, beta):
    with pytest.raises(UsageError):
        partition_dirichlet(np.zeros(images, dtype=np.int64), clients, beta, 0)

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fglfast.base.errors import UsageError
from fglfast.images.partition import (
    partition_by_domain,
    partition_classes,
    partition_dirichlet,
    partition_dirichlet_classes,
    partition_domain_labels,
    partition_iid,
    partition_quantity,
    partition_shards,
)

labels_of = st.lists(st.integers(0, 6), min_size=12, max_size=200).map(lambda values: np.array(values, dtype=np.int64))


def covers(parts, labels):
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))
    assert all(np.array_equal(part, np.sort(part)) for part in parts)


@pytest.mark.parametrize("partition", [partition_dirichlet, partition_dirichlet_classes])
@given(labels_of, st.integers(1, 4), st.floats(0.5, 100), st.integers(0, 5))
def test_dirichlet_deals_every_image_once_and_leaves_nobody_empty(partition, labels, clients, beta, seed):
    parts = partition(labels, clients, beta, seed, min_images=1)
    covers(parts, labels)
    assert len(parts) == clients and min(len(part) for part in parts) >= 1
    again = partition(labels, clients, beta, seed, min_images=1)
    assert all(np.array_equal(one, other) for one, other in zip(parts, again, strict=True))


@given(labels_of, st.integers(1, 12), st.floats(0.0001, 1000), st.integers(0, 5))
def test_dirichlet_over_classes_gives_all_clients_as_many_images(labels, clients, beta, seed):
    parts = partition_dirichlet_classes(labels, clients, beta, seed)
    covers(parts, labels)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_small_beta_over_classes_leaves_a_client_few_of_them():
    labels = np.repeat(np.arange(10), 200)
    held = [
        [len(np.unique(labels[part])) for part in partition_dirichlet_classes(labels, 5, beta, 0)]
        for beta in (0.01, 1000)
    ]
    assert held[0] == [2, 2, 2, 2, 2] and held[1] == [10, 10, 10, 10, 10]


@pytest.mark.parametrize("seed", range(5))
def test_dirichlet_is_drawn_again_until_every_client_has_enough(seed):
    labels = np.repeat(np.arange(10), 500)
    few, enough = (partition_dirichlet(labels, 5, 0.01, seed, least) for least in (1, 400))
    assert min(map(len, partition_dirichlet(labels, 5, 0.01, seed))) >= 10, "by default"
    assert min(map(len, enough)) >= 400
    if min(map(len, few)) >= 400:  # the first draw stands where it fits
        assert all(np.array_equal(one, other) for one, other in zip(few, enough, strict=True))


def test_what_no_draw_gives_is_refused_with_what_to_change():
    labels = np.repeat(np.arange(10), 500)
    with pytest.raises(UsageError, match=r"40 clients, beta 0.01: .* 10 images") as caught:
        partition_dirichlet(labels, 40, 0.01, 0)
    assert "min_images" in caught.value.hint


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


@pytest.mark.parametrize("partition", [partition_dirichlet, partition_dirichlet_classes])
@pytest.mark.parametrize(
    ("images", "clients", "beta", "least"), [(3, 4, 0.5, 1), (3, 0, 0.5, 1), (3, 2, 0.0, 1), (39, 4, 0.5, 10)]
)
def test_refusals(partition, images, clients, beta, least):
    with pytest.raises(UsageError):
        partition(np.zeros(images, dtype=np.int64), clients, beta, 0, least)


def test_iid_refuses_clients_of_too_few_images():
    with pytest.raises(UsageError, match="40 needed"):
        partition_iid(np.zeros(39, dtype=np.int64), 4, 0, 10)


@given(st.integers(5, 12), st.integers(2, 4), st.integers(0, 9))
def test_so_many_classes_a_client_and_no_class_left_out(clients, each, seed):
    labels = np.repeat(np.arange(10), 40)
    parts = partition_classes(labels, clients, each, seed)
    covers(parts, labels)
    assert {len(np.unique(labels[part])) for part in parts} == {each}


def test_classes_that_cannot_all_be_given_out_are_refused():
    labels = np.repeat(np.arange(10), 40)
    for clients, each in ((3, 3), (5, 11)):
        with pytest.raises(UsageError, match="cannot share out 10 classes"):
            partition_classes(labels, clients, each, 0)


@given(st.integers(2, 10), st.integers(1, 3), st.integers(0, 9))
def test_shards_are_as_many_images_of_few_classes(clients, shards, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(10), 60))
    parts = partition_shards(labels, clients, shards, seed)
    covers(parts, labels)
    assert max(map(len, parts)) - min(map(len, parts)) <= shards
    most = shards * (1 + -(-10 // (clients * shards)))
    assert max(len(np.unique(labels[part])) for part in parts) <= most


@given(st.integers(2, 6), st.integers(0, 9))
def test_quantity_skew_is_of_sizes_and_not_of_classes(clients, seed):
    labels = np.repeat(np.arange(4), 500)
    parts = partition_quantity(labels, clients, 0.5, seed)
    covers(parts, labels)
    assert min(map(len, parts)) >= 10
    largest = max(parts, key=len)
    assert len(np.unique(labels[largest])) == 4
    with pytest.raises(UsageError, match="none of 1,000 draws"):
        partition_quantity(labels[:40], 4, 0.001, seed)


def test_domains_times_labels():
    labels = np.tile(np.repeat(np.arange(10), 30), 2)
    domains = ["photo"] * 300 + ["sketch"] * 300
    parts = partition_domain_labels(domains, labels, 3, 0.1, 0)
    covers(parts, labels)
    assert len(parts) == 6 and all(len({domains[row] for row in part}) == 1 for part in parts)

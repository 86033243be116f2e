"""The split and the order of rows."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fglfast.training.batches import epoch_rows, split


@given(
    images=st.integers(8, 200),
    world=st.integers(1, 4),
    each=st.integers(1, 8),
    seed=st.integers(0, 2**40),
    epoch=st.integers(0, 9),
)
def test_ranks_share_every_step_without_overlap(images: int, world: int, each: int, seed: int, epoch: int) -> None:
    rows, batch = np.arange(100, 100 + images), world * each
    whole = list(epoch_rows(rows, batch, seed, epoch))
    parts = [list(epoch_rows(rows, batch, seed, epoch, rank, world)) for rank in range(world)]
    assert len(whole) == images // batch
    for step, expected in enumerate(whole):
        together = np.concatenate([part[step] for part in parts])
        assert sorted(together) == sorted(expected)
        assert all(len(part[step]) == each for part in parts)
    seen = np.concatenate(whole) if whole else np.array([])
    assert len(set(seen.tolist())) == len(seen)
    first = len(whole) // 2
    resumed = list(epoch_rows(rows, batch, seed, epoch, first_step=first))
    assert [r.tolist() for r in resumed] == [w.tolist() for w in whole[first:]]


def test_order_changes_with_epoch_and_seed() -> None:
    rows = np.arange(64)
    first = np.concatenate(list(epoch_rows(rows, 8, 0, 0)))
    assert first.tolist() == np.concatenate(list(epoch_rows(rows, 8, 0, 0))).tolist()
    assert first.tolist() != np.concatenate(list(epoch_rows(rows, 8, 0, 1))).tolist()
    assert first.tolist() != np.concatenate(list(epoch_rows(rows, 8, 1, 0))).tolist()


@given(
    counts=st.lists(st.integers(0, 60), min_size=1, max_size=6).filter(sum),
    share=st.sampled_from([0.0, 0.01, 0.05, 0.3, 0.5]),
    seed=st.integers(0, 99),
)
def test_split_is_stratified(counts: list[int], share: float, seed: int) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    train, held_out = split(labels, share, seed)
    assert sorted([*train, *held_out]) == list(range(len(labels)))
    for label, count in enumerate(counts):
        out = int((labels[held_out] == label).sum())
        assert out == (0 if share == 0 or count < 2 else max(1, round(share * count)))
        assert count == 0 or (labels[train] == label).any()
    again = split(labels, share, seed)
    assert (again[0] == train).all() and (again[1] == held_out).all()

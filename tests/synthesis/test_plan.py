from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fglfast.payload.merge import Merged
from fglfast.synthesis.plan import make_plan


def rows(labels, counts, classes):
    return Merged(
        class_names=tuple(f"c{k}" for k in range(classes)),
        embeddings=np.arange(len(labels), dtype=np.uint32).view(np.float16).reshape(-1, 1, 2),
        token_ids=None,
        content=np.arange(len(labels), dtype=np.int64),
        labels=np.array(labels, dtype=np.int64),
        counts=np.array(counts, dtype=np.int64),
        clients=("ann",),
        domains=(None,),
        levels=("class",),
        row_client=np.zeros(len(labels), dtype=np.int64),
        digests=("d",),
        text_encoder="ab" * 32,
    )


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(1, 50)), min_size=1, max_size=12),
    st.integers(1, 30),
    st.integers(1, 17),
)
def test_a_plan_is_balanced_and_every_identity_is_unique(pairs, per_class, shard_size):
    labels, counts = zip(*pairs, strict=True)
    plan = make_plan(rows(labels, counts, 5), per_class, 0, shard_size, {})
    items = [item for number in range(plan.shards) for item in plan.shard(number)]
    assert len(items) == plan.images == per_class * len(set(labels))
    assert len({(item.label, item.digest, item.ordinal) for item in items}) == len(items)
    assert [plan.index_of(item) for item in items] == list(range(len(items)))
    assert {label: sum(item.label == label for item in items) for label in set(labels)} == dict.fromkeys(
        set(labels), per_class
    )
    assert all(labels[item.row] == item.label for item in items)


def test_anything_that_changes_images_changes_the_digest():
    base = make_plan(rows([0, 1], [1, 2], 2), 4, 0, 8, {"steps": 2})
    others = [
        make_plan(rows([0, 1], [2, 1], 2), 4, 0, 8, {"steps": 3}),
        make_plan(rows([0, 1], [1, 2], 2), 5, 0, 8, {"steps": 2}),
        make_plan(rows([0, 1], [1, 2], 2), 4, 1, 8, {"steps": 2}),
        make_plan(rows([0, 1], [1, 2], 2), 4, 0, 4, {"steps": 2}),
        replace(base, in_turn=False),
    ]
    assert len({plan.digest() for plan in [base, *others]}) == 6


def test_a_million_images_are_planned_at_once(tmp_path):
    plan = make_plan(rows(list(range(1000)) * 100, [1] * 100_000, 1000), 1000, 0, 512, {})
    assert plan.images == 1_000_000 and len(plan.remaining(tmp_path)) == plan.shards == 1954


COUNTS = st.lists(st.integers(1, 1000), min_size=1, max_size=12)


@given(COUNTS, st.integers(1, 400), st.data())
def test_any_first_part_holds_the_rows_in_proportion(counts, per_class, data):
    plan = make_plan(rows([0] * len(counts), counts, 1), per_class, 0, 8, {})
    first = data.draw(st.integers(1, per_class))
    drawn = [item.digest for item in map(plan.item, range(first))]
    for row in plan.rows:
        share = row.images * first / per_class
        assert abs(drawn.count(row.row) - share) <= 0.5 + row.images / per_class * len(counts) / 2


@given(COUNTS, st.integers(1, 200), st.integers(1, 200))
def test_a_smaller_set_is_the_first_part_of_a_larger_one_but_for_an_image_or_two_of_a_row(counts, fewer, more):
    """Exactly so where a class has one row; largest remainders do not grow evenly (the Alabama paradox)."""
    counts = sorted(counts)
    table = rows([0] * len(counts), counts, 1)
    small = make_plan(table, fewer, 0, 8, {})
    large = make_plan(table, fewer + more, 0, 8, {})
    first = [(item.digest, item.ordinal) for item in map(large.item, range(fewer))]
    assert len({*first} & {(item.digest, item.ordinal) for item in small.items()}) >= fewer - len(counts) - 1
    if len(counts) == 1:
        assert first == [(item.digest, item.ordinal) for item in small.items()]

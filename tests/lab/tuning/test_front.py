from hypothesis import example, given
from hypothesis import strategies as st

from fglfast.lab.tuning.front import best_within, pareto_front

POINTS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12)


def beats(points, one, other):
    (cost, accuracy), (more, less) = points[one], points[other]
    as_good = cost <= more and accuracy >= less
    return as_good and (points[one] != points[other] or one < other)


@given(POINTS)
@example([(1, 1), (1, 1), (0, 1), (1, 2)])
def test_the_front_is_what_no_point_beats(points):
    places = range(len(points))
    unbeaten = {place for place in places if not any(beats(points, other, place) for other in places)}
    front = pareto_front(points)
    assert set(front) == unbeaten and len(front) == len(unbeaten)
    assert [points[place] for place in front] == sorted(points[place] for place in front)


@given(POINTS, st.integers(-1, 7))
def test_the_winner_is_the_most_accurate_within_the_budget_and_the_cheaper_of_two(points, budget):
    affordable = [point for point in points if point[0] <= budget]
    best = best_within(points, budget)
    if best is None:
        assert not affordable
    else:
        assert points[best] == max(affordable, key=lambda point: (point[1], -point[0]))

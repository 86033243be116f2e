"""What a second buys: the Pareto front of seconds and accuracy."""

from collections.abc import Sequence

Point = tuple[float, float]


def pareto_front(points: Sequence[Point]) -> list[int]:
    """Places of the points (seconds, accuracy) that no other beats, by rising seconds and accuracy.

    One point beats another if it costs no more and is as accurate, and is better in one of the two; of equal points
    the first counts.
    """
    front: list[int] = []
    for place in sorted(range(len(points)), key=lambda place: (points[place][0], -points[place][1])):
        if not front or points[place][1] > points[front[-1]][1]:
            front.append(place)
    return front


def best_within(points: Sequence[Point], budget: float) -> int | None:
    """Place of the most accurate point that costs no more than the budget, if any; the cheaper of two that tie."""
    affordable = [place for place in pareto_front(points) if points[place][0] <= budget]
    return affordable[-1] if affordable else None

"""Prototypes moved by transport, on Gaussian classes whose place is known."""

import ot
import pytest
import torch
from torch import Tensor

from fglfast.training.opta import Delivered, Seen, by_shots, by_transport, move, root, sinkhorn, start

WIDTH, CENTRES = 6, torch.eye(6, dtype=torch.float64)[:2] * 6
SHIFT = torch.tensor([3.0, 3.0, -2.0, 0.0, 5.0, 0.0], dtype=torch.float64)


def draw(label: int, count: int, seed: int, shift: Tensor = SHIFT) -> Tensor:
    """Features of a class at the client."""
    generator = torch.Generator().manual_seed(10 * seed + label)
    return CENTRES[label] + shift + torch.randn(count, WIDTH, generator=generator, dtype=torch.float64)


def delivered(classes: int = 2) -> Delivered:
    known_K = torch.arange(2) < classes
    return Delivered(torch.where(known_K[:, None], CENTRES, 0.0), known_K, float(WIDTH))


def seen(shots: int, others: int, shift: Tensor = SHIFT, labels: tuple[int, ...] = (0, 1)) -> Seen:
    known = torch.cat([draw(label, shots, 1, shift) for label in labels])
    unknown = torch.cat([draw(label, others, 2, shift) for label in labels])
    share_K = torch.zeros(2, dtype=torch.float64).index_fill(0, torch.tensor(labels), 1 / len(labels))
    return Seen(known, torch.tensor(labels).repeat_interleave(shots), unknown, share_K)


def test_a_plan_is_that_of_pot() -> None:
    generator = torch.Generator().manual_seed(0)
    cost_KN = torch.rand(4, 9, generator=generator, dtype=torch.float64)
    rows_K, columns_N = (torch.rand(size, generator=generator, dtype=torch.float64) + 0.5 for size in (4, 9))
    rows_K, columns_N = rows_K / rows_K.sum(), columns_N / columns_N.sum()
    plan_KN = sinkhorn(cost_KN, rows_K, columns_N, 0.2)
    expected = ot.sinkhorn(rows_K.numpy(), columns_N.numpy(), cost_KN.numpy(), 0.2, numItermax=5000, stopThr=1e-12)
    assert torch.allclose(plan_KN, torch.from_numpy(expected), atol=1e-8)
    assert torch.allclose(plan_KN.sum(1), rows_K)


def test_nothing_goes_where_it_is_barred() -> None:
    cost_KN = torch.tensor([[0.0, 1.0, float("inf")], [1.0, 0.0, 0.5]], dtype=torch.float64)
    thirds_N = torch.full((3,), 1 / 3, dtype=torch.float64)
    plan_KN = sinkhorn(cost_KN, torch.tensor([0.5, 0.5], dtype=torch.float64), thirds_N, 0.1)
    assert plan_KN[0, 2] == 0 and torch.allclose(plan_KN.sum(1), torch.tensor([0.5, 0.5]).double(), atol=1e-6)


def test_a_common_shift_is_recovered_from_one_shot_a_class_and_images_without_labels() -> None:
    moved_KF = move(CENTRES, seen(shots=1, others=300))
    assert (moved_KF - CENTRES - SHIFT).norm(dim=1).max() < 0.5
    assert (CENTRES + SHIFT - CENTRES).norm() > 5, "as far as that was"


def test_both_layers_name_the_clients_classes_where_the_delivered_means_do_not() -> None:
    images = torch.cat([draw(label, 200, 3) for label in (0, 1)])
    labels = torch.tensor([0, 1]).repeat_interleave(200)
    shifted = delivered()
    for layer in (by_shots, by_transport):
        assert (layer(shifted, seen(5, 100))(images).argmax(1) == labels).double().mean() > 0.98


def test_without_a_shift_prototypes_stay_within_noise() -> None:
    moved_KF = move(CENTRES, seen(shots=5, others=300, shift=torch.zeros(WIDTH, dtype=torch.float64)))
    assert (moved_KF - CENTRES).norm(dim=1).max() < 0.5


def test_a_class_that_the_client_lacks_keeps_its_prototype() -> None:
    own = seen(shots=3, others=50, labels=(1,))
    assert torch.equal(start(delivered(), own)[0], CENTRES[0])
    assert torch.equal(move(CENTRES, own)[0], CENTRES[0])
    assert (move(CENTRES, own)[1] - CENTRES[1] - SHIFT).norm() < 0.8


def test_a_class_without_prototype_or_shots_is_never_named() -> None:
    own = seen(shots=3, others=20, labels=(0,))
    for layer in (by_shots, by_transport):
        assert (layer(delivered(classes=1), own)(draw(1, 50, 4)).argmax(1) == 0).all()
    with_shots = by_shots(delivered(classes=1), seen(shots=5, others=0))
    assert (with_shots(draw(1, 50, 4)).argmax(1) == 1).double().mean() > 0.9, "its shots tell where it is"


def test_nor_is_it_named_where_all_features_lie_far_from_zero() -> None:
    """The scores of known classes are then of any size."""
    far = 1000 * torch.ones(WIDTH, dtype=torch.float64)
    own = seen(shots=3, others=20, labels=(0,), shift=far)
    for layer in (by_shots, by_transport):
        for images in (draw(1, 50, 4, far), torch.zeros(1, WIDTH, dtype=torch.float64)):
            assert (layer(delivered(classes=1), own)(images).argmax(1) == 0).all()


@pytest.mark.parametrize("same", [False, True])
def test_the_metric_is_sound_for_one_shot_and_for_shots_that_are_all_the_same(same: bool) -> None:
    one = seen(shots=1, others=0)
    own = Seen(one.shots_SF.repeat(3, 1), one.labels_S.repeat(3), one.others_UF, one.share_K) if same else one
    root_FF = root(delivered(), own)
    assert torch.isfinite(root_FF).all() and torch.linalg.matrix_rank(root_FF) == WIDTH
    assert torch.isfinite(by_transport(delivered(), own).weight_KF).all()


def test_directions_in_which_shots_differ_count_less() -> None:
    own = seen(shots=200, others=0)
    wide = own.shots_SF * torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 10.0], dtype=torch.float64)
    root_FF = root(delivered(), Seen(wide, own.labels_S, own.others_UF, own.share_K))
    metric_F = (root_FF @ root_FF.T).diagonal()
    assert metric_F[5] < metric_F[:5].min() / 5

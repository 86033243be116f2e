"""The images that a server judges averages by."""

import numpy as np
import pytest
from small_federation import CLASSES

from fglfast.federation.own_images import MOST, own_images


@pytest.mark.parametrize("per_class", [511, 512, 1022])
def test_every_class_has_its_part_of_the_images_in_whatever_order_they_are(per_class, experiment, tmp_path):
    """One of each class after the other: every third would be of one class alone."""
    labels = np.tile(np.arange(3), per_class)
    images = np.broadcast_to(labels.astype(np.uint8)[:, None, None, None], (len(labels), 16, 16, 3))
    np.savez(tmp_path / "public.npz", images=images, labels=labels, class_names=np.array(CLASSES))
    public = experiment.model_copy(update={"public": str(tmp_path / "public.npz")})
    found, again = (own_images(public, CLASSES, None) for _ in range(2))
    assert len(found.labels) == MOST and min(np.bincount(found.labels)) > MOST / 4
    assert found.labels.tolist() == again.labels.tolist()

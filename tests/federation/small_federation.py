"""Three classes that a glance tells apart."""

import numpy as np

CLASSES = ("t-shirt", "bag", "ankle boot")


def write_images(path, per_class, seed=0, classes=CLASSES):
    """Class k is bright in its k-th third; npz as dataset.py reads it."""
    draw = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(classes)), per_class)
    images = draw.integers(0, 60, (len(labels), 16, 16, 3), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[:, 5 * label : 5 * label + 5] += 150
    np.savez(path, images=images, labels=labels, class_names=np.array(classes))
    return str(path)

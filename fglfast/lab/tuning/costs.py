"""What a candidate would take, from what others took."""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import nnls

from fglfast.lab.tuning.records import Trial


def predict(images: int, passes: int, row_seconds: float, trials: Sequence[Trial]) -> float:
    """Server-seconds of synthesis and training; without trials only those of the denoiser, which is a lower bound.

    Args:
        images: synthetic images of all classes.
        passes: rows of the denoiser that one image costs.
        row_seconds: measured seconds of such a row.
        trials: finished ones.
    """
    an_image, a_row = synthesis_rates(row_seconds, trials)
    return images * (an_image + passes * a_row) + _training(images, trials)


def synthesis_rates(row_seconds: float, trials: Sequence[Trial]) -> tuple[float, float]:
    """Seconds of an image, decoded and written, and of a denoiser's row: least squares of relative errors."""
    costs = [(0.0, 1.0)]
    seconds = [row_seconds]
    for trial in trials:
        assert trial.measured is not None
        costs.append((trial.images, trial.images * trial.passes))
        seconds.append(trial.measured.synthesis_seconds)
    scaled = np.array(costs) / np.maximum(seconds, 1e-9)[:, None]
    an_image, a_row = nnls(scaled, np.ones(len(seconds)))[0]
    return float(an_image), float(a_row)


def _training(images: int, trials: Sequence[Trial]) -> float:
    """Epochs in proportion to the images; what surrounds them takes the same for all."""
    found = [(trial.images, trial.measured) for trial in trials if trial.measured]
    if not found:
        return 0.0
    around = sum(took.training_seconds - took.epoch_seconds for _, took in found) / len(found)
    return around + images * sum(took.epoch_seconds for _, took in found) / sum(count for count, _ in found)

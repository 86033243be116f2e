"""What a client says of its images under differential privacy: noisy counts, noisy means of embeddings.

Each image belongs to the public prompt of its class that is nearest to its own: at class level there is one, the class
name; at instance level there is one for each of the measured words that `fglfast.images.attributes` can say. Released
is, for every public prompt of every class, whether the client has such images or not,

    the number of its images + noise
    the sum of (embedding of the image's prompt - the public one), each cut to norm C, divided by C, + noise

with the same Gaussian noise on every coordinate. An image that comes or goes changes a count by 1 and a sum by at most
1, an image that is replaced changes two counts and two sums so, or one sum by at most 2: the L2 sensitivity is 2. At
class level there are no sums, and it is the square root of 2: one class loses an image, another gains it.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fglfast.base.errors import UsageError
from fglfast.client.privacy import Budget, Floats, gaussian, noise_scale, stands_out, whole
from fglfast.client.prompts import check_template
from fglfast.generator.text_encoder import TextEncoder
from fglfast.images.attributes import descriptions
from fglfast.payload import Privacy

Row = tuple[int, float, NDArray[np.float16]]  # class, noisy count, embedding

CLASS_SENSITIVITY, INSTANCE_SENSITIVITY = math.sqrt(2), 2.0
COMPARED = 64  # prompts that are held against the public ones at once
SPREAD_CLASSES = 10  # the first so many tell how far public prompts lie apart


def private_counts(counts: NDArray[np.int64], budget: Budget) -> tuple[NDArray[np.int64], Privacy]:
    """Class-level release: noisy images of each class [K], 0 where none stand out; and what the header says of it."""
    noise = noise_scale(budget, CLASS_SENSITIVITY)
    noisy_K = counts + noise * gaussian(len(counts))
    kept_K = stands_out(noisy_K, noise)
    kept_K[noisy_K.argmax()] = True  # a payload has a row
    return np.where(kept_K, whole(noisy_K), 0), budget.statement(0.0, noise)


@dataclass(frozen=True)
class PrivateRows:
    """Rows of an instance-level release.

    Attributes:
        embeddings: text embeddings [N,L,D].
        labels: class of each row [N].
        counts: noisy images behind each row [N], at least 1.
        privacy: what the header says of them.
    """

    embeddings: NDArray[np.float16]
    labels: NDArray[np.int64]
    counts: NDArray[np.int64]
    privacy: Privacy


def private_instances(
    captions: Sequence[str],
    labels: Sequence[int],
    class_names: Sequence[str],
    template: str,
    encoder: TextEncoder,
    budget: Budget,
) -> PrivateRows:
    """Instance-level release: a caption has to be of its image alone, while template and class names are public.

    Raises:
        UsageError: the template is refused.
        MissingExtraError: dp-accounting is not installed.
    """
    check_template(template, {"label", "caption"})
    if "{label}" not in template:
        problem = f"prompt template {template!r} says no class, so the public prompts of all classes are the same"
        raise UsageError(problem, "add --template '{label}, {caption}', or send class-level prompts")
    noise, clip = noise_scale(budget, INSTANCE_SENSITIVITY), budget.clip or _spread(class_names, template, encoder)
    by_class = [Counter[str]() for _ in class_names]
    for label, caption in zip(labels, captions, strict=True):
        by_class[label][template.format(label=class_names[label], caption=caption)] += 1
    found: list[Row] = []
    dropped: list[Row] = []
    for label, (name, images) in enumerate(zip(class_names, by_class, strict=True)):
        public_AX, shape = _encoded(public_prompts(name, template), encoder)
        counts_A, sums_AX = exact_release(images, public_AX, clip, encoder)
        counts_A += noise * gaussian(*counts_A.shape)
        sums_AX += noise * gaussian(*sums_AX.shape)
        rows_AX = public_AX + clip * means(sums_AX, counts_A, noise)
        kept_A = stands_out(counts_A, noise)
        rows = zip(rows_AX.reshape(-1, *shape).astype(np.float16), counts_A, strict=True)
        for row, (embedding_LD, count) in enumerate(rows):
            (found if kept_A[row] else dropped).append((label, count, embedding_LD))
        dropped = sorted(dropped, key=lambda row: -row[1])[:1]
    kept = found or dropped  # a payload has a row
    row_labels, row_counts, embeddings = zip(*kept, strict=True)
    return PrivateRows(
        np.stack(embeddings),
        np.array(row_labels, dtype=np.int64),
        whole(np.array(row_counts)),
        budget.statement(clip, noise),
    )


def public_prompts(class_name: str, template: str) -> list[str]:
    """The prompts of a class that everybody can write down."""
    return [template.format(label=class_name, caption=caption) for caption in descriptions()]


def means(sums_AX: Floats, counts_A: Floats, noise: float) -> Floats:
    """Noisy sums over noisy counts, drawn towards zero as far as noise outweighs them: sum n / (n^2 + X noise^2).

    A mean m lies in the unit ball. Of all multiples of m + noise, that by 1 / (1 + X variance) has the smallest error
    for the worst m there (the linear minimax estimator, Pinsker 1980). What is left of the noise has a norm of about a
    half at most, so a row with too few images for its budget is its public prompt.
    """
    positive_A = np.maximum(counts_A, 0)[:, None]
    shrunk: Floats = sums_AX * positive_A / (positive_A**2 + sums_AX.shape[1] * noise**2)
    return shrunk


def exact_release(images: Counter[str], public_AX: Floats, clip: float, encoder: TextEncoder) -> tuple[Floats, Floats]:
    """Images of each public prompt [A], and the sums of what their prompts add to it [A,X], in units of the clip."""
    from scipy.spatial.distance import cdist  # a thin client has no scipy

    counts_A, sums_AX = np.zeros(len(public_AX)), np.zeros_like(public_AX)
    prompts = list(images)
    for start in range(0, len(prompts), COMPARED):
        some = prompts[start : start + COMPARED]
        values_BX, times_B = _encoded(some, encoder)[0], np.array([images[prompt] for prompt in some], dtype=np.float64)
        nearest_B = cdist(values_BX, public_AX).argmin(axis=1)
        np.add.at(counts_A, nearest_B, times_B)
        np.add.at(sums_AX, nearest_B, times_B[:, None] * clipped(values_BX - public_AX[nearest_B], clip) / clip)
    return counts_A, sums_AX


def clipped(rows_BX: Floats, clip: float) -> Floats:
    """Rows whose L2 norm is at most `clip`."""
    norms_B1 = np.linalg.norm(rows_BX, axis=1, keepdims=True)
    shorter: Floats = rows_BX * (clip / np.maximum(norms_B1, clip))
    return shorter


def _spread(class_names: Sequence[str], template: str, encoder: TextEncoder) -> float:
    """Root mean square distance of public prompts from their class's mean: how much captions usually say."""
    squares = []
    for name in class_names[:SPREAD_CLASSES]:
        public_AX, _ = _encoded(public_prompts(name, template), encoder)
        squares.append(np.square(public_AX - public_AX.mean(axis=0)).sum(axis=1).mean())
    spread = math.sqrt(float(np.mean(squares)))
    if not spread > 0:
        raise UsageError(f"prompt template {template!r} is the same for all captions", "put {caption} into it")
    return spread


def _encoded(prompts: Sequence[str], encoder: TextEncoder) -> tuple[Floats, tuple[int, ...]]:
    """Text embeddings, flat [B,X], and the shape [L,D] of one."""
    values_BLD = encoder.encode(encoder.tokenize(prompts)).astype(np.float64)
    return values_BLD.reshape(len(prompts), -1), values_BLD.shape[1:]

"""Images as `embed` takes them; those without labels are seen by the server's classifier and given to classes."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fglfast.base.console import note
from fglfast.base.errors import BadInputError, UsageError
from fglfast.base.wording import many, some
from fglfast.verbs.options import refuse_given

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fglfast.images.labelled import LabelledImages

    Ints = NDArray[np.int64]


def check_unlabelled(unlabelled: bool, classifier: Path | None, epsilon: float | None, **others: Any) -> None:
    """Refuse options that do not go together; `others` are those that only images without labels have.

    Raises:
        UsageError: some do not.
    """
    if not unlabelled:
        refuse_given("is for images without labels", "add --unlabelled", classifier=classifier, **others)
    elif classifier is None:
        raise UsageError("--unlabelled has nothing to find labels by", "give the server's --classifier FOLDER")
    elif epsilon is not None:
        raise UsageError(
            "--epsilon bounds what one image changes, and one without a label may change the labels of all others",
            "leave out --epsilon, or label the images",
        )


def open_images(
    data: str, classifier: Path | None, classes: Path | None, confidence: float | None, least_images: int | None
) -> "tuple[LabelledImages, Ints | None, dict[str, float]]":
    """A client's images with their labels, or with those that a classifier finds; of these, no other label is read.

    The classes are those of a file, or the images' or the classifier's own.

    Returns:
        The images that have a label, the images of each class where those are found, and facts to tell.

    Raises:
        BadInputError: the images, the classifier or the list cannot be used, or no image gets a label.
    """
    from fglfast.images.class_list import read_class_list
    from fglfast.images.dataset import read_dataset

    listed = read_class_list(classes) if classes else None
    if classifier is None:
        images = read_dataset(data)
        return images.named(listed) if listed else images, None, {}
    from fglfast.client.pseudo_labels import LabelSettings, doubts, labelled, pseudo_labels
    from fglfast.training.batches import DecodedImages
    from fglfast.training.evaluate import open_classifier
    from fglfast.training.predict import features_and_logits

    network, known, size = open_classifier(classifier)
    names, columns = _columns(listed, known, f"{classifier}, asked by {classes}")
    given = {"confidence": confidence, "least_images": least_images}
    asked = LabelSettings.model_validate({name: value for name, value in given.items() if value is not None})
    images = read_dataset(data, labelled=False)
    features_NF, logits_NK = features_and_logits(network, DecodedImages(images, size), "classify")
    log_P_NK = logits_NK[:, columns].log_softmax(1).numpy()
    found = pseudo_labels(features_NF.numpy(), log_P_NK, asked)
    chosen = labelled(images, found, names, [known[column] for column in columns])
    share = f"{len(chosen.images):,} of {many(len(images), 'image')}"
    held = many(int((chosen.counts > 0).sum()), "class")
    note(f"labels were found for {share}, of {held}; {chosen.left_out:,} stay out")
    if doubt := doubts(found, log_P_NK):
        note(doubt)
    return chosen.images, chosen.counts, {"left_out": chosen.left_out}


def _columns(listed: tuple[str, ...] | None, known: tuple[str, ...], who: str) -> tuple[tuple[str, ...], list[int]]:
    """The federation's classes, and where the classifier has those that it knows; what else it knows does not count."""
    names = listed or known
    columns = [known.index(name) for name in names if name in known]
    if not columns:
        raise BadInputError(f"{who}: knows none of these classes", f"it knows {some(known, 10)}")
    if unseen := [name for name in names if name not in known]:
        note(f"no image for {many(len(unseen), 'class')} that the classifier does not know: {some(unseen)}")
    return names, columns

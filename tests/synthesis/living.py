"""Clients of numbers, data sets as bytes and kills, for tests of sets that change."""

import numpy as np

from fglfast.generator.load import read_shapes
from fglfast.generator.text import text_fingerprint
from fglfast.payload import Payload, PayloadHeader
from fglfast.shards.tar import read_samples
from fglfast.synthesis.drawn import Drawn

NAMES = ("bag", "shoe", "hat")


def maker(model):
    """Make a client's payload of rows: (name, [(class name, number that fills the row, count)]) -> Payload."""
    shapes, fingerprint = read_shapes(model, 32), text_fingerprint(model)

    def make(client, rows, names=NAMES, domain=None):
        labels, values, counts = zip(*((names.index(name), value, count) for name, value, count in rows), strict=True)
        filled = np.array(values, np.uint32)[:, None].view(np.float16)  # any number is another row
        embeddings = np.zeros((len(rows), shapes.text_length, shapes.text_width), np.float16)
        embeddings[:, 0, :2] = filled
        header = PayloadHeader(
            client=client, class_names=names, prompt_level="instance", text_encoder=fingerprint, domain=domain
        )
        return Payload(header, embeddings, None, np.array(labels, np.int64), np.array(counts, np.int64))

    return make


def content(folder):
    """Every file of a data set by its name, but for the lock files, which are empty."""
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert not any(data for name, data in files.items() if name.startswith(".locks"))
    return {name: data for name, data in files.items() if not name.startswith(".locks")}


def scores(folder):
    """A judge's score of every image, in order."""
    return [sample.facts["score"] for tar in sorted(folder.glob("*.tar")) for _, sample in read_samples(tar)]


def killed(*_):
    raise KeyboardInterrupt


def images(folder):
    """Encoded images by identity: class name, digest of the row, ordinal."""
    names = Drawn.of(folder).class_names
    return {
        (names[sample.label], sample.facts["row"], sample.facts["ordinal"]): sample.image
        for tar in sorted(folder.glob("*.tar"))
        for _, sample in read_samples(tar)
    }

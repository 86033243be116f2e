"""A data set of many clients, by its description alone."""

from fglfast.synthesis.accounts import reckon
from fglfast.synthesis.drawn import Drawn
from fglfast.synthesis.plan import Row


def drawn_of(clients, classes, claims=lambda client, label: 1 + client):
    """Every client with a row of each class; of each class's rows all have ten images."""
    names = tuple(f"client{number:03d}" for number in range(clients))
    rows = tuple(
        Row(label, f"{number:064x}", 10, {name: claims(number, label)})
        for label in range(classes)
        for number, name in enumerate(names)
    )
    facts = {"images": 10 * len(rows), "shards": 1, "image_size": 8, "images_per_class": 10 * clients}
    facts |= {"plan": "p", "model": "m", "weights": "w", "clients": names, "payloads": names, "shard_size": 99_999}
    classes_named = tuple(f"<b>{label}" for label in range(classes))
    return Drawn(rows=rows, class_names=classes_named, accounts=reckon(rows, names), **facts)

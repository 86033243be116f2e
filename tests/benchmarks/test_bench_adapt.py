"""What the benchmark of adapting works out before and after it measures."""

import numpy as np
import pytest
import torch

from benchmarks.adapt import WAYS, Split
from benchmarks.adapt_columns import FEDERATIONS, SHOTS, adapt, table


def split():
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (9, 3, 4, 4), dtype=torch.uint8, generator=draw)
    return Split(pixels, torch.arange(9) % 3, np.array(["dark", "light", "medium"] * 3))


def test_clients_share_the_images_and_an_inverted_one_sees_them_inverted():
    whole = split()
    parts = [whole.of("even", client) for client in range(3)]
    assert sorted(torch.cat([part.pixels for part in parts]).flatten(1).sum(1).tolist()) == sorted(
        whole.pixels.flatten(1).sum(1).tolist()
    )
    assert torch.equal(whole.of("inverted", 1).pixels, 255 - parts[1].pixels)
    assert torch.equal(whole.of("light", 0).pixels, whole.pixels[1::3])


def test_the_table_has_the_worst_and_the_middle_client_of_each_seed():
    members = {member for clients in FEDERATIONS.values() for member in clients}
    cells = []
    for seed in (0, 1):
        for kind, client in members:
            for shots in SHOTS:
                reached = 0.1 if kind in ("inverted", "dark") else 0.5 + 0.1 * client + 0.01 * seed
                rows = {way: {"accuracy": reached, "seconds": 2.0, "layer": None} for way in WAYS}
                cells.append({"kind": kind, "client": client, "shots": shots, "seed": seed, "rows": rows})
    rows = table(cells)
    assert len(rows) == len(FEDERATIONS) * len(SHOTS) * len(WAYS)
    one = next(row for row in rows if row["federation"] == "inverted at one")
    assert one["worst"] == [0.1, 0.1] and one["median"] == pytest.approx([0.6, 0.61])
    head, lines = adapt({"rows": rows})
    assert len(lines) == len(FEDERATIONS) * len(WAYS) and all(len(line) == len(head) for line in lines)
    even = next(line for line in lines if line[0] == "even")
    assert even[2] == "50.5% (50.0% to 51.0%)" and even[-1] == ""

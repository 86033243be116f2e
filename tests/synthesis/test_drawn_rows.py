"""What `dataset.json` says of its rows: written and read back, and refused where it contradicts itself."""

import json

import pytest

from fglfast.base.errors import BadInputError
from fglfast.shards.description import write_description
from fglfast.synthesis.drawn import Drawn
from fglfast.synthesis.plan import Row

FACTS = {"class_names": ("bag", "hat"), "images": 4, "shards": 1, "image_size": 8, "images_per_class": 2}
FACTS |= {"plan": "p", "model": "m", "weights": "w", "clients": ("ann", "bob"), "payloads": ("x", "y")}
ROWS = (Row(0, "ab" * 32, 2, {"ann": 3, "bob": 1}), Row(1, "ab" * 32, 0, {"bob": 1}), Row(1, "cd" * 32, 2, {"ann": 1}))

DRAWN = Drawn(rows=ROWS, **FACTS)
DRAWN = DRAWN.model_copy(update={"plan": DRAWN.layout.digest()})


def test_what_is_written_is_read_a_row_a_line(tmp_path):
    write_description(tmp_path, DRAWN)
    assert Drawn.of(tmp_path) == DRAWN
    line = '    {"label": 0, "row": "' + "ab" * 32 + '", "images": 2, "claims": {"ann": 3, "bob": 1}},'
    assert line in (tmp_path / "dataset.json").read_text().splitlines()


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows.clear(),
        lambda rows: rows.reverse(),
        lambda rows: rows.append(rows[-1]),
        lambda rows: rows[0].update(images=1),
        lambda rows: rows[0].update(images=True),
        lambda rows: rows[2].update(label=2),
        lambda rows: rows[0].update(row="AB" * 32),
        lambda rows: rows[0].update(more=1),
        lambda rows: rows[0].update(claims={}),
        lambda rows: rows[0].update(claims={"ann": 0}),
        lambda rows: rows[0].update(claims={"cid": 1}),
    ],
)
def test_rows_that_contradict_the_rest_are_refused(change, tmp_path):
    write_description(tmp_path, DRAWN)
    facts = json.loads((tmp_path / "dataset.json").read_text())
    change(facts["rows"])
    (tmp_path / "dataset.json").write_text(json.dumps(facts))
    with pytest.raises(BadInputError, match="rows"):
        Drawn.of(tmp_path)


@pytest.mark.parametrize(
    "edited", [{"class_names": ("hat", "bag")}, {"class_names": ("bag", "cap")}, {"seed": 1}, {"weights": "v"}]
)
@pytest.mark.parametrize("version", [2, 3])
def test_facts_of_another_plan_are_refused(edited, version, tmp_path):
    there = DRAWN.model_copy(update={"format_version": version})
    there = there.model_copy(update={"plan": there.layout.digest()})
    write_description(tmp_path, there)
    assert Drawn.of(tmp_path) == there
    write_description(tmp_path, there.model_copy(update=edited))
    with pytest.raises(BadInputError, match=r"dataset\.json: its plan is not that of its facts"):
        Drawn.of(tmp_path)

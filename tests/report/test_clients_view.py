"""What a page shows of a data set's clients, a few or many."""

import jinja2
import numpy as np
from drawn_clients import drawn_of

from fglfast.report.clients_view import clients_view

PAGE = '{% from "clients.html.j2" import table_of %}{{ table_of(clients) }}'


def test_bars_are_shares_of_what_is_claimed_and_drawn():
    view = clients_view(drawn_of(3, 2))
    assert [row["account"].client for row in view["rows"]] == ["client002", "client001", "client000"]
    assert np.allclose([row["claimed_width"] for row in view["rows"]], [100, 200 / 3, 100 / 3])
    assert np.allclose([row["drawn_width"] for row in view["rows"]], [200 / 3] * 3) and view["widest"] == 0.5
    assert [value for _, value, _ in view["rows"][0]["claimed"]] == [3, 3]


def test_sixty_clients_of_two_hundred_classes_are_a_table_that_ends():
    drawn = drawn_of(60, 200)
    view = clients_view(drawn)
    assert len(view["rows"]) == 40 and all(len(row["claimed"]) == 21 for row in view["rows"])
    page = _table(view)
    assert "40 of 60 clients" in page and "first 20 of 200 classes" in page
    assert len(page) < 400_000 and "<b>1<" not in page and "180 more classes" in page


def test_who_stands_out_comes_first():
    drawn = drawn_of(60, 2)
    found = [account.model_copy(update={"compared": 20, "agreed": 20}) for account in drawn.accounts]
    found[7] = found[7].model_copy(update={"agreed": 1})
    view = clients_view(drawn.model_copy(update={"accounts": tuple(found)}))
    assert view["rows"][0]["account"].client == "client007" and "'client007'" in view["remarks"][0]
    assert "1 of 20" in _table(view)


def _table(view):
    loader = jinja2.ChoiceLoader([jinja2.PackageLoader("fglfast.report", ""), jinja2.DictLoader({"page": PAGE})])
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(percent=lambda share: f"{100 * share:.1f}%", number=lambda value: f"{value:,.0f}")
    return environment.get_template("page").render(clients=view)

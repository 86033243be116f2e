import pytest
from pydantic import TypeAdapter, ValidationError

from fglfast.base.names import UNDRAWN, ClassNames, ClientName, drawn, unfit


@pytest.mark.parametrize("name", ["\u3164", "\u115f \u2800", "\u200d", "\ufe0f", "\U000e0100", " \u034f"])
def test_a_name_of_which_nothing_can_be_seen_is_unfit(name):
    assert unfit(name) == "nothing of it can be seen"
    with pytest.raises(ValidationError, match="nothing of it can be seen"):
        TypeAdapter(ClientName).validate_python(name)


@pytest.mark.parametrize("name", ["ann", "病院", "zoë", "नमस्\u200dते", "\u2764\ufe0f", "O'Brien"])
def test_spelling_and_emoji_are_fit(name):
    assert unfit(name) == "" and unfit(name * 2) == ""


def test_what_is_drawn_stays_and_what_is_not_goes():
    assert drawn("a\u034fn\u180dn\ufe0f\U000e01ef\u2800") == "ann" and drawn("病院 \u2801") == "病院 \u2801"
    assert sum(last - first + 1 for first, last in UNDRAWN) == 4174 + 1  # Unicode's count, and the blank pattern
    assert all(first <= last for first, last in UNDRAWN) and sorted(UNDRAWN) == list(UNDRAWN)


@pytest.mark.parametrize(
    ("names", "said"), [(("fox", "fox"), "'fox' is there twice"), (("fox", "fo\u200dx"), "cannot be told apart")]
)
def test_classes_that_look_alike_are_refused(names, said):
    with pytest.raises(ValidationError, match=said):
        TypeAdapter(ClassNames).validate_python(names)
    assert TypeAdapter(ClassNames).validate_python(("fox", "Fox", "fox "))

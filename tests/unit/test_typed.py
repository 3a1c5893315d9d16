"""Typed getters: a value of another type is refused with its path, and nothing passes for what it is not."""

from __future__ import annotations

import enum
import sys
from collections.abc import Callable
from typing import Any

import pytest

from pmuconf.typed import JsonObject, TypedError, parse_object


class Colour(enum.Enum):
    RED = "red"
    ONE = 1


def objects(value: object) -> JsonObject:
    return JsonObject({"outer": [{"value": value}]}).get_objects("outer")[0]


GETTERS: dict[str, Callable[[JsonObject], Any]] = {
    "str": lambda o: o.get_str("value"),
    "int": lambda o: o.get_int("value"),
    "bool": lambda o: o.get_bool("value"),
    "float": lambda o: o.get_float("value"),
    "enum": lambda o: o.get_enum("value", Colour),
    "object": lambda o: o.get_object("value").keys(),
    "strs": lambda o: o.get_strs("value"),
    "floats": lambda o: o.get_floats("value"),
    "pairs": lambda o: o.get_pairs("value"),
    "str_map": lambda o: o.get_str_map("value"),
    "opt_str": lambda o: o.opt_str("value"),
    "opt_int": lambda o: o.opt_int("value"),
    "opt_bool": lambda o: o.opt_bool("value"),
    "opt_object": lambda o: o.opt_object("value"),
}

TAKEN: list[tuple[str, object, object]] = [
    ("str", "a", "a"),
    ("int", 7, 7),
    ("bool", False, False),
    ("float", 7, 7.0),
    ("float", 0.5, 0.5),
    ("enum", "red", Colour.RED),
    ("enum", 1, Colour.ONE),
    ("object", {"a": 1}, {"a"}),
    ("strs", ["a", "b"], ("a", "b")),
    ("floats", [1, 0.5], (1.0, 0.5)),
    ("pairs", [["a", "b"], ["c", "d"]], (("a", "b"), ("c", "d"))),
    ("str_map", {"a": "b"}, {"a": "b"}),
    *((name, None, None) for name in GETTERS if name.startswith("opt_")),
    ("opt_str", "a", "a"),
    ("opt_int", 7, 7),
    ("opt_bool", True, True),
]

REFUSED: list[tuple[str, object, str]] = [
    ("str", 7, "value: text is expected, not 7"),
    ("str", None, "value: text is expected, not null"),
    ("int", True, "value: a whole number is expected, not true"),
    ("int", 1.0, "value: a whole number is expected, not 1.0"),
    ("int", "1", 'value: a whole number is expected, not "1"'),
    ("bool", 1, "value: true or false is expected, not 1"),
    ("float", True, "value: a number is expected, not true"),
    ("float", float("nan"), "value: a number is expected, not NaN"),
    ("float", float("inf"), "value: a number is expected, not Infinity"),
    ("float", 10**400, "value: a number is expected, not 1000"),
    ("enum", "green", 'value: one of red, 1 is expected, not "green"'),
    ("enum", True, "value: one of red, 1 is expected, not true"),
    ("object", [], "value: an object is expected, not a list"),
    ("strs", ["a", 1], "value[1]: text is expected, not 1"),
    ("strs", "ab", 'value: a list is expected, not "ab"'),
    ("floats", [1, None], "value[1]: a number is expected, not null"),
    ("pairs", [["a", "b"], ["c"]], "value[1]: two texts are expected, not 1"),
    ("str_map", {"a": 1}, "value.a: text is expected, not 1"),
    ("opt_int", False, "value: a whole number is expected, not false"),
    ("str", {"a": "x" * 9000}, "value: text is expected, not an object"),
]


@pytest.mark.parametrize(("getter", "value", "expected"), TAKEN)
def test_a_value_of_the_type_is_given(getter: str, value: object, expected: object) -> None:
    given = GETTERS[getter](objects(value))
    assert (given, type(given)) == (expected, type(given))
    assert not isinstance(expected, float) or isinstance(given, float)


@pytest.mark.parametrize(("getter", "value", "message"), REFUSED)
def test_another_is_refused_with_its_path(getter: str, value: object, message: str) -> None:
    with pytest.raises(TypedError) as caught:
        GETTERS[getter](objects(value))
    assert str(caught.value).startswith(f"outer[0].{message}")
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize("getter", GETTERS)
def test_a_missing_key_is_named(getter: str) -> None:
    with pytest.raises(TypedError, match=r"^value: missing$"):
        GETTERS[getter](JsonObject({}))


def test_an_unknown_key_is_named() -> None:
    known = JsonObject({"a": 1, "b": 2}, "saving")
    assert known.has_only("a", "b", "c") is known
    with pytest.raises(TypedError, match=r"^saving\.b: unknown$"):
        known.has_only("a")
    assert "a" in known
    assert not known.is_bool("a")
    assert JsonObject({"a": False}).is_bool("a")
    assert "c" not in known


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no JSON: Expecting value: line 1 column 1"),
        ('{"a": 1', "no JSON: Expecting ',' delimiter: line 1 column 8"),
        (b"\xff\xfe{}\xff", "no JSON: not in UTF-8"),
        ("[" * 200_000, "no JSON that can be read: it is nested too deeply"),
        ("[]", "the document: an object is expected, not a list"),
    ],
)
def test_a_text_that_is_no_object_is_refused(text: str | bytes, message: str) -> None:
    with pytest.raises(TypedError) as caught:
        parse_object(text)
    assert str(caught.value) == message


@pytest.mark.skipif(sys.version_info < (3, 11), reason="converts any number of digits")
def test_a_number_without_end_is_refused() -> None:
    with pytest.raises(TypedError, match="a number has too many digits"):
        parse_object('{"a": ' + "9" * 5000 + "}")


def test_a_text_that_is_an_object_is_read() -> None:
    assert parse_object(b'{"a": "\xc3\xa4"}').get_str("a") == "ä"

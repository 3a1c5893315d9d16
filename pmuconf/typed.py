"""Typed getters for JSON that comes in: each gives a value of the type in its name, or says which value is wrong.

A file or a program of somebody else may hold anything. A truth value is no number here, though Python takes True for 1;
NaN and Infinity, which Python's JSON reads, are no numbers either.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Final, TypeVar

__all__ = ["JsonObject", "TypedError", "parse_object"]

_Item = TypeVar("_Item")
_Word = TypeVar("_Word", bound=Enum)
_NAMES: Final = {str: "text", int: "a whole number", bool: "true or false", list: "a list", dict: "an object"}
_SHOWN: Final = 40


class TypedError(ValueError):
    """A value has another type than it must have; the message begins with its path, such as ``vms[3].pid``."""


class JsonObject:
    """One JSON object, read key by key.

    Every getter raises TypedError if the key is missing or its value has another type. The getters that begin with
    ``opt_`` give None for null.

    :param value: what json.loads() gave.
    :param path: where the value stands, for messages; empty for the whole document.
    :raises TypedError: the value is no object.
    """

    def __init__(self, value: object, path: str = "") -> None:
        self.path = path
        self._members: Mapping[str, object] = _as(dict, value, path)

    def __contains__(self, key: str) -> bool:
        return key in self._members

    def keys(self) -> frozenset[str]:
        """The keys that are there."""
        return frozenset(self._members)

    def is_bool(self, key: str) -> bool:
        """Whether there is such a key, with a truth value."""
        return isinstance(self._members.get(key), bool)

    def has_only(self, *keys: str) -> JsonObject:
        """This object, if it has no other keys."""
        for key in sorted(self.keys() - set(keys)):
            raise TypedError(f"{self._at(key)}: unknown")
        return self

    def get_str(self, key: str) -> str:
        """A text."""
        text: str = _as(str, self._value(key), self._at(key))
        return text

    def get_int(self, key: str) -> int:
        """A whole number."""
        number: int = _as(int, self._value(key), self._at(key))
        return number

    def get_bool(self, key: str) -> bool:
        """True or false."""
        truth: bool = _as(bool, self._value(key), self._at(key))
        return truth

    def get_float(self, key: str) -> float:
        """A finite number."""
        return _number(self._value(key), self._at(key))

    def get_enum(self, key: str, words: type[_Word]) -> _Word:
        """The member of an enumeration that has this value."""
        return _word(words, self._value(key), self._at(key))

    def get_object(self, key: str) -> JsonObject:
        """An object."""
        return JsonObject(self._value(key), self._at(key))

    def get_strs(self, key: str) -> tuple[str, ...]:
        """A list of texts."""
        return self._list(key, lambda value, path: _as(str, value, path))

    def get_floats(self, key: str) -> tuple[float, ...]:
        """A list of finite numbers."""
        return self._list(key, _number)

    def get_pairs(self, key: str) -> tuple[tuple[str, str], ...]:
        """A list of lists of two texts."""

        def pair(value: object, path: str) -> tuple[str, str]:
            texts = JsonObject({"pair": value}, path).get_strs("pair")
            if len(texts) != len(("one", "other")):
                raise TypedError(f"{path}: two texts are expected, not {len(texts)}")
            return texts[0], texts[1]

        return self._list(key, pair)

    def get_objects(self, key: str) -> tuple[JsonObject, ...]:
        """A list of objects."""
        return self._list(key, JsonObject)

    def get_str_map(self, key: str) -> dict[str, str]:
        """An object whose values are all texts."""
        inner = self.get_object(key)
        return {name: inner.get_str(name) for name in inner._members}

    def opt_str(self, key: str) -> str | None:
        """A text, or None."""
        return None if self._value(key) is None else self.get_str(key)

    def opt_int(self, key: str) -> int | None:
        """A whole number, or None."""
        return None if self._value(key) is None else self.get_int(key)

    def opt_bool(self, key: str) -> bool | None:
        """True, false, or None."""
        return None if self._value(key) is None else self.get_bool(key)

    def opt_object(self, key: str) -> JsonObject | None:
        """An object, or None."""
        return None if self._value(key) is None else self.get_object(key)

    def _value(self, key: str) -> object:
        if key not in self._members:
            raise TypedError(f"{self._at(key)}: missing")
        return self._members[key]

    def _at(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def _list(self, key: str, read: Callable[[object, str], _Item]) -> tuple[_Item, ...]:
        path = self._at(key)
        values: list[object] = _as(list, self._value(key), path)
        return tuple(read(value, f"{path}[{number}]") for number, value in enumerate(values))


def parse_object(text: str | bytes) -> JsonObject:
    """The object that is the whole of a text.

    :raises TypedError: the text is no JSON, or no object; nesting without end and numbers without end included.
    """
    try:
        return JsonObject(json.loads(text))
    except json.JSONDecodeError as error:
        raise TypedError(f"no JSON: {error.msg}: line {error.lineno} column {error.colno}") from None
    except UnicodeDecodeError:
        raise TypedError("no JSON: not in UTF-8") from None
    except RecursionError:
        raise TypedError("no JSON that can be read: it is nested too deeply") from None
    except TypedError:
        raise
    except ValueError:
        raise TypedError("no JSON that can be read: a number has too many digits") from None


def _as(kind: type, value: object, path: str) -> Any:
    if type(value) is not kind:
        raise TypedError(f"{path or 'the document'}: {_NAMES[kind]} is expected, not {_shown(value)}")
    return value


def _number(value: object, path: str) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number
    raise TypedError(f"{path}: a number is expected, not {_shown(value)}")


def _word(words: type[_Word], value: object, path: str) -> _Word:
    for word in words:
        if type(value) is type(word.value) and value == word.value:
            return word
    raise TypedError(f"{path}: one of {', '.join(str(word.value) for word in words)} is expected, not {_shown(value)}")


def _shown(value: object) -> str:
    if isinstance(value, (dict, list)):
        return _NAMES[type(value)]
    text = json.dumps(value, default=str)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."

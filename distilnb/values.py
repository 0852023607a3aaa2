"""Values as they are stored: JSON that any reader takes, with tags where JSON would lose something.

Most values are plain: text, numbers, lists and dicts of them. They go through a JSON writer of C as they are, which
is many times faster than looking at each. `is_plain` finds that out by the types of a whole column at a time. All
else goes through `tagged`, value by value: bytes and dates, but also what JSON writers change without a word (NaN,
integers beyond 64 bits, text that is no UTF-8).
"""

from __future__ import annotations

import base64
import datetime as dt
import decimal
import io
import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import chain
from typing import Any

from distilnb.errors import InputError

TAG = "$distilnb"
ABSENT = object()  # marks a key that a row of a batch does not have, as against None

_PLAIN_TYPES = frozenset({str, int, bool, type(None)})
_PLAIN_LEVELS = 16  # what is nested deeper is looked at value by value; a list within itself has no end
_NESTED_LEVELS = 200  # the JSON writer nests 254 deep
_LONG = (-(2**63), 2**64 - 1)  # the integers that every reader restores
_LONG_FLOAT = 2.0**63  # from here on what was read as a float may have been an integer


def dump(value: Any, *, sort_keys: bool = False) -> bytes:
    """Return a value as JSON; equal values with their keys in other orders become equal with `sort_keys`.

    Raises InputError naming the type of a value that cannot be stored.
    """
    import orjson  # not by a runner, which stores no rows: it loads twenty modules more

    option = orjson.OPT_SORT_KEYS if sort_keys else None
    if is_plain((value,)):
        try:
            return orjson.dumps(value, option=option)
        except TypeError:  # text with a lone surrogate, or an integer beyond 64 bits
            pass
    return orjson.dumps(tagged(value, sort_keys=sort_keys), option=option)


def load(data: bytes, *, has_tags: bool = True) -> Any:
    """Read what `dump` wrote; raises ValueError when it is no JSON, InputError when a tag does not fit its value."""
    import orjson

    value = orjson.loads(data)
    return untagged(value) if has_tags and _TAG_TEXT.encode() in data else value


def dump_json(value: Any) -> str:
    """Return JSON text of rows or of anything made of them; what JSON lacks or changes is tagged.

    A dict that itself holds the tag's key is tagged too, so that it comes back as it is. Raises InputError naming
    the type of a value that has no such form.
    """
    return dump(value).decode()


def load_json(text: str) -> Any:
    """Read what `dump_json` wrote, or any JSON; raises InputError when a tagged value is not what its tag says."""
    value = json.loads(text)  # not the fast reader: a file of the user may hold integers that it makes floats
    return untagged(value) if _TAG_TEXT in text else value


def are_plain_columns(columns: Mapping[str, list[Any]], *, of_reader: bool = False) -> bool:
    """Whether rows that are given by column are plain; `of_reader` as for `is_plain`."""
    has_plain_names = TAG not in columns and set(map(type, columns)) <= {str}
    return has_plain_names and all(is_plain(values, of_reader=of_reader) for values in columns.values())


def dump_columns(columns: Sequence[list[Any]]) -> tuple[list[list[Any]], list[int]]:
    """Return columns that the JSON writer stores as they are, and the places of those that hold tags."""
    ready, places = [], []
    for place, values in enumerate(columns):
        if is_plain(values):
            ready.append(values)
        else:
            ready.append([tagged(value) for value in values])
            places.append(place)
    return ready, places


def is_plain(values: Collection[Any], *, of_reader: bool = False) -> bool:
    """Whether JSON restores all these values, to any depth, but for surrogates and long integers.

    Those two make the JSON writer raise. All else that it would change without a word is told here by its type:
    NaN, tuples, dates, and whatever else is not exactly a type of JSON. `of_reader` says that the fast JSON reader
    made the values, which turns long integers into floats: then no large float is plain.
    """
    for _ in range(_PLAIN_LEVELS):
        kinds = set(map(type, values))
        if kinds <= _PLAIN_TYPES:
            return True
        if not kinds <= _JSON_TYPES:
            return False
        if float in kinds:
            floats = _only(float, values, kinds)
            if not math.isfinite(sum(floats)) or (of_reader and max(map(abs, floats)) >= _LONG_FLOAT):
                return False
        inner: list[Any] = []
        if list in kinds:
            inner.extend(chain.from_iterable(_only(list, values, kinds)))
        if dict in kinds:
            dicts = _only(dict, values, kinds)
            keys = set(chain.from_iterable(dicts))
            if TAG in keys or not set(map(type, keys)) <= {str}:
                return False
            inner.extend(chain.from_iterable(map(dict.values, dicts)))
        values = inner
    return False


def hides_long_integers(values: Collection[Any]) -> bool:
    """Whether values that the fast JSON reader made hold a float so large that it may have been an integer."""
    while values:
        kinds = set(map(type, values))
        if float in kinds and max(map(abs, _only(float, values, kinds))) >= _LONG_FLOAT:
            return True
        inner: list[Any] = []
        if list in kinds:
            inner.extend(chain.from_iterable(_only(list, values, kinds)))
        if dict in kinds:
            inner.extend(chain.from_iterable(map(dict.values, _only(dict, values, kinds))))
        values = inner
    return False


_JSON_TYPES = _PLAIN_TYPES | {float, list, dict}


def _only(kind: type, values: Collection[Any], kinds: set[type]) -> Collection[Any]:
    return values if len(kinds) == 1 else [value for value in values if type(value) is kind]


# --- value by value -----------------------------------------------------------------


def tagged(value: Any, *, sort_keys: bool = False) -> Any:
    """Return a value in types that the JSON writer stores exactly; raises InputError when it has no such form."""
    try:
        return _tagged(value, sort_keys, 0)
    except RecursionError:
        raise InputError(
            "A row holds a value that is nested too deep, or holds itself.", "Store it as text."
        ) from None


def untagged(value: Any) -> Any:
    """Return what `tagged` was given; raises InputError when a value does not fit its tag."""
    if isinstance(value, list):
        return [untagged(item) for item in value]
    if not isinstance(value, dict):
        return value
    tag = value.get(TAG)
    decode = _DECODERS.get(tag) if isinstance(tag, str) else None
    if decode is None:
        return {key: untagged(item) for key, item in value.items()}
    try:
        return decode(untagged(value.get("value")))
    except (TypeError, LookupError, ValueError, ArithmeticError) as error:
        raise InputError(
            f"A stored value is tagged as {tag!r}, but is {value.get('value')!r}.", "Correct the file."
        ) from error


def _tagged(value: Any, sort_keys: bool, depth: int) -> Any:
    if value is None or value is True or value is False:
        return value
    if isinstance(value, str):
        return _text(str.__str__(value))
    if isinstance(value, int):
        number = int(value)
        return number if _LONG[0] <= number <= _LONG[1] else _with_tag("int", hex(number))
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else _with_tag("float", repr(float(value)))
    if isinstance(value, (dict, list, tuple)):
        if depth == _NESTED_LEVELS:
            return _with_tag("json", dump(value, sort_keys=sort_keys).decode())
        if not isinstance(value, dict):
            return [_tagged(item, sort_keys, depth + 1) for item in value]
        return _tagged_dict(value, sort_keys, depth)
    for kinds, tag, write in _ENCODERS:
        if isinstance(value, kinds):
            return _with_tag(tag, write(value))
    if value is ABSENT:
        return {TAG: "absent"}
    return _tagged(_to_plain(value), sort_keys, depth + 1) if depth < _NESTED_LEVELS else _refuse(value)


def _tagged_dict(value: dict[Any, Any], sort_keys: bool, depth: int) -> dict[str, Any]:
    """Return a dict; as a list of pairs below a tag where a key is the tag's own, or no UTF-8."""
    plain = {key_text(key): _tagged(item, sort_keys, depth + 1) for key, item in value.items()}
    if TAG not in plain and all(isinstance(_text(key), str) for key in plain):
        return plain
    pairs = sorted(plain.items(), key=lambda pair: pair[0]) if sort_keys else plain.items()
    return _with_tag("dict", [[_text(key), item] for key, item in pairs])


def key_text(key: Any) -> str:
    """Return a key of a dict as JSON writers do, which know only text; raises InputError for most others."""
    if isinstance(key, str):
        return str.__str__(key)
    if key is None or isinstance(key, (bool, int, float)):
        return json.dumps(key)
    raise InputError(f"A row holds a dict with the key {key!r}, which is no text.", "Use text keys.")


def _text(value: str) -> Any:
    try:
        value.encode()
    except UnicodeEncodeError:  # a lone surrogate, as in the name of a file that is no UTF-8
        return _with_tag("str", json.dumps(value))
    return value


def _with_tag(tag: str, value: Any) -> dict[str, Any]:
    return {TAG: tag, "value": value}


def _to_plain(value: Any) -> Any:
    """Return what stands for a value that does not come back as it was; raises InputError when nothing does."""
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=str)
    if type(value).__module__.startswith("PIL."):  # a picture is kept as the bytes of its file
        file = io.BytesIO()
        value.save(file, format="PNG")
        return file.getvalue()
    # NumPy scalars and arrays, without importing NumPy: both know how to become plain Python.
    plain = getattr(value, "tolist", None)
    return plain() if callable(plain) else _refuse(value)


def _refuse(value: Any) -> Any:
    raise InputError(
        f"A row holds a value of type {type(value).__name__!r}, which cannot be stored.",
        "Use str, int, float, bool, None, list, dict, bytes, datetime or Decimal; make live objects in `load`.",
    )


_TAG_TEXT = f'"{TAG}"'

_ENCODERS: tuple[tuple[type | tuple[type, ...], str, Callable[[Any], Any]], ...] = (
    ((bytes, bytearray), "bytes", lambda value: base64.b64encode(value).decode()),
    (dt.datetime, "datetime", lambda value: value.isoformat()),  # before date, which it is too
    (dt.date, "date", lambda value: value.isoformat()),
    (dt.time, "time", lambda value: value.isoformat()),
    (dt.timedelta, "timedelta", lambda value: value.total_seconds()),
    (decimal.Decimal, "decimal", str),
)

_DECODERS: dict[str, Callable[[Any], Any]] = {
    "absent": lambda _: ABSENT,
    "dict": dict,
    "json": load_json,
    "str": json.loads,
    "int": lambda text: int(text, 16),
    "float": float,
    "bytes": base64.b64decode,
    "datetime": dt.datetime.fromisoformat,
    "date": dt.date.fromisoformat,
    "time": dt.time.fromisoformat,
    "timedelta": lambda seconds: dt.timedelta(seconds=seconds),
    "decimal": decimal.Decimal,
}

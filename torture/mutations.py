"""Damage to files: bytes flipped, cut, moved, numbers made huge, JSON values replaced, nested deep.

Every mutation is a function of the input's number, so that any of them can be made again.
"""

import json
import random
import re
from collections.abc import Callable
from typing import Any

HUGE = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1)
WORDS = (
    *("0", "-1", "1e999", "-1e999", "NaN", "Infinity", "9" * 30, "9" * 400, "9" * 5000, "1_0"),
    *('""', "null", "true", "[]", "{}", '"\\ud800"', "../../x", "/etc/passwd", "\x00", "\ufeff"),
    *("[" * 60, "[" * 20_000, "{" * 60, "'", '"', ",", "\n", "\r", "=", "0x", "[[", "]]", "\t"),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, 10**400, 0.5, -0.0, 1e308, "", "x"),
    *([], {}, [[]], [None], {"a": 1}, "../../x", "/etc/passwd", "\ud800", "a" * 1000, [1] * 50),
    *(["a"], [["a", 1]], "cuda", "os:system", float("nan"), float("inf"), [0.5], {"": None}),
)


def bytes_of(good: bytes, chance: random.Random) -> bytes:
    """Damage that knows nothing of the format: one to eight changes."""
    content = bytearray(good)
    for _ in range(chance.choice((1, 1, 1, 2, 4, 8))):
        if not content:
            break
        chance.choice(_CHANGES)(content, chance)
    return bytes(content)


def text_of(good: bytes, chance: random.Random) -> bytes:
    """Damage to text: tokens replaced by hostile ones, or bytes changed."""
    if chance.random() < 0.4:
        return bytes_of(good, chance)
    text = good.decode("utf-8", "replace")
    for _ in range(chance.choice((1, 1, 2, 4))):
        tokens = list(re.finditer(r"[\w.+-]+|[^\w\s]|\s+", text))
        if not tokens:
            break
        token, other = chance.choice(tokens), chance.choice(tokens)
        word = chance.choice((*WORDS, other[0], token[0] * 2, ""))
        text = text[: token.start()] + word + text[token.end() :]
    return text.encode("utf-8", "surrogatepass")


def json_of(good: bytes, chance: random.Random) -> bytes:
    """Damage to JSON: values replaced, keys dropped, added or moved; or as in `text_of`."""
    if chance.random() < 0.4:
        return text_of(good, chance)
    return json.dumps(value_of(json.loads(good), chance)).encode()


def value_of(value: Any, chance: random.Random) -> Any:
    """A JSON value with one to three places of it changed."""
    for _ in range(chance.choice((1, 1, 2, 3))):
        value = _changed(value, chance)
    return value


def _changed(value: Any, chance: random.Random) -> Any:
    if isinstance(value, dict) and value and chance.random() < 0.9:
        key = chance.choice(list(value))
        rest = dict(value)
        kind = chance.random()
        if kind < 0.1:
            del rest[key]
        elif kind < 0.2:
            rest[chance.choice(("x", "../x", key + "x", ""))] = rest.pop(key)
        elif kind < 0.3:
            rest[key] = rest[chance.choice(list(value))]
        else:
            rest[key] = _changed(value[key], chance)
        return rest
    if isinstance(value, list) and value and chance.random() < 0.8:
        items, at = list(value), chance.randrange(len(value))
        kind = chance.random()
        if kind < 0.2:
            del items[at]
        elif kind < 0.4:
            items.insert(at, items[chance.randrange(len(items))])
        else:
            items[at] = _changed(items[at], chance)
        return items
    if isinstance(value, str) and value and chance.random() < 0.4:
        return text_of(value.encode("utf-8", "replace"), chance).decode("utf-8", "replace")
    return chance.choice(VALUES)


def _flip(content: bytearray, chance: random.Random) -> None:
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)


def _set(content: bytearray, chance: random.Random) -> None:
    content[chance.randrange(len(content))] = chance.randrange(256)


def _number(content: bytearray, chance: random.Random) -> None:
    size = chance.choice((1, 2, 4, 8))
    at = chance.randrange(len(content))
    number = chance.choice((*HUGE, chance.getrandbits(8 * size))) & ((1 << 8 * size) - 1)
    content[at : at + size] = number.to_bytes(size, chance.choice(("little", "big")))


def _cut(content: bytearray, chance: random.Random) -> None:
    del content[chance.randrange(len(content)) :]


def _drop(content: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(content))
    del content[at : at + chance.choice((1, 2, 8, 100))]


def _insert(content: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(content))
    content[at:at] = chance.randbytes(chance.choice((1, 2, 8, 100)))


def _repeat(content: bytearray, chance: random.Random) -> None:
    at, to = chance.randrange(len(content)), chance.randrange(len(content))
    content[to:to] = content[at : at + chance.choice((4, 64, 512))]


def _fill(content: bytearray, chance: random.Random) -> None:
    at, length = chance.randrange(len(content)), chance.choice((4, 16, 128))
    content[at : at + length] = bytes([chance.choice((0, 255, 32, 65))]) * length


_CHANGES: tuple[Callable[[bytearray, random.Random], None], ...] = (
    *(_flip, _set, _number, _number, _cut, _drop, _insert, _repeat, _fill),
)

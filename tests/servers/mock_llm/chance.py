"""Deterministic chance: every random choice of the server is drawn from a key, none from a clock."""

import hashlib
import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

_WORDS = """
amber basin cedar delta ember fjord grove harbor island juniper kettle lagoon meadow north orchard
prairie quartz ridge summit tundra upland valley willow yonder zephyr anchor beacon copper drift
engine fabric garden hollow ivory jacket kernel ladder mirror needle outpost pebble quiver river
signal timber umbrella velvet window yellow branch candle dancer eagle falcon glacier helmet insect
jungle koala lemon marble
""".split()  # noqa: SIM905 - sixty strings in quotes would be a page


class Draw:
    """A stream of random values that is a pure function of `parts`."""

    __slots__ = ("_random",)

    def __init__(self, *parts: object) -> None:
        text = "\x1f".join(map(str, parts))
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        self._random = random.Random(int.from_bytes(digest, "big"))

    def unit(self) -> float:
        """Return a number in [0, 1)."""
        return self._random.random()

    def integer(self, low: int, high: int) -> int:
        """Return a whole number from `low` to `high`, both included."""
        return self._random.randint(low, high)

    def choice(self, options: Sequence[T]) -> T:
        """Return one of `options`."""
        return options[int(self._random.random() * len(options))]

    def words(self, count: int) -> str:
        """Return `count` words, separated by spaces."""
        return " ".join(self._random.choices(_WORDS, k=count))

    def bits(self, count: int) -> int:
        """Return a whole number of `count` random bits."""
        return self._random.getrandbits(count)

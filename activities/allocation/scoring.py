"""Scores of parcels, by which plans are searched; the lowest score is best.

A score is one integer in which the criteria are digits in their order: addition adds each criterion, comparison
compares the first criterion that differs. Adding to a plan never lowers its score.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple


class Quote(NamedTuple):
    """One carrier's score of a parcel."""

    score: int
    room: int
    """Grams that can be added without changing the score."""
    rise: int
    """The least that each further kilogram adds to the score."""


class Tariff(NamedTuple):
    """A carrier's step function: the score of a parcel, and of each step begun beyond its first grams."""

    score: int
    first: int
    further: int
    step: int
    divisor: int
    """Cubic centimetres charged as one kilogram; 0 if volume is not charged."""

    def quote(self, grams: int, cm3: int) -> Quote:
        times = self.divisor or 1
        charged = max(grams * times, cm3 * 1000) if self.divisor else grams
        steps = max(0, -((self.first * times - charged) // (self.further * times)))
        room = self.first + steps * self.further - grams
        return Quote(self.score + steps * self.step, room, self.step * 1000 // self.further)


@dataclass(frozen=True, eq=False)
class Sender:
    """A site that may ship."""

    code: str
    stock: Mapping[str, int]
    """The quantities due that it can ship, by SKU; all positive."""
    tariffs: Sequence[Tariff]
    """The tariffs of the carriers that may take its parcel."""
    piece: Mapping[str, int]
    """The score of each piece shipped, by SKU."""
    tier: int
    """The score of its parcel by the criteria that precede the number of parcels."""
    _quotes: dict[tuple[int, int], tuple[Quote, ...]] = field(default_factory=dict)
    _parcels: dict[tuple[int, int], int] = field(default_factory=dict)

    def parcel(self, grams: int, cm3: int) -> int:
        """Return the lowest score of a parcel."""
        size = grams, cm3
        score = self._parcels.get(size)
        if score is None:
            score = self._parcels[size] = min([each.quote(grams, cm3).score for each in self.tariffs])
        return score

    def quotes(self, grams: int, cm3: int) -> tuple[Quote, ...]:
        """Return the carriers' quotes for a parcel, without those that another quote always equals or beats."""
        size = grams, cm3
        quotes = self._quotes.get(size)
        if quotes is None:
            quotes = self._quotes[size] = tuple(_best([each.quote(grams, cm3) for each in self.tariffs]))
        return quotes

    def alone(self, quantities: Mapping[str, int], grams: int, cm3: int) -> int:
        """Return the score of a plan in which it ships everything."""
        return self.parcel(grams, cm3) + sum([count * self.piece.get(sku, 0) for sku, count in quantities.items()])

    @cached_property
    def least(self) -> int:
        return self.parcel(0, 0)


@dataclass(frozen=True)
class Due:
    """A quantity of one SKU to ship, and the weight and volume of one piece."""

    quantity: int
    grams: int = 0
    cm3: int = 0


Shares = dict[str, dict[str, int]]
"""Quantities shipped: sender → SKU → quantity."""


def _best(quotes: Sequence[Quote]) -> list[Quote]:
    kept: list[Quote] = []
    for each in sorted(quotes, key=lambda quote: (quote.score, -quote.room, quote.rise)):
        if not any(other.room >= each.room and other.rise <= each.rise for other in kept):
            kept.append(each)
    return kept


class ScoredParcel(NamedTuple):
    """A parcel to which goods can be added."""

    quotes: Sequence[Quote]
    most: int
    """Grams that could be added."""
    needed: bool = True
    """Whether it is shipped in any case."""


def bound(parcels: Sequence[ScoredParcel], grams: int) -> tuple[int, int]:
    """Return a lower bound for the score of parcels that together take ``grams`` more, and the price that gives it.

    For any price of a kilogram, the score with each parcel growing by what is worth that price is a lower bound for
    every distribution (Lagrangian relaxation). The bound is concave in the price.
    """
    prices = sorted({quote.rise for each in parcels for quote in each.quotes} | {0}) if grams else [0]
    first, last = 0, len(prices) - 1
    while first < last:
        middle = (first + last) // 2
        if bound_at(prices[middle], parcels, grams) < bound_at(prices[middle + 1], parcels, grams):
            first = middle + 1
        else:
            last = middle
    return bound_at(prices[first], parcels, grams), prices[first]


def bound_at(price: int, parcels: Iterable[ScoredParcel], grams: int) -> int:
    """Return the lower bound at one price of a kilogram."""
    total = price * grams
    for quotes, most, needed in parcels:
        least = None if needed else 0
        for score, room, rise in quotes:
            value = 1000 * score - price * (room if room < most else most)
            if rise < price and room < most:
                value += (rise - price) * (most - room)
            if least is None or value < least:
                least = value
        total += least or 0
    return -(-total // 1000)

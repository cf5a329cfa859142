"""What senders' parcels score: the terms in which plans are searched.

A score is one integer in which the criteria stand in their order, like digits: sums add every criterion up, and
comparing compares the first in which two differ. Nothing that is added ever lowers a score.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple


class Quote(NamedTuple):
    """What one carrier makes of a parcel."""

    score: int
    room: int
    """Grams it may still grow by without a change."""
    rise: int
    """What each kilogram beyond adds to the score at least."""


class Tariff(NamedTuple):
    """A carrier's staircase: the score of a parcel, and of each step begun beyond its first grams."""

    score: int
    first: int
    further: int
    step: int
    divisor: int
    """Cubic centimetres charged as a kilogram; 0, volume is not charged."""

    def quote(self, grams: int, cm3: int) -> Quote:
        times = self.divisor or 1
        charged = max(grams * times, cm3 * 1000) if self.divisor else grams
        steps = max(0, -((self.first * times - charged) // (self.further * times)))
        room = self.first + steps * self.further - grams
        return Quote(self.score + steps * self.step, room, self.step * 1000 // self.further)


@dataclass(frozen=True, eq=False)
class Sender:
    """A site that may send."""

    code: str
    stock: Mapping[str, int]
    """What it can send of what is due; positive."""
    tariffs: Sequence[Tariff]
    """What its parcel may go by."""
    piece: Mapping[str, int]
    """The score of each piece it sends, by SKU."""
    tier: int
    """The score of its parcel in what counts more than the number of parcels."""
    _quotes: dict[tuple[int, int], tuple[Quote, ...]] = field(default_factory=dict)
    _parcels: dict[tuple[int, int], int] = field(default_factory=dict)

    def parcel(self, grams: int, cm3: int) -> int:
        """The score of its parcel."""
        size = grams, cm3
        found = self._parcels.get(size)
        if found is None:
            found = self._parcels[size] = min([each.quote(grams, cm3).score for each in self.tariffs])
        return found

    def quotes(self, grams: int, cm3: int) -> tuple[Quote, ...]:
        """What carriers make of its parcel, but for those that others are never worse than."""
        size = grams, cm3
        found = self._quotes.get(size)
        if found is None:
            found = self._quotes[size] = tuple(_best([each.quote(grams, cm3) for each in self.tariffs]))
        return found

    def alone(self, quantities: Mapping[str, int], grams: int, cm3: int) -> int:
        """The score of a plan in which it sends all of this."""
        return self.parcel(grams, cm3) + sum([count * self.piece.get(sku, 0) for sku, count in quantities.items()])

    @cached_property
    def least(self) -> int:
        return self.parcel(0, 0)


@dataclass(frozen=True)
class Due:
    """So many of a SKU, and what one piece weighs and fills."""

    quantity: int
    grams: int = 0
    cm3: int = 0


Shares = dict[str, dict[str, int]]
"""Who sends what: sender → SKU → quantity."""


def _best(quotes: Sequence[Quote]) -> list[Quote]:
    kept: list[Quote] = []
    for each in sorted(quotes, key=lambda quote: (quote.score, -quote.room, quote.rise)):
        if not any(other.room >= each.room and other.rise <= each.rise for other in kept):
            kept.append(each)
    return kept


class ScoredParcel(NamedTuple):
    """A parcel that may grow."""

    quotes: Sequence[Quote]
    most: int
    """Grams that could be added."""
    needed: bool = True
    """It is sent in any case."""


def bound(parcels: Sequence[ScoredParcel], grams: int) -> tuple[int, int]:
    """What parcels score at least that together take so many grams more, and the price that shows it.

    However these are shared out, it scores no less than at any one price of a kilogram, each parcel growing by what
    is worth it at that price (Lagrange); what that comes to is concave in the price.
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
    """The least score of parcels, less what they take at a price, and that price of all grams."""
    found = price * grams
    for quotes, most, needed in parcels:
        least = None if needed else 0
        for score, room, rise in quotes:
            value = 1000 * score - price * (room if room < most else most)
            if rise < price and room < most:
                value += (rise - price) * (most - room)
            if least is None or value < least:
                least = value
        found += least or 0
    return -(-found // 1000)

"""The search behind a plan: of all ways to send what is due, the one of least score.

A score is one integer in which the criteria stand in their order, like digits: sums add every criterion up, and
comparing compares the first in which two differ. Nothing that is added ever lowers a score, so what is begun bounds
all it can become.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import NamedTuple

OPTIONS = 256
"""Ways to split one SKU that are weighed at one point."""


class Tariff(NamedTuple):
    """What one carrier makes of a parcel."""

    score: int
    room: int
    """Grams it may still grow by without a change."""
    rise: int
    """What each kilogram beyond adds to the score at least."""


@dataclass(frozen=True)
class Sender:
    """A site that may send, in the terms of the search."""

    code: str
    stock: Mapping[str, int]
    """What it can send of what is due; positive."""
    tariffs: Callable[[int, int], Sequence["Tariff"]]
    """What its parcel may go by, of grams and cubic centimetres."""
    piece: Mapping[str, int]
    """The score of each piece it sends, by SKU."""
    tier: int
    """The score of its parcel in what counts more than the number of parcels."""

    def parcel(self, grams: int, cm3: int) -> int:
        """The score of its parcel."""
        return min(each.score for each in self.tariffs(grams, cm3))

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


class Search:
    """Branch and bound over sets of senders, and within each over who sends what.

    It ends after ``nodes`` steps with the best found till then; ``exact`` says whether it saw the end.
    """

    def __init__(
        self, due: Mapping[str, Due], senders: Sequence[Sender], *, most: int | None, fewest: bool, nodes: int
    ) -> None:
        """``senders`` in the order that breaks ties; ``most`` parcels at most; ``fewest``: a set of senders that can
        do without one of them is never the best."""
        self.due = due
        self.senders = senders
        self.most = len(senders) if most is None else most
        self.fewest = fewest
        self.nodes = nodes
        self.exact = True
        self.score: int | None = None
        self.shares: Shares = {}
        self.shared: set[tuple[int, ...]] = set()
        """The sets of senders for which the best way is known."""

    def run(self) -> Shares:
        """The best way found; nothing where there is none."""
        everything = {sku: each.quantity for sku, each in self.due.items()}
        if everything:
            for group in self._alone() or [self._greedy(everything, tiered) for tiered in (True, False)]:
                if group:
                    self._share(group)
            self._cover([], list(range(len(self.senders))), everything, 0)
        return self.shares

    def _alone(self) -> list[list[int]]:
        """The sender that may do it best of those that have it all."""
        whole = [index for index in range(len(self.senders)) if self._enough([index])]
        return [[min(whole, key=lambda index: self.senders[index].least)]] if whole else []

    def _greedy(self, lacking: dict[str, int], tiered: bool) -> list[int]:
        """Each time the sender that has most of what is still lacking; then without those that turn out needless."""
        group: list[int] = []
        while lacking:
            rest = [index for index in range(len(self.senders)) if index not in group]
            found = min(rest, key=lambda index: self._rank(index, lacking, tiered), default=None)
            if found is None or not self._adds(found, lacking) or len(group) == self.most:
                return []
            group.append(found)
            lacking = self._without(found, lacking)
        for index in group[:]:
            others = [each for each in group if each != index]
            if self._enough(others):
                group = others
        return sorted(group)

    def _rank(self, index: int, lacking: Mapping[str, int], tiered: bool) -> tuple[bool, int, int, int, int]:
        sender, adds = self.senders[index], self._adds(index, lacking)
        return not adds, sender.tier if tiered else 0, -adds, sender.least, index

    def _adds(self, index: int, lacking: Mapping[str, int]) -> int:
        stock = self.senders[index].stock
        return sum(min(quantity, stock[sku]) for sku, quantity in lacking.items() if sku in stock)

    def _without(self, index: int, lacking: Mapping[str, int]) -> dict[str, int]:
        stock = self.senders[index].stock
        return {sku: left for sku, quantity in lacking.items() if (left := quantity - stock.get(sku, 0)) > 0}

    def _enough(self, group: Sequence[int]) -> bool:
        return all(
            sum(self.senders[index].stock.get(sku, 0) for index in group) >= each.quantity
            for sku, each in self.due.items()
        )

    def _step(self) -> bool:
        """Whether there is time for one more step, such as to weigh one way to share a SKU."""
        self.nodes -= 1
        self.exact &= self.nodes >= 0
        return self.nodes >= 0

    def _worse(self, score: int) -> bool:
        return self.score is not None and score >= self.score

    def _cover(self, group: list[int], rest: list[int], lacking: dict[str, int], score: int) -> None:
        """All sets of senders that include the group and else only some of the rest."""
        if not self._step():
            return
        if not lacking:
            self._share(group)
            if not self.fewest and len(group) < self.most:
                self._branch(group, rest, rest, lacking, score)
            return
        holders = {sku: [index for index in rest if sku in self.senders[index].stock] for sku in lacking}
        more = self._more(lacking, holders, rest)
        if more is None or len(group) + more > self.most:
            return
        if self._worse(score + sum(sorted(self.senders[index].least for index in rest)[:more])):
            return
        scarcest = min(lacking, key=lambda sku: (len(holders[sku]), sku))
        likely = sorted(holders[scarcest], key=lambda index: self._rank(index, lacking, True))
        self._branch(group, rest, likely, lacking, score)

    def _branch(self, group: list[int], rest: list[int], each: list[int], lacking: dict[str, int], score: int) -> None:
        """One set after the other for each sender that may come next, none twice."""
        seen: set[int] = set()
        for index in each:
            seen.add(index)
            begun = score + self.senders[index].least
            if not self._worse(begun):
                left = [other for other in rest if other not in seen]
                self._cover([*group, index], left, self._without(index, lacking), begun)

    def _more(self, lacking: Mapping[str, int], holders: Mapping[str, list[int]], rest: list[int]) -> int | None:
        """How many more senders it takes at least; ``None``: they do not have it."""
        more = 1
        for sku, quantity in lacking.items():
            held = sorted((self.senders[index].stock[sku] for index in holders[sku]), reverse=True)
            number = _until(held, quantity)
            if number is None:
                return None
            more = max(more, number)
        adds = sorted((self._adds(index, lacking) for index in rest), reverse=True)
        return max(more, _until(adds, sum(lacking.values())) or 1)

    def _share(self, group: Sequence[int]) -> None:
        """The best way for just these senders."""
        indexes = tuple(sorted(group))
        if indexes not in self.shared:
            self.shared.add(indexes)
            _Sharing(self, [self.senders[index] for index in indexes]).run()

    def keep(self, score: int, shares: Shares) -> None:
        if not self._worse(score):
            self.score, self.shares = score, shares


def _until(amounts: Sequence[int], enough: int) -> int | None:
    """How many of the amounts, from the first, make enough."""
    for number, amount in enumerate(amounts, 1):
        enough -= amount
        if enough <= 0:
            return number
    return None


class _Sharing:
    """Who of a set of senders sends what: SKU by SKU, the heaviest first."""

    def __init__(self, search: Search, senders: Sequence[Sender]) -> None:
        self.search = search
        self.senders = senders
        self.shares: list[dict[str, int]] = [{} for _ in senders]
        self.grams = [0] * len(senders)
        self.cm3 = [0] * len(senders)
        self.pieces = 0
        """The score of all pieces that are shared out."""
        self.free: list[tuple[str, int]] = []
        """What may come from one or another: SKU and quantity."""
        self.floor = [0]
        """The least score of the pieces still to share out: of the last k SKUs, by k."""
        self.heavy = [0]
        """The grams still to share out, likewise."""
        self.seen: dict[tuple[int, ...], int] = {}

    def run(self) -> None:
        for sku, due in self.search.due.items():
            held = [sender.stock.get(sku, 0) for sender in self.senders]
            bound = [max(0, due.quantity - (sum(held) - each)) for each in held]
            self._give(sku, bound)
            if left := due.quantity - sum(bound):
                self.free.append((sku, left))
        self.free.sort(key=lambda each: (-each[1] * self.search.due[each[0]].grams, each[0]))
        for sku, quantity in reversed(self.free):
            self.heavy.append(self.heavy[-1] + quantity * self.search.due[sku].grams)
            first = next(self._ways(sku, quantity))
            self.floor.append(self.floor[-1] + sum(map(self._piece, [sku] * len(first), range(len(first)), first)))
        if not self.search._worse(self._bound(len(self.free))):
            self._fill()
            self._next(0)

    def _piece(self, sku: str, index: int, quantity: int) -> int:
        return self.senders[index].piece.get(sku, 0) * quantity

    def _give(self, sku: str, way: Sequence[int], sign: int = 1) -> None:
        due = self.search.due[sku]
        for index, quantity in enumerate(way):
            if quantity:
                self.shares[index][sku] = self.shares[index].get(sku, 0) + sign * quantity
                self.grams[index] += sign * quantity * due.grams
                self.cm3[index] += sign * quantity * due.cm3
                self.pieces += sign * self._piece(sku, index, quantity)

    def _bound(self, left: int) -> int:
        """What it comes to at least, with so many SKUs still to share out.

        Parcels cost what they do now, or more for the weight to come: however it is shared out, it costs no less than
        at any one price per kilogram, taking from each parcel what it may grow by for less (Lagrange).
        """
        found = [sender.tariffs(*each) for sender, *each in zip(self.senders, self.grams, self.cm3, strict=True)]
        parcels = sum(min(tariff.score for tariff in each) for each in found)
        grams = self.heavy[left]
        if grams:
            prices = {min(tariff.rise for tariff in each) for each in found}
            parcels = max(parcels, *(_at(price, found, grams) for price in prices))
        return self.pieces + self.floor[left] + parcels

    def _fill(self) -> None:
        """One way to begin with: every SKU as its pieces score least."""
        ways = [(sku, next(self._ways(sku, quantity))) for sku, quantity in self.free]
        for sku, way in ways:
            self._give(sku, way)
        self._keep()
        for sku, way in ways:
            self._give(sku, way, -1)

    def _keep(self) -> None:
        """A sender left without goods sends no parcel; the set without it is another one to try."""
        if all(any(share.values()) for share in self.shares):
            shares = {
                sender.code: {sku: quantity for sku, quantity in share.items() if quantity}
                for sender, share in zip(self.senders, self.shares, strict=True)
            }
            self.search.keep(self._bound(0), shares)

    def _next(self, level: int) -> None:
        if not self.search._step():
            return
        if level == len(self.free):
            self._keep()
            return
        left = len(self.free) - level
        state = (level, *self.grams, *self.cm3)
        if self.search._worse(self._bound(left)) or self.seen.get(state, self.pieces + 1) <= self.pieces:
            return
        self.seen[state] = self.pieces
        sku, quantity = self.free[level]
        ways = list(islice(self._ways(sku, quantity), OPTIONS + 1))
        self.search.exact &= len(ways) <= OPTIONS
        self.search.nodes -= len(ways)
        scored = sorted((self._try(sku, way, left - 1), number) for number, way in enumerate(ways))
        for score, number in scored:
            if self.search._worse(score):
                return
            self._give(sku, ways[number])
            self._next(level + 1)
            self._give(sku, ways[number], -1)

    def _try(self, sku: str, way: Sequence[int], left: int) -> int:
        self._give(sku, way)
        score = self._bound(left)
        self._give(sku, way, -1)
        return score

    def _ways(self, sku: str, quantity: int) -> Iterator[tuple[int, ...]]:
        """All ways to share so many out, those first whose pieces score least."""
        held = (sender.stock.get(sku, 0) for sender in self.senders)
        room = [each - share.get(sku, 0) for each, share in zip(held, self.shares, strict=True)]
        order = [index for index, each in enumerate(room) if each > 0]
        order.sort(key=lambda index: self._piece(sku, index, 1))
        return _split(quantity, room, order, [0] * len(room))


def _at(price: int, parcels: Sequence[Sequence[Tariff]], grams: int) -> int:
    """The least score of parcels that have to take so many grams more, each kilogram of them worth a price."""
    found = price * grams
    for each in parcels:
        found += min(
            1000 * score - price * min(room, grams) + min(0, rise - price) * max(0, grams - room)
            for score, room, rise in each
        )
    return -(-found // 1000)


def _split(quantity: int, room: Sequence[int], order: Sequence[int], way: list[int]) -> Iterator[tuple[int, ...]]:
    if not quantity:
        yield tuple(way)
        return
    if not order or sum(room[index] for index in order) < quantity:
        return
    first, *others = order
    for part in range(min(quantity, room[first]), -1, -1):
        way[first] = part
        yield from _split(quantity - part, room, others, way)
        way[first] = 0

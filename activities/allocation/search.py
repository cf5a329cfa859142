"""The search behind a plan: find the way to ship everything due that has the lowest score.

Adding to a plan never lowers its score, so a partial plan bounds all plans that extend it.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, islice, product
from random import Random

from activities.allocation.scoring import Due, ScoredParcel, Sender, Shares, bound, bound_at

OPTIONS = 256
"""Ways to split one SKU that are tried at one node."""
_OTHERS = 16
"""Senders that are tried in pairs."""
_ROUNDS = 8
"""Rounds without improvement after which improving ends."""
_FIRST = 16
"""The first proof may use one step in this many."""


class Search:
    """Branch and bound over sets of senders, and within each set over who ships what.

    The search ends after about ``nodes`` steps with the best plan so far; ``exact`` says whether it was exhaustive. If
    a few steps do not prove a plan, it is first improved sender by sender: a better plan prunes more.
    """

    def __init__(
        self, due: Mapping[str, Due], senders: Sequence[Sender], *, most: int | None, fewest: bool, nodes: int
    ) -> None:
        """``senders`` are in the order that breaks ties; ``most`` limits the parcels; with ``fewest``, a set of senders
        that is sufficient without one of them is never the best."""
        self.due = due
        self.senders = senders
        self.most = len(senders) if most is None else most
        self.fewest = fewest
        self.nodes = nodes
        self.left = nodes
        self.exact = True
        self.score: int | None = None
        self.shares: Shares = {}
        self.everything = {sku: each.quantity for sku, each in due.items()}
        self.size = (
            sum([each.quantity * each.grams for each in due.values()]),
            sum([each.quantity * each.cm3 for each in due.values()]),
        )

        self.empty = [ScoredParcel(sender.quotes(0, 0), self._max_grams(sender)) for sender in senders]
        self.idle = [parcel._replace(needed=False) for parcel in self.empty]

    def run(self) -> Shares:
        """Return the best shares found; empty if there are none."""
        if self.everything:
            self._begin()
            self._prove(self.nodes // _FIRST)
            if not self.exact and self.score is not None:
                self.left = self.nodes
                self._improve()
                self.left = self.nodes // 2
                Sharing(self, self._group()).prove()
                self._prove(self.nodes)
        return self.shares

    def _max_grams(self, sender: Sender) -> int:
        """Return the grams due that the sender has in stock."""
        return sum([min(each.quantity, sender.stock.get(sku, 0)) * each.grams for sku, each in self.due.items()])

    def worse(self, score: int) -> bool:
        return self.score is not None and score >= self.score

    def keep(self, score: int, shares: Shares) -> None:
        """Remember shares that are better than the best so far."""
        if not self.worse(score):
            self.score, self.shares = score, shares

    def step(self, cost: int = 1) -> bool:
        """Spend steps, such as one for each way to share a SKU; return whether any were left."""
        self.left -= cost
        self.exact &= self.left >= 0
        return self.left >= 0

    # An initial plan, and better ones near it

    def _begin(self) -> None:
        for index, sender in enumerate(self.senders):
            if not self._without(index, self.everything):
                self.keep(sender.alone(self.everything, *self.size), {sender.code: self.everything})
        if self.score is None:
            for tiered in (True, False):
                if group := self._greedy(self.everything, tiered):
                    Sharing(self, group).improve()

    def _greedy(self, missing: dict[str, int], tiered: bool) -> list[int]:
        """Add the sender that has most of what is missing until nothing is, then drop senders that are not needed."""
        group: list[int] = []
        while missing:
            rest = [index for index in range(len(self.senders)) if index not in group]
            best = min(rest, key=lambda index: self._rank(index, missing, tiered), default=None)
            if best is None or not self._adds(best, missing) or len(group) == self.most:
                return []
            group.append(best)
            missing = self._without(best, missing)
        for index in group[:]:
            others = [each for each in group if each != index]
            if self._enough(others):
                group = others
        return sorted(group)

    def _improve(self) -> None:
        """Try sets that differ from the best so far in one sender. If none is better, try two senders, then distribute
        the SKUs in random orders."""
        seen: set[tuple[int, tuple[int, ...]]] = set()
        round_ = 0
        while round_ < _ROUNDS:
            score = self.score
            for least, near in sorted(self._near(self._group(), 2 if round_ == 1 else 1)):
                if self.worse(least) or self.left <= 0:
                    break
                if (round_, near) not in seen:
                    seen.add((round_, near))
                    Sharing(self, near).improve(Random(round_) if round_ > 1 else None)  # noqa: S311
            round_ = round_ + 1 if self.score == score else 0

    def _group(self) -> list[int]:
        """Return the senders of the best plan so far."""
        return [index for index, sender in enumerate(self.senders) if sender.code in self.shares]

    def _near(self, group: list[int], apart: int) -> Iterator[tuple[int, tuple[int, ...]]]:
        """Yield the sets that differ from the group by at most ``apart`` senders removed and as many added, each with
        its lower bound."""
        others = [index for index in range(len(self.senders)) if index not in group]
        if apart > 1:
            others = sorted(others, key=lambda index: self._least([*group, index], []))[:_OTHERS]
        for fewer, more in product(range(apart + 1), repeat=2):
            if fewer <= len(group) <= self.most + fewer - more:
                for kept, added in product(combinations(group, len(group) - fewer), combinations(others, more)):
                    near = tuple(sorted(kept + added))
                    if self._enough(near) and self.step():
                        yield self._least(near, []), near

    # Sets of senders

    def _rank(self, index: int, missing: Mapping[str, int], tiered: bool) -> tuple[bool, int, int, int, int]:
        sender, adds = self.senders[index], self._adds(index, missing)
        return not adds, sender.tier if tiered else 0, -adds, sender.least, index

    def _adds(self, index: int, missing: Mapping[str, int]) -> int:
        stock = self.senders[index].stock
        return sum([min(quantity, stock[sku]) for sku, quantity in missing.items() if sku in stock])

    def _without(self, index: int, missing: Mapping[str, int]) -> dict[str, int]:
        stock = self.senders[index].stock
        return {sku: left for sku, quantity in missing.items() if (left := quantity - stock.get(sku, 0)) > 0}

    def _enough(self, group: Sequence[int]) -> bool:
        return all(
            sum([self.senders[index].stock.get(sku, 0) for index in group]) >= quantity
            for sku, quantity in self.everything.items()
        )

    def _prove(self, nodes: int) -> None:
        self.left, self.exact = nodes, True
        self._cover([], list(range(len(self.senders))), self.everything, 0)

    def _cover(self, group: list[int], rest: list[int], missing: dict[str, int], score: int) -> None:
        """Search all sets that consist of the group and some of the rest."""
        if not self.step(1 + len(rest) // 2):
            return
        if not missing:
            if len(group) > 1:
                Sharing(self, sorted(group)).prove()
            if not self.fewest and len(group) < self.most and not self.worse(self._least(group, rest)):
                self._branch(group, rest, rest, missing, score)
            return
        holders = {sku: [index for index in rest if sku in self.senders[index].stock] for sku in missing}
        more = self._more(missing, holders, rest)
        if more is None or len(group) + more > self.most:
            return
        if self.worse(score + sum(sorted([self.senders[index].least for index in rest])[:more])):
            return
        if group and self.worse(self._least(group, rest)):
            return
        scarcest = min(missing, key=lambda sku: (len(holders[sku]), sku))
        likely = sorted(holders[scarcest], key=lambda index: self._rank(index, missing, True))
        self._branch(group, rest, likely, missing, score)

    def _branch(self, group: list[int], rest: list[int], each: list[int], missing: dict[str, int], score: int) -> None:
        """Extend the group by each sender that may come next, without repeating a set."""
        seen: set[int] = set()
        for index in each:
            seen.add(index)
            begun = score + self.senders[index].least
            if not self.worse(begun):
                left = [other for other in rest if other not in seen]
                self._cover([*group, index], left, self._without(index, missing), begun)

    def _least(self, group: Sequence[int], rest: Sequence[int]) -> int:
        """Return a lower bound for shipping the whole weight, where senders of the rest may ship nothing."""
        return bound([self.empty[index] for index in group] + [self.idle[index] for index in rest], self.size[0])[0]

    def _more(self, missing: Mapping[str, int], holders: Mapping[str, list[int]], rest: list[int]) -> int | None:
        """Return the least number of further senders needed; ``None`` if the rest do not have enough."""
        more = 1
        for sku, quantity in missing.items():
            held = sorted([self.senders[index].stock[sku] for index in holders[sku]], reverse=True)
            number = _count_until(held, quantity)
            if number is None:
                return None
            more = max(more, number)
        adds = sorted([self._adds(index, missing) for index in rest], reverse=True)
        return max(more, _count_until(adds, sum(missing.values())) or 1)


def _count_until(amounts: Sequence[int], enough: int) -> int | None:
    """Return how many of the amounts, from the first, add up to ``enough``."""
    for number, amount in enumerate(amounts, 1):
        enough -= amount
        if enough <= 0:
            return number
    return None


class Sharing:
    """The distribution of goods over a set of senders."""

    def __init__(self, search: Search, group: Sequence[int]) -> None:
        self.search = search
        self.due = search.due
        self.senders = [search.senders[index] for index in group]
        self.shares: list[dict[str, int]] = [{} for _ in group]
        self.grams = [0] * len(group)
        self.cm3 = [0] * len(group)
        self.pieces = 0
        """The score of all pieces assigned so far."""
        self.free: list[tuple[str, int]] = []
        """SKUs and quantities that may come from more than one sender, the heaviest first."""
        self.floor = [0]
        """The least score of the pieces still to assign: of the last k SKUs, by k."""
        self.heavy = [0]
        """The grams still to assign, by k."""
        self.max_grams = [[0] * len(group)]
        """How many of these grams each sender could take, by k."""
        self.seen: dict[tuple[int, ...], int] = {}
        self._assign_forced()

    def _assign_forced(self) -> None:
        """Assign what only one sender can ship, and compute the bounds for the rest."""
        for sku, due in self.due.items():
            held = [sender.stock.get(sku, 0) for sender in self.senders]
            forced = [max(0, due.quantity - (sum(held) - each)) for each in held]
            self._give(sku, forced)
            if left := due.quantity - sum(forced):
                self.free.append((sku, left))
        self.free.sort(key=lambda each: (-each[1] * self.due[each[0]].grams, each[0]))
        for sku, quantity in reversed(self.free):
            grams = self.due[sku].grams
            first = next(self._ways(sku, quantity))
            self.floor.append(self.floor[-1] + sum(map(self._piece, [sku] * len(first), range(len(first)), first)))
            self.heavy.append(self.heavy[-1] + quantity * grams)
            rooms = [min(quantity, self._room(sku, index)) for index in range(len(self.senders))]
            self.max_grams.append([sum_ + room * grams for sum_, room in zip(self.max_grams[-1], rooms, strict=True)])

    def prove(self) -> None:
        """Find the best distribution if it is better than the best plan so far, SKU by SKU."""
        if not self._hopeless:
            self._next(0)

    def improve(self, random: Random | None = None) -> None:
        """Find a good distribution if one may be better than the best plan so far: assign piece by piece, the heaviest
        first or in random order, then move and swap while that helps."""
        if not self.search.step(len(self.due)) or self._hopeless:
            return
        pieces = [sku for sku, quantity in self.free for _ in range(quantity)]
        if random:
            random.shuffle(pieces)
        for sku in pieces:
            able = [index for index in range(len(self.senders)) if self._room(sku, index)]
            self._add(sku, min(able, key=lambda index: self._change(index, (sku, 1))), 1)
        while self.search.step(3 * len(self.free)) and (self._move() or self._swap()):
            pass
        senders = [index for index, share in enumerate(self.shares) if any(share.values())]
        self._keep(senders, self.pieces + sum([self._parcel(index) for index in senders]))

    @property
    def _hopeless(self) -> bool:
        return self.search.worse(self._bound(len(self.free))[0])

    def _keep(self, senders: Sequence[int], score: int) -> None:
        if not self.search.worse(score):
            shares = {self.senders[index].code: self.shares[index] for index in senders}
            self.search.keep(score, {code: {sku: n for sku, n in each.items() if n} for code, each in shares.items()})

    def _parcel(self, index: int) -> int:
        return self.senders[index].parcel(self.grams[index], self.cm3[index])

    def _piece(self, sku: str, index: int, quantity: int) -> int:
        return self.senders[index].piece.get(sku, 0) * quantity

    def _room(self, sku: str, index: int) -> int:
        return self.senders[index].stock.get(sku, 0) - self.shares[index].get(sku, 0)

    def _add(self, sku: str, index: int, quantity: int) -> None:
        due = self.due[sku]
        self.shares[index][sku] = self.shares[index].get(sku, 0) + quantity
        self.grams[index] += quantity * due.grams
        self.cm3[index] += quantity * due.cm3
        self.pieces += self._piece(sku, index, quantity)

    def _give(self, sku: str, way: Sequence[int], sign: int = 1) -> None:
        for index, quantity in enumerate(way):
            if quantity:
                self._add(sku, index, sign * quantity)

    # Moves

    def _change(self, index: int, *changes: tuple[str, int]) -> int:
        """Return what changes of a sender's share would add to the score. An empty parcel scores nothing."""
        count, grams, cm3, score = sum(self.shares[index].values()), self.grams[index], self.cm3[index], 0
        if count:
            score -= self._parcel(index)
        for sku, quantity in changes:
            due = self.due[sku]
            count += quantity
            grams += quantity * due.grams
            cm3 += quantity * due.cm3
            score += self._piece(sku, index, quantity)
        return score + self.senders[index].parcel(grams, cm3) if count else score

    def _moves(self, sku: str) -> list[tuple[int, int, int]]:
        """Return possible moves as giver, taker and quantity."""
        givers = [(index, held) for index, share in enumerate(self.shares) if (held := share.get(sku, 0))]
        takers = [(index, room) for index in range(len(self.senders)) if (room := self._room(sku, index)) > 0]
        return [
            (giver, taker, quantity)
            for giver, held in givers
            for taker, room in takers
            if giver != taker
            for most in [min(held, room)]
            for quantity in {1, most // 2, most} - {0}
        ]

    def _move(self) -> bool:
        """Move some of a SKU from one sender to another if that is better."""
        for sku, _ in self.free:
            for giver, taker, quantity in self._moves(sku):
                if self._change(giver, (sku, -quantity)) + self._change(taker, (sku, quantity)) < 0:
                    self._add(sku, giver, -quantity)
                    self._add(sku, taker, quantity)
                    return True
        return False

    def _swap(self) -> bool:
        """Swap some of a SKU for some of another if that is better."""
        moves = {sku: self._moves(sku) for sku, _ in self.free}
        for (one, _), (other, _) in combinations(self.free, 2):
            for (giver, taker, quantity), (taker_, giver_, back) in product(moves[one], moves[other]):
                if (giver, taker) == (giver_, taker_):
                    change = self._change(giver, (one, -quantity), (other, back))
                    if change + self._change(taker, (one, quantity), (other, -back)) < 0:
                        self._add(one, giver, -quantity)
                        self._add(one, taker, quantity)
                        self._add(other, taker, -back)
                        self._add(other, giver, back)
                        return True
        return False

    # Exhaustive search

    def _bound(self, left: int) -> tuple[int, int]:
        """Return a lower bound with ``left`` SKUs still to assign, and the price of a kilogram that gives it."""
        least, price = bound(self._parcels(left), self.heavy[left])
        return self.pieces + self.floor[left] + least, price

    def _parcels(self, left: int) -> list[ScoredParcel]:
        sizes = zip(self.senders, self.grams, self.cm3, self.max_grams[left], strict=True)
        return [ScoredParcel(sender.quotes(grams, cm3), most) for sender, grams, cm3, most in sizes]

    def _next(self, level: int) -> None:
        if not self.search.step():
            return
        left = len(self.free) - level
        least, price = self._bound(left)
        if self.search.worse(least):
            return
        if not left:
            # A sender without goods ships no parcel: the set without it is searched separately.
            if all(any(share.values()) for share in self.shares):
                self._keep(range(len(self.senders)), least)
            return
        state = (level, *self.grams, *self.cm3)
        if self.seen.get(state, self.pieces + 1) <= self.pieces:
            return
        self.seen[state] = self.pieces
        sku, quantity = self.free[level]
        ways = list(islice(self._ways(sku, quantity), OPTIONS + 1))
        self.search.exact &= len(ways) <= OPTIONS
        self.search.step(len(ways))
        scored = sorted([(self._try(sku, way, left - 1, price), number) for number, way in enumerate(ways)])
        for score, number in scored:
            if self.search.worse(score):
                return
            self._give(sku, ways[number])
            self._next(level + 1)
            self._give(sku, ways[number], -1)

    def _try(self, sku: str, way: Sequence[int], left: int, price: int) -> int:
        """Return a lower bound for one way to split a SKU, at the price given."""
        self._give(sku, way)
        score = self.pieces + self.floor[left] + bound_at(price, self._parcels(left), self.heavy[left])
        self._give(sku, way, -1)
        return score

    def _ways(self, sku: str, quantity: int) -> Iterator[tuple[int, ...]]:
        """Yield all ways to split a quantity, those with the lowest-scoring pieces first."""
        room = [self._room(sku, index) for index in range(len(self.senders))]
        order = [index for index, each in enumerate(room) if each > 0]
        order.sort(key=lambda index: self._piece(sku, index, 1))
        return _split(quantity, room, order, [0] * len(room))


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

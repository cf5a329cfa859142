"""Prints the structure of the code: floors, rooms, who imports whom, and cycles. ``make house``.

Arrows are counted between rooms: one for each pair of rooms of which one imports the other. A room is a folder or
module directly inside a floor; the floors ``starter`` and ``workers`` count as one room each.
"""

import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import grimp

FLOORS = ("starter", "workers", "workflows", "activities", "models")
Arrows = Mapping[str, set[str]]


def room(module: str, floor: str) -> str:
    """The room of a module within a floor, such as ``stock`` of ``activities.stock.ledger``."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == floor else ""


def arrows(graph: grimp.ImportGraph, floor: str) -> dict[str, set[str]]:
    """Each room of a floor with the rooms of the same floor that it imports."""
    found: dict[str, set[str]] = {name: set() for module in graph.modules if (name := room(module, floor))}
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            importer, other = room(module, floor), room(imported, floor)
            if importer and other and importer != other:
                found[importer].add(other)
    return found


def cycles(rooms: Arrows) -> list[set[str]]:
    """Groups of rooms that reach each other."""

    def reachable(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            for other in rooms[waiting.pop()] - seen:
                seen.add(other)
                waiting.append(other)
        return seen

    reach = {name: reachable(name) for name in rooms}
    groups = {frozenset({other for other in reach[name] if name in reach[other]}) for name in rooms}
    return [set(group) for group in groups if group]


def levels(rooms: Arrows) -> list[list[str]]:
    """Rooms by height: a room stands one level above the highest room that it imports."""
    height: dict[str, int] = {}

    def above(name: str, path: frozenset[str] = frozenset()) -> int:
        if name not in height:
            height[name] = 1 + max((above(each, path | {name}) for each in rooms[name] - path), default=-1)
        return height[name]

    ordered: dict[int, list[str]] = defaultdict(list)
    for name in sorted(rooms):
        ordered[above(name)].append(name)
    return [ordered[each] for each in sorted(ordered, reverse=True)]


def size(paths: Iterable[Path]) -> int:
    return sum(len(path.read_text().splitlines()) for path in paths)


def main(root: Path) -> None:
    sys.path.insert(0, str(root))
    graph = grimp.build_graph(*FLOORS, cache_dir=None)
    for floor in FLOORS:
        files = sorted((root / floor).rglob("*.py"))
        rooms = arrows(graph, floor)
        count = sum(len(each) for each in rooms.values())
        longest = max(files, key=lambda path: size([path]))
        print(
            f"{floor}: {size(files)} lines, {len(rooms)} rooms, {count} arrows, {len(cycles(rooms))} cycles; ", end=""
        )
        print(f"longest file {longest.relative_to(root)} ({size([longest])} lines)")
    rooms = arrows(graph, "activities")
    print("\nactivities, from the top:")
    for level in levels(rooms):
        for name in level:
            print(f"  {name:<14} {', '.join(sorted(rooms[name]))}")
        print()


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve())

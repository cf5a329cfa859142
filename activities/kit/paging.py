"""Reading long lists of a channel completely, while it goes on changing."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

Row = TypeVar("Row")


def time_slices(since: datetime, until: datetime, longest: timedelta) -> Iterator[tuple[datetime, datetime]]:
    """A window in parts that a channel takes."""
    while since < until:
        end = min(since + longest, until)
        yield since, end
        since = end


async def last_page_first(page: Callable[[int], Awaitable[tuple[Sequence[Row], int]]]) -> AsyncIterator[Sequence[Row]]:
    """The rows of numbered pages, the last page first: rows that change meanwhile leave the window, and others move
    forward. ``page`` answers the rows of a page, the first being 1, and how many pages there are."""
    first, last = await page(1)
    for number in range(last, 0, -1):
        yield first if last == 1 else (await page(number))[0]


def page_count(total: Any, size: int) -> int:
    """How many pages of a size so many rows fill, as a channel tells their number; at least one."""
    return max(-(-int(total or 0) // size), 1)

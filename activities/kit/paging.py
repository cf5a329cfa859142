"""Reading long lists of a channel completely while they change."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar

Row = TypeVar("Row")


def time_slices(since: datetime, until: datetime, longest: timedelta) -> Iterator[tuple[datetime, datetime]]:
    """Split a window into slices of at most ``longest``."""
    while since < until:
        end = min(since + longest, until)
        yield since, end
        since = end


async def last_page_first(page: Callable[[int], Awaitable[tuple[Sequence[Row], int]]]) -> AsyncIterator[Sequence[Row]]:
    """Yield numbered pages, the last one first: rows that change meanwhile leave the window, and the rows behind them
    move to earlier pages. ``page`` returns the rows of a page, counted from 1, and the number of pages."""
    first, last = await page(1)
    for number in range(last, 0, -1):
        yield first if last == 1 else (await page(number))[0]


async def sliced_pages(
    since: datetime,
    until: datetime,
    longest: timedelta,
    page: Callable[[datetime, datetime, int], Awaitable[tuple[Sequence[Row], int]]],
) -> AsyncIterator[Sequence[Row]]:
    """Yield the pages of a window slice by slice, each slice by its last page first. ``page`` takes the start and end
    of a slice and the number of the page."""
    for start, end in time_slices(since, until, longest):
        async for rows in last_page_first(partial(page, start, end)):
            yield rows


async def sliced_rows(
    since: datetime,
    until: datetime,
    longest: timedelta,
    page: Callable[[datetime, datetime, int], Awaitable[tuple[Sequence[Row], int]]],
) -> AsyncIterator[Row]:
    """Yield the rows of ``sliced_pages`` one by one."""
    async for rows in sliced_pages(since, until, longest, page):
        for row in rows:
            yield row


def page_count(total: Any, size: int) -> int:
    """Return how many pages of a size hold ``total`` rows, at least one; ``total`` as the channel writes it."""
    return max(-(-int(total or 0) // size), 1)

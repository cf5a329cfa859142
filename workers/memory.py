"""How the collector of garbage goes about it in a process that serves."""

import gc


def settle() -> None:
    """What is loaded stays, and is not looked through again and again; what requests leave behind is young.

    With Python's own thresholds a full collection comes every few hundred orders, and each stops everything for a
    quarter of a second.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)

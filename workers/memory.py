"""The garbage collector in processes that serve."""

import gc


def defer() -> None:
    """Collect nothing until ``tune``. While a process loads it makes many objects, and nearly all of them stay."""
    gc.disable()


def tune() -> None:
    """Exempt what is loaded so far from collection, and collect new objects less often.

    With Python's default thresholds a full collection runs every few hundred orders, and each stops the process for
    a quarter of a second. Only a full collection frees a workflow that left the worker's cache, of some thousand
    objects that refer to each other: it runs after two million new objects, so that those that wait for it take no
    more memory than the cache.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 5)
    gc.enable()

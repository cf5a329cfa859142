"""Activities that the workers register."""

import pytest
from temporalio import activity

from workers.main import ACTIVITIES

ROOMS = {"orders": "order"}
"""Prefixes of activity types that differ from the folder's name under ``activities``."""


def test_activity_types_are_distinct() -> None:
    types = [_type(each) for each in ACTIVITIES]
    assert sorted(set(types)) == sorted(types)


@pytest.mark.parametrize("registered", ACTIVITIES, ids=lambda each: each.__name__)
def test_activity_type_names_its_room(registered: object) -> None:
    folder = registered.__module__.split(".")[1]
    prefix, dot, name = _type(registered).partition(".")
    assert prefix == ROOMS.get(folder, folder)
    assert dot
    assert name


def _type(registered: object) -> str:
    name = activity._Definition.must_from_callable(registered).name  # type: ignore[arg-type]
    assert name
    return name

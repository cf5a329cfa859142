"""A full disk: messages are refused with 503, nothing acknowledged is lost, and all goes on once there is room."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client

from activities.kit.database import dispose
from models.intake import InboxState, IntegrationType
from models.settings import settings
from starter import dispatcher, logs
from tests.api import SECRET, open_account, open_door, rows, sale, tell, until
from tests.disks import NoSmallDisk, fill, small_disk
from workers.embedded import start_postgres
from workers.schema import migrate


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    try:
        with small_disk(tmp_path / "disk", 192) as folder:
            yield folder
    except NoSmallDisk as error:
        pytest.skip(str(error))


async def test_full_disk_refuses_messages_until_there_is_room(
    temporal: Client, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    big = {"remark": "x" * 100_000}
    with (
        (disk / "api.log").open("w") as log,
        start_postgres(disk, options={"max_wal_size": "48MB", "min_wal_size": "32MB", "fsync": "off"}) as server,
    ):
        migrate(server.url)
        monkeypatch.setenv("HENGDAN_DATABASE_URL", server.url)
        settings.cache_clear()
        await dispose()
        monkeypatch.setattr(sys, "stderr", log)
        logs.configure()
        await open_account(IntegrationType.CHANNEL, "own", "web", secret=SECRET)
        async with open_door() as api:

            async def accepted(state: str) -> bool:
                ready = await api.get("/ready")
                return (ready.status_code, ready.json()["database"]) == ((200, "ok") if state == "ok" else (503, state))

            acknowledged = []
            assert (await tell(api, sale())).status_code == 202
            ballast = fill(disk)
            await until(lambda: accepted("down"))
            for _ in range(10):
                late: dict[str, Any] = sale(**big)
                answer = await tell(api, late)
                assert answer.status_code in (202, 503), answer.text
                if answer.status_code == 202:
                    acknowledged.append(late["event_id"])
            assert answer.status_code == 503
            for _ in range(200):  # the log of refused requests is on the full disk, too
                assert (await api.get("/health")).status_code == 200
            assert (await api.get("/orders/none")).status_code in (401, 503)
            ballast.unlink()
            await until(lambda: accepted("ok"))
            assert (await tell(api, late)).status_code == 202
            acknowledged.append(late["event_id"])

            async def all_started() -> bool:
                found = await rows()
                assert {row.fact_key for row in found} >= set(acknowledged)
                return (
                    all(row.state is not InboxState.PENDING for row in found) and await dispatcher.somebody_dispatches()
                )

            await until(all_started)
        await dispose()

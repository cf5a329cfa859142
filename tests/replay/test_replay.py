"""Every stored history replays. ``pytest tests/workflow/record.py`` records them again."""

from pathlib import Path

import pytest
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner

from tests.replay import RING
from workers.client import data_converter
from workflows.order.workflow import OrderWorkflow

HISTORIES = {file.stem: file.read_text() for file in sorted((Path(__file__).parent / "histories").glob("*.json"))}


def test_histories_are_stored() -> None:
    assert len(HISTORIES) >= 6


@pytest.mark.parametrize("name", HISTORIES)
async def test_history_replays(name: str) -> None:
    replayer = Replayer(
        workflows=[OrderWorkflow],
        workflow_runner=UnsandboxedWorkflowRunner(),
        data_converter=data_converter(RING),
    )
    await replayer.replay_workflow(WorkflowHistory.from_json(name, HISTORIES[name]))

"""The command line, run in this process."""

import asyncio
import re
from dataclasses import dataclass

import pytest

from starter.cli import main


@dataclass
class Ran:
    status: int
    out: str
    err: str


class Commands:
    """Runs ``hengdan ...`` as a person would, in a thread: the API may live in the test's own loop."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *words: str) -> Ran:
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(words)
        said = self._capsys.readouterr()
        return Ran(int(ended.value.code or 0), said.out, said.err)

    async def run(self, *words: str) -> Ran:
        return await asyncio.to_thread(self, *words)

    async def ok(self, *words: str) -> str:
        """What it prints: texts of the catalogue, filled in."""
        ran = await self.run(*words)
        assert ran.status == 0, ran.err
        assert not re.search(r"\{\w+\}|\bcli\.", ran.out), ran.out
        return ran.out

    async def refused(self, *words: str) -> str:
        """The one line that says why not."""
        ran = await self.run(*words)
        assert (ran.status, ran.out, ran.err.count("\n")) == (2, "", 1), ran
        return ran.err

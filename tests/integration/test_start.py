"""The page for newcomers, docs/start.md: every command is run as shown, on a stack of its own, until the parcels are
there."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "start.md"
PATIENCE = 240
"""Seconds for what a block expects to appear, on a machine under load."""

pytestmark = [
    pytest.mark.skipif(
        sys.platform != "linux" or not all(map(shutil.which, ("curl", "openssl", "make"))),
        reason="needs Linux, curl, openssl and make",
    ),
    pytest.mark.timeout(1800),
]


class Block(NamedTuple):
    language: str
    text: str


def blocks() -> list[Block]:
    return [Block(*found) for found in re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(), re.M | re.S)]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class Shell:
    """A bash that keeps its directory and variables between blocks, as a reader's terminal does."""

    def __init__(self, env: dict[str, str], ports: dict[str, str]) -> None:
        self._ports = ports
        self._env = env
        self._bash = subprocess.Popen(
            ["bash"],
            cwd=ROOT,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def _moved(self, text: str) -> str:
        """Return the text with the ports of this stack."""
        return re.sub("|".join(self._ports), lambda port: self._ports[port[0]], text)

    def serve(self, command: str, log: Path) -> "subprocess.Popen[bytes]":
        with log.open("wb") as output:
            return subprocess.Popen(
                self._moved(command),
                shell=True,
                cwd=ROOT,
                env=self._env,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def run(self, block: str) -> tuple[bool, str]:
        """Run the commands of a block; return whether each succeeded, and what they print."""
        assert self._bash.stdin is not None
        assert self._bash.stdout is not None
        script = (
            f"failed=0; set -o pipefail; trap failed=1 ERR\n{self._moved(block)}\ntrap - ERR; echo; echo END:$failed\n"
        )
        self._bash.stdin.write(script)
        self._bash.stdin.flush()
        printed = ""
        for line in self._bash.stdout:
            if line.startswith("END:"):
                return line == "END:0\n", printed
            printed += line
        raise AssertionError(f"the shell ended:\n{block}\n{printed}")

    def close(self) -> None:
        self._bash.kill()
        self._bash.wait()


@contextmanager
def served(shell: Shell, command: str, log: Path, url: str) -> Iterator[None]:
    """Run a server until its address answers, and stop it at the end."""
    process = shell.serve(command, log)
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                httpx.get(url, timeout=5)
                break
            except httpx.HTTPError:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def test_page_leads_from_nothing_to_delivered_parcels(tmp_path: Path) -> None:
    api, sandbox = free_port(), free_port()
    env = {name: value for name, value in os.environ.items() if not name.startswith(("HENGDAN_", "TEMPORAL_"))}
    env |= {
        "HENGDAN_STATE_DIR": str(tmp_path / "state"),
        "HENGDAN_API_PORT": str(api),
        "HENGDAN_LANG": "en",
        "HOME": str(tmp_path),
    }
    servers = {"make up": f"http://127.0.0.1:{api}/ready", "starter.sandbox": f"http://127.0.0.1:{sandbox}/"}
    with ExitStack() as stack:
        shell = Shell(
            env,
            {
                "8080": str(api),
                "8090": str(sandbox),
                "mkdir -p start": f"mkdir -p {tmp_path}/start",
                "cd start": f"cd {tmp_path}/start",
            },
        )
        stack.callback(shell.close)
        page = blocks()
        for (language, text), after in zip(page, [*page[1:], Block("", "")], strict=True):
            if language == "console":
                line = text.removeprefix("$ ").strip()
                (url,) = (url for name, url in servers.items() if name in line)
                stack.enter_context(served(shell, line, tmp_path / f"{len(line)}.log", url))
            elif language == "sh":
                expected = after.text.splitlines() if after.language == "text" else []
                deadline = time.monotonic() + (PATIENCE if expected else 0)
                while True:
                    succeeded, printed = shell.run(text)
                    if succeeded and all(each in printed for each in expected):
                        break
                    assert time.monotonic() < deadline, f"{text}does not show {expected}:\n{printed}"
                    time.sleep(0.5)
        _, listed = shell.run("hengdan exceptions list --json")
        assert json.loads(listed) == [], listed

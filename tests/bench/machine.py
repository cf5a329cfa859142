"""CPU time by process of a stack."""

import os
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_ROLES = {
    "temporal": "start-dev",
    "worker": "starter worker",
    "api": "starter api",
    "sandbox": "starter.sandbox",
    "bare workflow": "tests.bench.bare",
    "bare endpoint": "tests.bench.http_load",
}


def _stat(pid: int) -> tuple[int, int]:
    """Return the parent of a process, and the clock ticks used by it and by its finished children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[1]), sum(int(field) for field in fields[11:15])


def cpu_seconds() -> dict[str, float]:
    """Return the CPU seconds of our descendants by role; PostgreSQL includes its backends."""
    parents: dict[int, int] = {}
    used: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                parents[int(entry)], used[int(entry)] = _stat(int(entry))
            except (FileNotFoundError, ProcessLookupError):
                continue
    seconds: dict[str, float] = {}
    for pid in parents:
        ancestor = pid
        while ancestor not in (os.getpid(), 0):
            ancestor = parents.get(ancestor, 0)
        if ancestor and pid != os.getpid():
            role = _role(pid)
            seconds[role] = seconds.get(role, 0.0) + used[pid] / _TICKS
    own = os.times()
    return seconds | {"load": own.user + own.system}


def _role(pid: int) -> str:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return "other"
    if command.startswith("postgres:") or "postgres" in command.split(" ")[0]:
        return "postgres"
    return next((role for role, mark in _ROLES.items() if mark in command), "other")


def cpu_ms_per_order(before: dict[str, float], after: dict[str, float], orders: int) -> dict[str, float]:
    """Return CPU milliseconds per order by role, of the roles that used any."""
    used = {role: (seconds - before.get(role, 0.0)) * 1000 / orders for role, seconds in after.items()}
    return {role: round(ms, 1) for role, ms in sorted(used.items(), key=lambda item: -item[1]) if ms >= 0.05}

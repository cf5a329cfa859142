"""The repository: layers of imports, portable files, and reasons for dependencies."""

import re
import subprocess
import tomllib
from pathlib import Path
from sys import executable

import pytest

ROOT = Path(__file__).parents[2]

tracked = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a git checkout")


def sources() -> list[tuple[str, str]]:
    """Return the name and content of every tracked text file."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    texts = []
    for name in filter(None, listed.split("\0")):
        file = ROOT / name
        content = file.read_bytes() if file.is_file() else b""
        if b"\0" not in content:
            texts.append((name, content.decode()))
    return texts


def test_imports_follow_the_layers() -> None:
    lint = Path(executable).with_name("lint-imports")
    ran = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout


@tracked
def test_no_file_names_a_machine_or_a_registry() -> None:
    """No home directory and no host of packages."""
    folders = "|".join(("work", "root", "home/[a-z]+", "Users/[A-Za-z]+"))
    hosts = "|".join((r"pypi\.org", "pythonhosted", r"npmjs\.(org|com)", r"npmmirror", r"mirrors?\.[a-z]+\.(com|cn)"))
    pattern = re.compile(rf"(?<![\w.}}/-])/({folders})/|{hosts}")
    assert [
        name for name, text in sources() if name != "tests/repository/test_repository.py" and pattern.search(text)
    ] == []


@tracked
def test_no_file_contains_a_private_key() -> None:
    pattern = re.compile(r"BEGIN [A-Z ]*PRIVATE KEY|\bhd_[\w-]{40,}")
    assert [name for name, text in sources() if pattern.search(text)] == []


def test_each_dependency_has_a_reason() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    project = tomllib.loads(text)
    dependencies = [
        *project["project"]["dependencies"],
        *project["dependency-groups"]["dev"],
        *project["build-system"]["requires"],
    ]
    for dependency in dependencies:
        lines = [line for line in text.splitlines() if f'"{dependency}"' in line]
        assert lines
        for line in lines:
            assert re.search(r"\]?,?\s+# \w{2,}|\]  # \w{2,}", line), line


def test_no_module_of_the_order_workflow_is_too_long_to_read() -> None:
    lengths = {path.name: len(path.read_text().splitlines()) for path in (ROOT / "workflows/order").glob("*.py")}
    assert max(lengths.values()) <= 400, lengths

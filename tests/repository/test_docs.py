"""The files, modules, targets and commands that documents name exist."""

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from models.policy import Policy
from starter.cli.commands import app

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    str(path.relative_to(ROOT)) for folder in (".", "docs", "docs/formats") for path in (ROOT / folder).glob("*.md")
)
FOLDERS = ("models", "activities", "workflows", "workers", "starter", "tests", "docs", "docker")


def text(document: str) -> str:
    return (ROOT / document).read_text()


def commands(document: str) -> list[list[str]]:
    """Return every ``hengdan ...`` command of a document, split into words."""
    matches = re.findall(r"(?:^\$ |`)hengdan ([^`#\n|]+)", text(document), re.MULTILINE)
    return [shlex.split(re.sub(r"[\[\]]", " ", each)) for each in matches]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_relative_link_has_a_target(document: str) -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)[^)]*\)", text(document)):
        assert (ROOT / document).parent.joinpath(target).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_named_file_exists(document: str) -> None:
    named = re.findall(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]*)`", text(document))
    assert [each for each in named if not (ROOT / each).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_named_module_exists(document: str) -> None:
    named = re.findall(rf"`(?:python -m |from )?((?:{'|'.join(FOLDERS)})(?:\.\w+)+)`", text(document))
    for each in named:
        parts = each.split(".")
        paths = [ROOT.joinpath(*parts[:count]) for count in range(len(parts), 0, -1)]
        there = (path.with_suffix(".py").exists() or (path.is_dir() and path.parent != ROOT) for path in paths)
        assert any(there), each


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_make_target_exists(document: str) -> None:
    targets = set(re.findall(r"^([a-z]+):", text("Makefile"), re.MULTILINE))
    assert set(re.findall(r"(?:^\$ |`|or )make ([a-z]+)", text(document), re.MULTILINE)) <= targets


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_and_option_exists(document: str) -> None:
    for words in commands(document):
        command, rest = get_command(app), list(words)
        while subcommands := getattr(command, "commands", None):
            if not rest or rest[0].startswith("-"):
                break
            assert rest[0] in subcommands, words
            command = subcommands[rest.pop(0)]
        known = {option for param in command.params for option in param.opts} | {"--help"}
        assert {word for word in rest if word.startswith("--")} <= known, words


def test_commands_are_found_in_documents() -> None:
    assert sum(len(commands(document)) for document in DOCUMENTS) > 40


def test_every_make_target_has_a_description() -> None:
    makefile = text("Makefile")
    targets = re.findall(r"^([a-z]+):.*$", makefile, re.MULTILINE)
    assert targets == re.findall(r"^([a-z]+):.* ## \w.*$", makefile, re.MULTILINE)


def test_every_field_of_a_policy_is_documented_with_its_default() -> None:
    documented = dict(re.findall(r"^\| `(\w+)` \| `(.*?)` \|", (ROOT / "docs/channels.md").read_text(), re.M))
    defaults = Policy().model_dump(mode="json")
    assert {name: json.dumps(value).strip('"') for name, value in defaults.items()} == {
        name: value.strip('"') for name, value in documented.items() if name in defaults
    }

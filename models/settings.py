"""Settings, read from ``HENGDAN_*`` variables. Temporal's own (``TEMPORAL_ADDRESS`` ...) are read by its SDK."""

from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import SecretStr, StringConstraints
from pydantic_settings import BaseSettings, SettingsConfigDict

INSTANCE_HEADER = "Hengdan-Instance"


class Settings(BaseSettings):
    """Everything that differs between installations. A ``None`` URL selects the embedded server."""

    model_config = SettingsConfigDict(env_prefix="HENGDAN_", extra="ignore", env_ignore_empty=True)

    state_dir: Path = Path(".hengdan")
    """The folder in which the embedded servers keep data, keys and logs."""
    database_url: SecretStr | None = None
    """``postgresql://user:password@host:port/name`` of any PostgreSQL ≥ 15."""
    keys: SecretStr | None = None
    """Key ring: ``id:base64-of-32-bytes`` separated by commas. The first key seals, and each opens."""
    index_key: SecretStr | None = None
    """Base64 of 32 bytes, the key of the blind indexes. Rotating it requires re-indexing."""
    lang: Literal["zh-CN", "en"] = "en"
    """The language of texts for which no request chose one."""
    currency: Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")] = "CNY"
    """The home currency: of limits, of amounts in rules, and of tariffs (ISO 4217)."""
    api_host: str = "127.0.0.1"
    api_port: int = 8080
    api_url: str | None = None
    """The API's URL for the command line; by default the one that ``hengdan up`` serves."""
    api_key: SecretStr | None = None
    """The command line's API key; by default the one created on first start."""
    ui_origins: list[str] = ["http://127.0.0.1:8233", "http://localhost:8233"]
    """Origins of the Temporal UI, whose pages may call the codec."""
    codec_token: SecretStr | None = None
    """The path of the codec in the Temporal UI that ``hengdan up`` serves, which cannot send credentials to it."""
    health_port: int | None = None
    """The port, on ``api_host``, of a worker's ``/health``; none by default."""
    metrics_port: int | None = None
    """The port, on ``api_host``, of a worker's ``/metrics`` for Prometheus; none by default."""
    task_queue: str = "hengdan"
    intake_window: int = 24
    """Orders that the dispatcher lets run in the engine at once before they wait: the pace of intake."""
    transfer_units: int = 0
    """Transfers of up to this many units need no approval."""
    private_hosts: list[str] = []
    """Hosts, by name or address, that accounts may reach although their addresses are private."""
    printer_font: str | None = None
    """The font file on label printers that has Chinese characters, such as ``E:SIMSUN.TTF``, for ZPL."""
    instance: str = ""
    """What the API says in the header ``Hengdan-Instance`` of ``/ready``: whoever started it knows it by that."""
    log_format: Literal["console", "json"] = "console"

    def without_secrets(self) -> dict[str, Any]:
        """Return the settings as JSON values; of a secret only whether it is set."""
        return {name: "set" if isinstance(value, SecretStr) else value for name, value in self.model_dump().items()} | {
            "state_dir": str(self.state_dir)
        }


@lru_cache(maxsize=1)
def settings() -> Settings:
    return Settings()

"""Settings, read from ``HENGDAN_*`` variables. Temporal's own (``TEMPORAL_ADDRESS`` ...) are read by its SDK."""

from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Everything that differs between two installations. ``None`` means: the embedded part serves."""

    model_config = SettingsConfigDict(env_prefix="HENGDAN_", extra="ignore")

    state_dir: Path = Path(".hengdan")
    """Where the embedded parts keep data, keys and logs."""
    database_url: SecretStr | None = None
    """``postgresql://user:password@host:port/name`` of any PostgreSQL ≥ 15."""
    keys: SecretStr | None = None
    """Key ring: ``id:base64-of-32-bytes`` separated by commas, the first one seals, all of them open."""
    index_key: SecretStr | None = None
    """Base64 of 32 bytes: keys the blind indexes. It never rotates without re-indexing."""
    lang: Literal["zh-CN", "en"] = "en"
    """The language of texts that no request chose one for."""
    api_host: str = "127.0.0.1"
    api_port: int = 8080
    api_url: str | None = None
    """Where the command line finds the API; by default where ``hengdan up`` put it."""
    api_key: SecretStr | None = None
    """The key the command line shows; by default the one made on first start."""
    ui_origins: list[str] = ["http://127.0.0.1:8233", "http://localhost:8233"]
    """Where the Temporal UI is served: its pages may ask the codec."""
    task_queue: str = "hengdan"
    intake_window: int = 24
    """How many orders the dispatcher lets into the engine before they come to rest: the pace of intake."""
    transfer_units: int = 0
    """Transfers of up to so many units need nobody's approval."""
    printer_font: str | None = None
    """The file on label printers that has Chinese, such as ``E:SIMSUN.TTF``, for ZPL."""
    log_format: Literal["console", "json"] = "console"


@lru_cache(maxsize=1)
def settings() -> Settings:
    return Settings()

"""Our own formats as JSON Schema, for shops and warehouse systems: ``docs/formats/*.schema.json``.

Run ``python -m starter.formats`` after a change of the models.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel

from activities.accounts import declarations
from activities.channels.own import OwnOrder, OwnShipment, OwnStock
from activities.channels.pos import PosOrder
from activities.warehouses.wms import Submission
from models.accounts import AccountField
from models.i18n import t
from starter.api.wms import EventBody

FOLDER = Path(__file__).parents[1] / "docs" / "formats"
FORMATS: dict[str, type[BaseModel]] = {
    "own-order": OwnOrder,
    "own-shipment": OwnShipment,
    "own-stock": OwnStock,
    "pos-order": PosOrder,
    "wms-fulfillment": Submission,
    "wms-event": EventBody,
}


def schema(name: str) -> str:
    """Return the published schema of a format."""
    document = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:hengdan:{name}",
        **FORMATS[name].model_json_schema(),
    }
    return json.dumps(document, ensure_ascii=False, indent=2) + "\n"


PAGE = FOLDER.parent / "accounts.md"


def accounts_page() -> str:
    """Return ``docs/accounts.md``: what each adapter declares of its accounts."""
    lines = [
        "# Accounts 账号",
        "",
        "> **摘要**：每个账号要填的密钥与设置，由各适配器自己声明；填错、填漏的字段会被逐个指出。",
        "",
        "<!-- Generated from the adapters: python -m starter.formats -->",
        "",
        "```sh",
        "hengdan accounts describe taobao",
        "hengdan accounts set channel taobao flagship taobao.json",
        "hengdan accounts test channel taobao flagship",
        "```",
        "",
        "The file holds `base_url`, `secrets` and `settings`:",
        "",
        "```json",
        '{"secrets": {"app_key": "…", "app_secret": "…", "session": "…"}, "settings": {"policy": {"grace": 600}}}',
        "```",
        "",
        "An unknown, missing or odd field is refused by name. `base_url` may be left out where an address "
        "without braces is given below. Secrets are stored encrypted and never shown. What a later file "
        "leaves out stays as it is; an empty secret is removed. Required fields are bold.",
    ]
    for integration in declarations.PACKAGES:
        lines += ["", f"## {t(f'integration.{integration}', 'en')} {t(f'integration.{integration}', 'zh-CN')}"]
        for source in (each for kind, each in declarations.adapters() if kind is integration):
            declaration = declarations.declared(integration, source)
            console = f"account.console.{declaration.console}"
            lines += ["", f"### `{source}`", "", f"{t(console, 'en')}. {t(console, 'zh-CN')}。"]
            if declaration.base_url:
                lines += ["", f"`base_url`: `{declaration.base_url}`"]
            lines += _table(declaration.fields)
        if declarations.COMMON[integration]:
            lines += ["", "### Settings of all of them 共用设置", *_table(declarations.COMMON[integration])]
    lines += ["", "[Channels](channels.md) lists the fields of `policy`."]
    return "\n".join(lines) + "\n"


def _table(fields: Sequence[AccountField]) -> list[str]:
    if not fields:
        return []
    lines = ["", "| | | | 含义 |", "|---|---|---|---|"]
    for each in fields:
        name = f"**`{each.name}`**" if each.required else f"`{each.name}`"
        texts = [t(f"account.field.{each.about}", lang).replace("|", "\\|") for lang in ("en", "zh-CN")]
        lines.append(f"| {'secret' if each.secret else 'setting'} | {name} | {texts[0]} | {texts[1]} |")
    return lines


if __name__ == "__main__":
    PAGE.write_text(accounts_page())
    for each in FORMATS:
        (FOLDER / f"{each}.schema.json").write_text(schema(each))

"""Our own formats as JSON Schema, for clients: ``docs/formats/*.schema.json``.

Run ``python -m starter.formats`` after a change of the models.
"""

import json
from pathlib import Path

from pydantic import BaseModel

from activities.channels.own import OwnOrder, OwnShipment, OwnStock
from activities.channels.pos import PosOrder

FOLDER = Path(__file__).parents[1] / "docs" / "formats"
FORMATS: dict[str, type[BaseModel]] = {
    "own-order": OwnOrder,
    "own-shipment": OwnShipment,
    "own-stock": OwnStock,
    "pos-order": PosOrder,
}


def schema(name: str) -> str:
    """Return the published schema of a format."""
    document = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:hengdan:{name}",
        **FORMATS[name].model_json_schema(),
    }
    return json.dumps(document, ensure_ascii=False, indent=2) + "\n"


if __name__ == "__main__":
    for each in FORMATS:
        (FOLDER / f"{each}.schema.json").write_text(schema(each))

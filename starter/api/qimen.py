"""Reports of 奇门 (Qimen) warehouses: verified, entered, and answered in Qimen's format."""

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError

from activities.fulfillment import qimen_reports
from activities.kit.database import transaction
from activities.kit.errors import InvalidInput, Unauthentic, Unintelligible
from activities.kit.payloads import unintelligible
from activities.warehouses import qimen
from models.i18n import t
from models.intake import IntegrationType
from models.stock import WarehouseSystem
from starter import dispatcher
from starter.api.webhooks import RAW, find_account

router = APIRouter(prefix="/warehouses", tags=["warehouses"])


@router.post("/{warehouse}/qimen", summary="Receive a Qimen warehouse's report", openapi_extra=RAW)
async def report(warehouse: str, request: Request) -> Response:
    """Signed by Qimen's method. A report that cannot be used is answered with ``failure`` and changes nothing."""
    account = await find_account(IntegrationType.WAREHOUSE, WarehouseSystem.QIMEN, warehouse)
    params = dict(request.query_params)
    body = await request.body()
    try:
        qimen.verify(account, params, body)
        parsed = qimen.parse_report(params.get("method", ""), body)
        async with transaction() as connection:
            await qimen_reports.enter(connection, warehouse, parsed)
    except Unauthentic:
        return _answer("failure", "invalid.qimen.signature", 401)
    except Unintelligible as error:
        return _answer("failure", error.reason, field=error.field)
    except ValidationError as error:
        fault = unintelligible(error)
        return _answer("failure", fault.reason, field=fault.field)
    except InvalidInput as error:
        return _answer("failure", error.message, field=error.field)
    dispatcher.wake()
    return _answer("success", "")


def _answer(flag: str, message: str, status: int = 200, field: str = "") -> Response:
    text = f"{field}: {t(message, 'zh-CN')}" if field else t(message, "zh-CN") if message else ""
    return Response(qimen.answer(flag, text), status, media_type="application/xml")

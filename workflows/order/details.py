"""What operators see of an order in the Temporal UI: current details and search attributes. Nothing personal."""

from typing import Any

from temporalio.common import SearchAttributeKey

from models import search_attributes
from models.i18n import t
from models.order import reissue_no
from models.state import OrderState


def render_details(state: OrderState) -> str:
    """Return Markdown: status, next step and deadline, then holds, shortages and fulfillment orders."""
    lines = [f"**{t(f'status.{state.status}')}** · {t(state.next_step)}"]
    if (original := state.order.custom.get("reissue_of")) is not None:
        lines.append(t("details.reissue_of", order=original))
    if (deadline := state.deadline) is not None:
        lines.append(t("details.deadline", when=f"{deadline:%Y-%m-%d %H:%M} UTC"))
    lines += [f"- {hold.kind_text()}: {hold.reason_text()} ({hold.by})" for hold in state.holds]
    lines += [f"- {t('details.short', sku=each.sku, quantity=each.quantity)}" for each in state.shortages]
    for each in state.undelivered:
        tracking, order = t(f"tracking.{each.tracking}"), reissue_no(state.order.channel_order_no, each.short_id)
        lines.append(f"- {t('details.undelivered', fulfillment=each.short_id, tracking=tracking, order=order)}")
    if state.fulfillments:
        columns = ("fulfillment", "warehouse", "status", "carrier", "waybill", "tracking")
        header = " | ".join(t(f"details.{column}") for column in columns)
        lines += ["", f"| {header} |", "|---" * len(columns) + "|"]
        for each in state.fulfillments:
            tracking = t(f"tracking.{each.tracking}") if each.tracking else ""
            status = t(f"fulfillment.{each.status}")
            cells = (each.short_id, each.warehouse, status, each.carrier or "", each.waybill_no or "", tracking)
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def search_attribute_values(state: OrderState) -> dict[SearchAttributeKey[Any], Any]:
    """Return the search attributes that change while an order is processed."""
    return {
        search_attributes.STATUS: state.status.value,
        search_attributes.PRIORITY: state.order.priority,
        search_attributes.HOLDS: sorted({hold.kind.value for hold in state.holds}),
        search_attributes.WAREHOUSES: sorted({each.warehouse for each in state.active}),
        search_attributes.CARRIERS: sorted({each.carrier for each in state.active if each.carrier}),
    }

"""What an operator reads at the top of an order in the Temporal UI. Nothing personal."""

from models.i18n import t
from models.state import OrderState


def render_details(state: OrderState) -> str:
    """Markdown: status, next step and deadline, then holds, shortages and parcels."""
    lines = [f"**{t(f'status.{state.status}')}** · {t(state.next_step)}"]
    if (deadline := state.deadline) is not None:
        lines.append(t("details.deadline", when=f"{deadline:%Y-%m-%d %H:%M} UTC"))
    lines += [f"- {t(f'hold.{hold.kind}')}: {t(hold.reason, **hold.params)} ({hold.by})" for hold in state.holds]
    lines += [f"- {t('details.short', sku=each.sku, quantity=each.quantity)}" for each in state.shortages]
    if state.fulfillments:
        heads = ("fulfillment", "warehouse", "status", "carrier", "waybill", "tracking")
        lines += ["", "| " + " | ".join(t(f"details.{head}") for head in heads) + " |", "|---" * len(heads) + "|"]
        for each in state.fulfillments:
            tracking = t(f"tracking.{each.tracking}") if each.tracking else ""
            status = t(f"fulfillment.{each.status}")
            cells = (each.short_id, each.warehouse, status, each.carrier or "", each.waybill_no or "", tracking)
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)

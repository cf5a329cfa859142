"""Signatures of carriers compared with published ones, or with values computed by published recipes; meaning of their
codes and texts."""

import contextlib
import json
from typing import Any
from urllib.parse import urlencode

import pytest

from activities.carriers import easypost, sto, tracker, yunda, zto
from activities.kit.errors import Unauthentic, Unintelligible
from models.exceptions import ExceptionKind
from models.fulfillment import Scan, TrackingStatus
from models.intake import Account, IntegrationType

S, E = TrackingStatus, ExceptionKind
SECRETS = {"push_secret": "s3cret", "secret": "test", "app_secret": "test", "app_key": "k", "webhook_secret": "sécret"}


def account(source: str) -> Account:
    return Account(integration=IntegrationType.CARRIER, source=source, account="main", secrets=SECRETS)


def test_digests() -> None:
    """Computed from the published recipes; ZTO's was confirmed against its own sandbox pushes."""
    assert zto.digest('{"billCode":"73100196611386"}', "test") == "oRIy+t+w4F04fdLZ4h9Pmw=="
    assert sto.digest("{}", "test") == "AaXi3Mi6H+jX60o7h//pNw=="
    assert yunda.sign('{"mailno":"1"}', "test") == "6d9404f550a5375b9f4708777f93267d"


def test_easypost_normalises_its_secret() -> None:
    assert easypost.signature("sécret", b"{}") == easypost.signature("se\u0301cret", b"{}")


def signed_push(source: str, payload: dict[str, Any]) -> tuple[dict[str, str], bytes]:
    text = json.dumps(payload, ensure_ascii=False)
    match source:
        case "sto":
            form = {"content": text, "data_digest": sto.digest(text, "test")}
            return {}, urlencode(form).encode()
        case "zto":
            form = {"data": text, "data_digest": zto.digest(text, "test"), "msg_type": "Traces"}
            return {}, urlencode(form).encode()
        case "yunda":
            return {"sign": yunda.sign(text, "test")}, text.encode()
        case "easypost":
            return {"x-hmac-signature": easypost.signature("sécret", text.encode())}, text.encode()
    return {}, text.encode()


def step(source: str, code: str, words: str) -> dict[str, Any]:
    at = "2026-11-11 10:00:00"
    match source:
        case "sto":
            return {"waybillNo": "1", "trace": {"opTime": at, "scanType": code, "memo": words}}
        case "zto":
            return {"billCode": "1", "action": code, "actionTime": at, "desc": words}
        case "yunda":
            return {"mailno": "1", "steps": [{"time": at, "action": code, "description": words}]}
    detail = {"status": code, "message": words, "datetime": "2026-11-11T10:00:00Z"}
    result = {"tracking_code": "1", "tracking_details": [detail]}
    return {"id": "evt_1", "description": "tracker.updated", "result": result}


def read(source: str, payload: dict[str, Any]) -> Scan:
    headers, body = signed_push(source, payload)
    ours = tracker(account(source))
    assert ours.receive(headers, body, "s3cret").fact_key == ours.receive(headers, body, "s3cret").fact_key
    (scan,) = ours.parse_push(body, headers)
    return scan


@pytest.mark.parametrize(
    ("source", "code", "words", "status", "exception"),
    [
        ("sto", "收件", "", S.PICKED_UP, None),
        ("sto", "驿站代收", "", S.READY_FOR_PICKUP, None),
        ("sto", "问题件", "客户拒收", S.REFUSED, None),
        ("sto", "问题件", "地址不详", S.DELIVERY_FAILED, E.WRONG_ADDRESS),
        ("sto", "改地址件", "", None, None),
        ("zto", "GOT", "", S.PICKED_UP, None),
        ("zto", "HANDOVERSCAN_SIGNED", "", S.READY_FOR_PICKUP, None),
        ("zto", "PROBLEM", "快件破损", S.DAMAGED, None),
        ("zto", "NEW_WORD", "", None, None),
        ("yunda", "SIGNFAIL", "无人接听", S.DELIVERY_FAILED, None),
        ("yunda", "CLEARANCE_START", "", S.HELD_IN_CUSTOMS, None),
        ("yunda", "SIGNED", "快件已退回", S.RETURNED, None),
        ("yunda", "?", "", None, None),
        ("easypost", "delivered", "", S.DELIVERED, None),
        ("easypost", "unknown", "", None, None),
    ],
)
def test_codes_and_texts_map_to_statuses(
    source: str, code: str, words: str, status: TrackingStatus | None, exception: ExceptionKind | None
) -> None:
    scan = read(source, step(source, code, f"{words} 派件员:李四,电话:13700000000"))
    assert (scan.waybill_no, scan.code, scan.status, scan.exception) == ("1", code, status, exception)
    assert "1370" not in scan.text


@pytest.mark.parametrize("source", ["sto", "zto", "yunda", "easypost"])
def test_modified_push_is_refused(source: str) -> None:
    headers, body = signed_push(source, step(source, "GOT", ""))
    ours = tracker(account(source))
    with pytest.raises(Unauthentic):
        ours.receive(headers, body.replace(b"10", b"11"), "s3cret")
    with pytest.raises(Unauthentic):
        ours.receive(headers, body, "wrong")


@pytest.mark.parametrize("source", ["sto", "zto", "yunda", "easypost"])
def test_malformed_push_yields_no_scan(source: str) -> None:
    for body in (b"", b"{}", b"[]", b"\xff", urlencode({"content": "{}", "data": "{}"}).encode()):
        with contextlib.suppress(Unintelligible):
            assert list(tracker(account(source)).parse_push(body, {})) == []

"""Signatures compared with published examples, or with values computed by published recipes."""

from datetime import timedelta
from typing import Any

import pytest

from activities.channels import douyin, jd, pdd, suning
from activities.kit.errors import EXPIRED
from activities.vendors.gateway import md5_sign


@pytest.mark.parametrize(
    ("params", "secret", "signature"),
    [
        pytest.param(
            {
                "access_token": "asd78172s8ds9a921j9qqwda12312w1w21211",
                "client_id": "1",
                "data_type": "XML",
                "order_status": "1",
                "page": "1",
                "page_size": "10",
                "timestamp": "1480411125",
                "type": "pdd.order.number.list.get",
            },
            "testSecret",
            "E4DE3ED21002510DED352819E7AE6775",
            id="open.pinduoduo.com, doc 8EC06C399636041E",
        ),
        pytest.param(
            {
                "client_id": "test-client",
                "data_type": "JSON",
                "logistics_id": "9",
                "order_sn": "240101-1",
                "order_state": "1",
                "timestamp": "1720000000",
                "type": "pdd.erp.order.sync",
                "version": "V1",
                "waybill_no": "SF123",
            },
            "test-secret",
            "CC0F30530BBAC3FD67608391D61E370C",
            id="whalesky-labs/pdd-sdk-php, Md5SignerTest",
        ),
    ],
)
def test_pinduoduo_signature_matches_published_examples(params: dict[str, str], secret: str, signature: str) -> None:
    assert pdd.sign(params, secret) == signature
    assert pdd.sign({**params, "sign": "x", "empty": ""}, secret) == signature


def test_jd_signature_matches_the_published_example() -> None:
    """open.jd.com, listId 2643."""
    business = (
        '{"end_date":null,"optional_fields":null,"order_state":"WAIT_SELLER_STOCK_OUT",'
        '"page":"1","page_size":"200","start_date":null}'
    )
    params = {
        "360buy_param_json": business,
        "access_token": "yourtoken",
        "app_key": "yourappkey",
        "method": "jingdong.pop.order.search",
        "timestamp": "2021-05-07 09:20:39.683+0800",
        "v": "2.0",
    }
    assert md5_sign(params, "yourappSecret") == "D70825340F4084360B9362B60DFD7930"


def test_douyin_signatures_follow_the_published_recipe() -> None:
    """Computed from zsmhub/doudian-sdk, utils/sign_util.go and message/doudian_sign.go."""
    param_json = '{"order_by":"create_time","page":0,"size":10}'
    signature = douyin.sign("1", "s", "order.searchList", param_json, "1700000000")
    assert signature == "d9064094d134f61b38069ee589e0433ca3b443610206875b871015b4c1dcd28a"
    assert douyin.event_sign("1", "s", b"[]") == "174ed6176ebf3089b012a8f81c4a4d6b"


def test_suning_signature_follows_the_published_recipe() -> None:
    """Computed from why2lyj/suning-sdk, suning/api/abstract.py."""
    signature = suning.sign("s", "suning.custom.order.query", "2020-01-01 00:00:00", "k", "v1.2", b"{}")
    assert signature == "41c8d64907b9431b3abd9207443e19e3"


@pytest.mark.parametrize(
    ("error", "kind", "wait"),
    [
        (pdd.fault("m", {"error_code": 10019}), EXPIRED, None),
        (pdd.fault("m", {"error_code": 70031}), "Unavailable", 10),
        (pdd.fault("m", {"error_code": 52102}), "Unavailable", None),
        (pdd.fault("m", {"error_code": 20004}), "Refused", None),
        (jd.fault("m", "19"), EXPIRED, None),
        (jd.fault("m", "21", "调用频率超过限流"), "Unavailable", None),
        (jd.fault("m", "12", "无效签名"), "Refused", None),
        (douyin.fault("m", {"code": 40003, "sub_code": "isv.access-token-expired"}), EXPIRED, None),
        (douyin.fault("m", {"code": 60000}), "Unavailable", 1),
        (douyin.fault("m", {"code": 20001}), "Unavailable", None),
        (douyin.fault("m", {"code": 50002, "sub_code": "isv.business-failed:17"}), "Refused", None),
    ],
)
def test_fault_is_retryable_or_final(error: Any, kind: str, wait: float | None) -> None:
    assert error.type == kind
    assert error.non_retryable is (kind == "Refused")
    assert error.next_retry_delay == (None if wait is None else timedelta(seconds=wait))

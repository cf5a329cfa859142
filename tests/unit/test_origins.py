"""Origins are standardised, and the original values of the channel are kept."""

from datetime import UTC, datetime
from typing import Any

import pytest

from models.allocation import Condition
from models.origins import ChannelKind, IntakePath, Origin, region
from models.stock import Audience, Buyer

AT = datetime(2026, 11, 11, tzinfo=UTC)


def an_origin(**more: Any) -> Origin:
    base: dict[str, Any] = {
        "kind": ChannelKind.OWN_SITE,
        "platform": "own",
        "shop": "web",
        "intake": IntakePath.WEBHOOK,
    }
    return Origin(**base | more)


@pytest.mark.parametrize(
    ("campaign", "written"),
    [
        ("618", ("618", "", "")),
        (" Ｓummer　 Sale ", ("summer sale", "", "")),
        ("https://shop.example/?utm_source=WeChat&utm_medium=CPC&utm_campaign=A%20B", ("a b", "wechat", "cpc")),
        ("/?UTM_Campaign=Autumn", ("autumn", "", "")),
        ("utm_campaign=a&utm_source=b", ("a", "b", "")),
        ("https://shop.example/sale", ("", "", "")),
        ("/?ref=42", ("", "", "")),
        ("what? a=b", ("what? a=b", "", "")),
        ("http://[", ("", "", "")),
        ("(not set)", ("", "", "")),
        ("", ("", "", "")),
    ],
)  # fmt: skip
def test_campaign_is_standardised_and_its_original_is_kept(campaign: str, written: tuple[str, str, str]) -> None:
    origin = an_origin(campaign=campaign).standard(IntakePath.POLL, AT)
    assert (origin.campaign, origin.source, origin.medium) == written
    assert origin.told.get("campaign", origin.campaign) == campaign
    assert (origin.intake, origin.first_seen_at) == (IntakePath.POLL, AT)


@pytest.mark.parametrize(
    ("platform", "written"),
    [
        ("Tmall", "tmall"), ("天猫", "tmall"), ("https://www.tmall.com/x", "tmall"), ("淘宝", "taobao"), ("京东", "jd"),
        ("JD.com", "jd"), ("拼多多", "pdd"), ("own", "own"), ("Some Other", "some other"),
        ("detail.tmall.com", "tmall"), ("https://item.m.jd.com/product/1.html", "jd"), ("m.taobao.com", "taobao"),
        ("mobile.yangkeduo.com/goods", "pdd"), ("qinghe.myshopify.com", "shopify"), ("青禾天猫旗舰店", "tmall"),
        ("青禾京东自营旗舰店", "jd"), ("抖音小店", "douyin"), ("天猫山茶油", "天猫山茶油"),
    ],
)  # fmt: skip
def test_platform_has_one_standard_name(platform: str, written: str) -> None:
    assert an_origin(platform=platform).standard(IntakePath.POLL, AT).platform == written


def test_sale_in_a_store_has_its_code() -> None:
    assert an_origin(kind=ChannelKind.STORE, shop="SH-01").standard(IntakePath.WEBHOOK, AT).store == "SH-01"
    assert an_origin(shop="web").standard(IntakePath.WEBHOOK, AT).store == ""


def test_original_region_is_kept() -> None:
    origin = an_origin(region="广东省 深圳市").located("CN 广东省 深圳市 南山区")
    assert (origin.region, origin.told) == ("CN 广东省 深圳市 南山区", {"region": "广东省 深圳市"})
    assert origin.located("CN 广东省").told == {"region": "广东省 深圳市"}
    assert an_origin(region="").located("CN 广东省").told == {}
    assert an_origin().standard(IntakePath.POLL, AT).standard(IntakePath.POLL, AT) == an_origin().standard(
        IntakePath.POLL, AT
    )
    assert (region(" 浙江省　杭州市 "), region("JP 東京都"), region("")) == ("CN 浙江省 杭州市", "JP 東京都", "")


def test_campaign_names_match_in_any_spelling() -> None:
    buyer = Buyer(channel="own", shop="web", campaign="summer sale", priority=3)
    assert Audience(campaigns=("Summer  SALE",)).includes(buyer)
    assert Condition(field="campaign", op="in", value=("Summer Sale", "618")).value == ("summer sale", "618")

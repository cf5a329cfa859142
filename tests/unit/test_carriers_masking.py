"""Names and phones in the texts of carriers are masked in every phrasing that carriers use; places stay readable."""

from itertools import product

import pytest

from activities.carriers import mask_personal_data

NAMES = (
    *("王五", "李小明", "欧阳震华", "张伟", "梅宇兵", "司马相如", "路遥", "区志强", "卫十四", "王翔"),
    *("阿卜杜拉·买买提", "𠮷田", "陈", "慕容雪", "李正", "王将军", "安在天", "成龙"),
)
PHONES = ("15712345741", "021-60556935", "****", "+8613700000000", "137 0000 0000")
PHRASINGS = (
    # ZTO: captured pushes
    "【郑州市】快件已由【{name}】签收，签收网点：【郑州高新区】。如有疑问请电联：{phone}",
    "【上海市】【青浦华新】({phone}、{phone})的业务员{name}({phone})已揽收",
    "【郑州市】【郑州高新区】（{phone}）的业务员{name}（{phone}）正在派件【95720为中通快递员外呼专属号码，请放心接听】！",
    "【苏州市】 【常熟天下淘宝四】 的{name}（{phone}） 正在第1次派件, 请保持电话畅通",
    "【上海】（{phone}） 的{name}（{phone}） 已揽收",
    # JD Logistics: captured pushes
    "揽收任务已分配给{name}（联系电话：{phone}）。",
    "您的快件正在派送中，请您准备签收（快递员：{name}，联系电话：{phone}）。",
    "您的快件已由【{name}】代收，感谢您使用京东物流",
    "配送员{name}已揽收",
    # STO, YTO, Yunda, best-known forms
    "已签收，签收人是【{name}】，如有问题请联系派件员",
    "快件已被 {name} 签收",
    "客户 签收人: {name} 已签收 感谢使用圆通速递",
    "【浙江绍兴公司】 派件人: {name} 派件中 派件员电话{phone}",
    "已收件，揽件人：{name}，电话：{phone}",
    "【上海市】业务员：{name}，{phone}，正在派件",
    "快递员 {name} 正在为您派送",
    "由{name}派送中",
    "派送任务已指派给快递员{name}，请注意查收",
    "签收人：{name}",
    "快件由{name}代签收",
    # SF
    "正在派送途中,请您准备签收(派件人:{name},电话:{phone})",
    "快件交给{name}，正在派送途中（联系电话：{phone}，顺丰已开启安全呼叫保护您的电话隐私）",
    "您的快件已签收，收方{name}，如有疑问请电联快递员【{name}，电话：{phone}】",
    "已派件 投递员:{name};电话:{phone}",
)
KEPT = (
    "顺丰速运 已收取快件",
    "快件离开【上海市】发往郑州高新区",
    "您的快件已由【客户指定地点】代收，感谢您使用京东物流",
    "【武汉市】快件已被【常州景泰家园南门商铺2_10店】代收",
    "【武汉市】快件已被【淮安市涟水县高沟镇今世缘酒业】代收",
    "快件已由【丰巢的索特传动设备西门丰巢柜】代收",
    "已签收，签收人凭取货码签收",
    "快件由本人签收",
    "快件已由门卫代收",
    "快递员正在派件，请保持电话畅通",
    "快递员会尽快与您联系",
    "快件已退回,新单号为: SF7444400031887",
    "Received by carrier at origin facility",
    "Courier picked up the package",
)


@pytest.mark.parametrize("phrasing", PHRASINGS)
def test_names_and_phones_are_masked_in_every_phrasing(phrasing: str) -> None:
    for name, phone in product(NAMES, PHONES):
        masked = mask_personal_data(phrasing.format(name=name, phone=phone))
        assert name not in masked
        assert phone == "****" or phone not in masked


@pytest.mark.parametrize("text", KEPT)
def test_texts_without_a_person_stay_as_they_are(text: str) -> None:
    assert mask_personal_data(text) == text


@pytest.mark.parametrize("name", [each for each in NAMES if len(each) > 1])
def test_names_that_fields_hold_are_masked_wherever_they_stand(name: str) -> None:
    for text in ("{name}本人来取", "已放{name}家门口", "回访{name}：满意", "{name}"):
        assert name not in mask_personal_data(text.format(name=name), name, "")


@pytest.mark.parametrize(
    "text", ["Signed for by: J. DOE", "Delivered, signed by María O'Neil", "Left with: SMITH", "Signature: Jean-Luc P"]
)
def test_english_signers_are_masked(text: str) -> None:
    masked = mask_personal_data(text)
    assert masked.endswith("***")
    assert masked != text

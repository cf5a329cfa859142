"""Phones are stored as E.164 and match any spelling; names lose asides and titles."""

import phonenumbers
import pytest
from hypothesis import given
from hypothesis import strategies as st
from phonenumbers import PhoneNumberFormat, PhoneNumberType

from activities.cleansing import people
from models.address import Recipient

MOBILE, VIRTUAL, FIXED = "+8613800000000", "+8613800000000;ext=1234", "+8675512345678"


@pytest.mark.parametrize(
    ("original", "standard", "national"),
    [
        ("13800000000", MOBILE, "13800000000"),
        ("138 0000 0000", MOBILE, "13800000000"),
        ("+86 138-0000-0000", MOBILE, "13800000000"),
        ("8613800000000", MOBILE, "13800000000"),
        ("008613800000000", MOBILE, "13800000000"),
        ("tel:+8613800000000", MOBILE, "13800000000"),
        ("13800000000-1234", VIRTUAL, "13800000000-1234"),
        ("13800000000转1234", VIRTUAL, "13800000000-1234"),
        ("13800000000,1234", VIRTUAL, "13800000000-1234"),
        ("13800000000 ext. 1234", VIRTUAL, "13800000000-1234"),
        ("0755-12345678", FIXED, "0755-12345678"),
        ("(0755)12345678", FIXED, "0755-12345678"),
        ("+86 0755 12345678", FIXED, "0755-12345678"),
        ("021 62345678 转801", "+862162345678;ext=801", "021-62345678-801"),
        ("400-650-1234", "+864006501234", "4006501234"),
        ("800 810 1234", "+868008101234", "8008101234"),
        ("+1 (415) 555-2671", "+14155552671", "+14155552671"),
        ("+852 2345 6789", "+85223456789", "+85223456789"),
        ("13800000000[1234]", VIRTUAL, "13800000000-1234"),
        ("13800000000【1234】", VIRTUAL, "13800000000-1234"),
    ],
)
def test_phone_in_any_spelling_becomes_e164(original: str, standard: str, national: str) -> None:
    person = Recipient(phone=people.phone(original, "CN"))
    assert person.phone == standard
    assert people.phone(standard, "CN") == standard
    assert person.national_phone == national
    assert Recipient(phone=original).digits == Recipient(phone=national).digits == person.digits


@pytest.mark.parametrize("original", ["", "123", "1380000000", "no phone", "12345678901234567890"])
def test_invalid_phone_is_kept_and_unreachable(original: str) -> None:
    person = Recipient(phone=people.phone(original, "CN"))
    assert person.phone == original
    assert not people.reachable(person)


@pytest.mark.parametrize(
    ("original", "standard"),
    [
        ("00886-2-23456789", "+886223456789"),
        ("00852-23456789", "+85223456789"),
        ("86-21-62345678", "+862162345678"),
        ("86-13800000000", MOBILE),
    ],
)
def test_phone_with_an_international_prefix_is_read(original: str, standard: str) -> None:
    assert people.phone(original, "CN") == standard


@pytest.mark.parametrize(
    "original", ["+", "+1 23", "+8613912345", "010-8123456", "021-6234567", "00000000000", "+8600000000000"]
)
def test_phone_that_is_no_valid_number_is_unreachable(original: str) -> None:
    assert not people.reachable(Recipient(phone=people.phone(original, "CN")))


def test_code_of_a_virtual_number_stays_in_the_name() -> None:
    assert people.name("王芳[7788]") == "王芳[7788]"
    assert people.name("王芳[勿电联]") == "王芳"


@pytest.mark.parametrize(
    ("street", "name"),
    [
        ("江西 上饶 信州 五三大道6号 王芳 13912345678", "王芳"),
        ("江西 上饶 信州 五三大道6号 13912345678", ""),
        ("江西 上饶 信州 五三大道6号", ""),
        ("万达 江西省上饶市信州区五三大道6号 13912345678", ""),
        ("江西省上饶市信州区五三大道6号 楼下", ""),
    ],
)
def test_name_is_never_invented_from_the_address(street: str, name: str) -> None:
    person = Recipient(street=street)
    assert people.taken_out(person).get("name", "") == name


def test_masked_phone_is_unchanged() -> None:
    masked = Recipient(phone=people.phone("138****0000", "CN"))
    assert (masked.phone, people.reachable(masked)) == ("138****0000", True)


def test_foreign_phone_is_parsed_by_its_country() -> None:
    assert people.phone("(415) 555-2671 x12", "US") == "+14155552671;ext=12"
    assert people.phone("020 7946 0018", "GB") == "+442079460018"


@pytest.mark.parametrize(
    ("original", "name"),
    [
        ("张三（勿电联）", "张三"),
        ("【老客户】李四", "李四"),
        ("王五 收", "王五"),
        ("王小五收", "王小五"),
        ("收件人：赵六", "赵六"),
        ("🌸小花🌸", "小花"),
        ("欧阳 娜 娜", "欧阳娜娜"),
        ("John Smith", "John Smith"),
        ("张启", "张启"),
        ("收", "收"),
        ("💐", "💐"),
        ("（勿电联）", "（勿电联）"),
    ],
)
def test_asides_and_titles_are_removed_from_a_name(original: str, name: str) -> None:
    assert people.name(original) == name


@given(st.text(max_size=30))
def test_cleansing_a_name_is_idempotent_and_never_empties_it(original: str) -> None:
    name = people.name(original)
    assert people.name(name) == name
    assert bool(name) == bool(original)


@given(st.text("0123456789+-()转, *#x;=exta", max_size=24), st.sampled_from(["CN", "US", "DE"]))
def test_standardising_a_phone_is_idempotent(original: str, country: str) -> None:
    phone = people.phone(original, country)
    assert people.phone(phone, country) == phone
    assert Recipient(phone=phone).national_phone or not phone.strip()


@pytest.mark.parametrize("country", ["US", "GB", "HK", "CN", "DE", "JP", "BR", "IN", "AU", "TW", "FR", "MX"])
def test_phone_is_found_by_every_spelling(country: str) -> None:
    for kind in (PhoneNumberType.MOBILE, PhoneNumberType.FIXED_LINE):
        number = phonenumbers.example_number_for_type(country, kind)
        assert number is not None
        stored = Recipient(phone=phonenumbers.format_number(number, PhoneNumberFormat.E164)).digits
        for form in (PhoneNumberFormat.NATIONAL, PhoneNumberFormat.INTERNATIONAL, PhoneNumberFormat.E164):
            assert stored in people.spellings(phonenumbers.format_number(number, form)), (country, kind, form)

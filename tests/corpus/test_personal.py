"""Personal data: found in the forms that people write, not found where only digits look alike, never repeated."""

import pytest

from medtune.corpus.personal import find_personal, has_checksum, mask


def with_check(twelve: str) -> str:
    """The 13-digit number whose check digit holds: the twelve digits and the one of ten that fits."""
    fitting = [twelve + digit for digit in "0123456789" if has_checksum(twelve + digit)]
    assert len(fitting) == 1
    return fitting[0]


CITIZEN, FOREIGNER = with_check("900101123456"), with_check("851231523456")


def test_checksum_by_hand() -> None:
    """9x2+0x3+0x4+1x5+0x6+1x7+1x8+2x9+3x2+4x3+5x4+6x5 = 124; 124 mod 11 = 3; 11 - 3 = 8; a foreigner's: 8 + 2."""
    assert has_checksum("9001011234568")
    # 8x2+5x3+1x4+2x5+3x6+1x7+5x8+2x9+3x2+4x3+5x4+6x5 = 196; 196 mod 11 = 9; 11 - 9 = 2; 2 + 2 = 4
    assert has_checksum("8512315234564")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (f"{CITIZEN[:6]}-{CITIZEN[6:]}", "resident"),
        (f"{CITIZEN[:6]} - {CITIZEN[6:]}", "resident"),
        (f"주민번호 {CITIZEN}입니다", "resident"),
        (f"외국인등록번호 {FOREIGNER[:6]}-{FOREIGNER[6:]}", "resident"),
        (f"번호 {FOREIGNER}", "resident"),
        ("900101-1234567", "resident"),  # no check digit: given out since October 2020, or mistyped
        ("210305-3999999", "resident"),
        ("９００１０１－１２３４５６８", "resident"),
        ("010-1234-5678", "mobile"),
        ("01012345678로 연락", "mobile"),
        ("010.1234.5678", "mobile"),
        ("011-234-5678", "mobile"),
        ("+82 10-1234-5678", "mobile"),
        ("02-123-4567", "landline"),
        ("(02) 1234-5678", "landline"),
        ("031-123-4567", "landline"),
        ("070-1234-5678", "landline"),
        ("0505-123-4567", "landline"),
        ("hong.gildong@example.co.kr로 보내세요", "e-mail"),
        ("4111-1111-1111-1111", "card"),
        ("5555 5555 5555 4444", "card"),
        ("378282246310005", "card"),
    ],
)
def test_is_found(text: str, kind: str) -> None:
    found = find_personal(f"제 정보는 {text} 예요.")
    assert len(found) == 1
    assert kind in found[0].kind


@pytest.mark.parametrize(
    "text",
    [
        "119에 전화하세요. 109, 1339, 112, 129, 1393, 1388도 있습니다.",
        "자살예방 상담전화 109, 정신건강 위기상담 1577-0199",
        "폴리에틸렌 글리콜 3350, 아스피린 100mg, 혈압 120-80, 2024-01-15, 2024.01.15",
        "900101-1234",
        "901301-1234567",  # no such month
        "900230-1234567",  # no such day
        f"{CITIZEN[:12]}{(int(CITIZEN[12]) + 1) % 10}",  # thirteen digits alone, no check digit: a bar code
        "1700000000000",  # milliseconds
        "4111-1111-1111-1112",  # Luhn fails
        "080-123-4567",  # toll-free: nobody's
        "1588-1234",
        "체온 36.5도, 맥박 72, 혈당 110-126",
        "@환자분 답변 @ 병원",
        "12345010123456789012",  # in the middle of a longer number
    ],
)
def test_is_not_found(text: str) -> None:
    assert find_personal(text) == []


def test_mask_covers_all_and_keeps_the_rest() -> None:
    text = f"연락처 010-1234-5678, {CITIZEN[:6]}-{CITIZEN[6:]}, a.b@example.com 그리고 119"
    masked = mask(text)
    assert masked == "연락처 ***-****-****, ******-*******, *.*@*******.*** 그리고 119"
    assert len(masked) == len(text)


def test_places_are_those_of_the_text() -> None:
    text = "전화는 ０１０-１２３４-５６７８ 그리고 a@b.kr"
    assert [text[finding.start : finding.end] for finding in find_personal(text)] == [
        "０１０-１２３４-５６７８",
        "a@b.kr",
    ]

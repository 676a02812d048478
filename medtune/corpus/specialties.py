"""Which medical specialties a conversation is of, by keywords: rough, fast and the same every time.

    specialties(tokens(question), tokens(answer))   # ("cardiology",)

For counting shares in many rows, not for sending a patient anywhere. A keyword of one syllable must be a whole word
(귀가, and not 귀가하다; 간은, and not 간단히), a longer one may stand inside of one (급성췌장염). What the patient says
counts half again as much, since answers name departments and tests of many kinds; the specialties with the most
keywords are the row's. The table was tuned on every other row of data/sample, and on the rest, which it had not seen,
names the specialty that a person gave 6 rows in 10, by chance 1 in 20 (tests/corpus/test_specialties.py).
"""

from collections.abc import Iterable
from functools import lru_cache

from medtune.corpus.words import PARTICLES

# id (as in data/sample/labels.jsonl): Korean name, keywords. Specialties of the Korean Medical Association's list and
# the internal medicine's own; a keyword may stand in several.
TABLE: dict[str, tuple[str, str]] = {
    "allergy": (
        "알레르기내과",
        "알레르기 알러지 두드러기 아나필락시스 과민반응 에피네프린 자가주사 꽃가루 항원 항히스타민 조영제 벌에 "
        "벌독 쏘인 쏘였 약물발진 면역치료 혈관부종 땅콩 갑각류 재채기",
    ),
    "cardiology": (
        "순환기내과",
        "심장 협심증 심근경색 심근 심방 심실 부정맥 심부전 혈압 고혈압 저혈압 심전도 심초음파 스텐트 관상동맥 "
        "동맥경화 콜레스테롤 고지혈 흉통 가슴통증 두근거 두근두근 맥박 조기수축 판막 심박 심계항진 심낭 심내막 "
        "가슴압박 가슴이 가슴을 날카로운가슴 혈관외과 정맥류 혈전 항응고 빈맥 서맥 대동맥 순환기",
    ),
    "dentistry": (
        "치과",
        "치과 치아 이빨 잇몸 충치 사랑니 임플란트 교정 스케일링 양치 칫솔 치실 치석 어금니 앞니 송곳니 젖니 "
        "영구치 발치 틀니 의치 크라운 보철 신경치료 턱관절 치통 치주 치은 불소 치수 치간 법랑 구강 이갈이 치태 "
        "잇몸병",
    ),
    "dermatology": (
        "피부과",
        "피부 여드름 습진 아토피 무좀 건선 사마귀 가려움 가려워 가렵 발진 탈모 모발 두피 비듬 기미 주근깨 백반증 "
        "대상포진 농가진 옴 각질 물집 수포 반점 홍반 피부염 손톱 발톱 티눈 굳은살 진물 모낭 지루 켈로이드 흉터 "
        "다한증 한포진 각화증 흑색종 햇볕에 자외선 땀띠 연고",
    ),
    "emergency-medicine": (
        "응급의학과",
        "응급의학과 열사병 일사병 저체온 감전 익수 물에빠 중독 삼켰 삼킨 질식 하임리히 기도가 이물 화상 데었 데였 "
        "뎄 교통사고 추락 쇼크 심폐소생 심정지 뱀에 물렸 일산화탄소 연탄 번개탄 세정제 농약 접질 과다복용 연기를 "
        "가스를",
    ),
    "endocrinology": (
        "내분비내과",
        "당뇨 혈당 인슐린 저혈당 고혈당 당화혈색소 메트포르민 갑상선 갑상샘 호르몬 내분비 부신 뇌하수체 쿠싱 "
        "골다공증 골밀도 성조숙 비만 체중증가 테스토스테론 에스트로겐 부갑상선 대사증후군 갈증 임신당뇨 "
        "스테로이드를 케톤 더위를",
    ),
    "family-medicine": (
        "가정의학과",
        "가정의학 건강검진 검진에서 검진 예방접종 예방주사 백신 금연 담배 피로 피곤 피곤해 수면제 불면 코골이 "
        "코를골 영양제 비타민 보충제 다이어트 살 몸무게 감기 몸살 건강기능식품 만성피로 야간근무 금단 절주 음주 "
        "간수치 생활습관 홍삼 오메가 유산균",
    ),
    "gastroenterology": (
        "소화기내과",
        "소화 위염 위궤양 위암 위장 속쓰림 쓰리 쓰려 신물 역류 식도 명치 복통 복부 복부팽만 윗배 배꼽 배가 설사 "
        "변비 혈변 대변 변 구토 토해 토하 메스꺼 구역 장염 과민성 대장 소장 내시경 헬리코박터 지방간 간염 간경화 "
        "간경변 황달 담석 담낭 쓸개 췌장 장중첩 체했 더부룩 트림 방귀 항문 치질 치핵 크론 궤양성 게실 간 위가 "
        "십이지장 흑변 직장",
    ),
    "geriatrics": (
        "노년내과",
        "노인 어르신 노년 고령 치매 욕창 섬망 낙상 노쇠 요양원 요양병원 요양 여든 일흔 아흔 팔순 칠순 근감소 사레 "
        "보행기 기력 할머니 할아버지 헛소리",
    ),
    "hematology": (
        "혈액내과",
        "빈혈 백혈병 림프종 골수 혈소판 백혈구 적혈구 혈색소 헤모글로빈 철분 헌혈 수혈 혈우병 응고 와파린 멍 코피 "
        "혈액암 혈액내과 자반 다발골수종 호중구 지혈 겸상",
    ),
    "infectious-disease": (
        "감염내과",
        "감염내과 독감 인플루엔자 코로나 결핵 말라리아 뎅기 수막염 뇌수막염 패혈증 파상풍 광견병 hiv 에이즈 매독 "
        "임질 성병 클라미디아 장티푸스 콜레라 쯔쯔가무시 진드기 수두 홍역 볼거리 풍진 격리 전염 유행성 항생제내성 "
        "라임병 브루셀라 기생충 괴사성 봉와직염 봉소염 균혈증 해외여행 동남아 콘돔 옴진드기 잠복결핵 물렸 오한 "
        "간염이래",
    ),
    "nephrology": (
        "신장내과",
        "신장 콩팥 투석 신부전 사구체 크레아티닌 단백뇨 거품뇨 신증후군 다낭신 신우신염 칼륨 신장내과 여과율 "
        "복막투석 요독 신이식 거품이 루푸스신염",
    ),
    "neurology": (
        "신경과",
        "두통 편두통 뇌졸중 뇌경색 뇌출혈 중풍 마비 저림 저리 저려 경련 발작 간질 뇌전증 파킨슨 떨림 떨려 떨리 "
        "치매 기억력 건망증 어지럼 현기증 신경과 신경통 안면신경 뇌종양 수두증 실신 기절 어눌 감각이 감각 "
        "말초신경 다발성경화증 근무력증 손발저림 뇌진탕 머리가 머리 일과성 안면경련 삼차신경 구안와사 뇌 보행장애",
    ),
    "obstetrics-gynecology": (
        "산부인과",
        "임신 임산부 산모 임신부 태아 태동 출산 분만 산후 유산 입덧 자궁 난소 생리 월경 질 질염 냉 피임 폐경 "
        "갱년기 산부인과 유방 수유 모유 양수 제왕절개 불임 난임 배란 자궁근종 자궁내막 인유두종 생리통 진통이 "
        "태반 질출혈 외음부 사후피임 하혈 골반염",
    ),
    "oncology": (
        "종양내과",
        "항암 암 종양 악성 전이 방사선치료 방사선 표적치료 면역항암 말기 완화의료 호스피스 재발 유방암 폐암 위암 "
        "대장암 간암 췌장암 갑상선암 전립선암 난소암 자궁경부암 식도암 방광암 피부암 종양내과 생검 조직검사 "
        "암환자 항암제",
    ),
    "ophthalmology": (
        "안과",
        "안과 눈 눈앞 눈물 눈곱 눈꺼풀 눈동자 눈꼽 시력 시야 충혈 안구 각막 결막 결막염 망막 백내장 녹내장 황반 "
        "비문증 날파리 렌즈 안경 근시 난시 원시 노안 사시 다래끼 안압 안약 동공 홍채 인공눈물 실명 흰자 광시증 "
        "복시 라식 라섹",
    ),
    "orthopedics": (
        "정형외과",
        "골절 부러 뼈 관절 무릎 어깨 허리 척추 디스크 협착 발목 손목 팔꿈치 고관절 인대 힘줄 연골 반월상 탈구 "
        "빠졌 염좌 삐었 접질 깁스 오십견 회전근개 측만 요통 근육통 목디스크 뒤꿈치 족저근막 아킬레스 정강이 "
        "종아리 엘보 건염 활액낭 손가락 발가락 엉덩이 골반 쇄골 갈비뼈 정형외과 도수치료 물리치료 넘어져 넘어지 "
        "거북목 무지외반 성장통 슬개골 등이 팔이 다리가",
    ),
    "otolaryngology": (
        "이비인후과",
        "귀 귀지 이명 귀울림 난청 청력 중이염 고막 보청기 코 콧물 코막힘 비염 축농증 부비동 코피 편도 인후 후두 "
        "성대 목소리 쉰목소리 목 인후통 갑갑 이석증 빙글빙글 메니에르 코골이 냄새를 후각 침샘 가시가 비중격 "
        "재채기 이비인후과 미로염 외이도 아데노이드 코뼈 귓",
    ),
    "pediatrics": (
        "소아청소년과",
        "아기 아이 아이가 아이는 신생아 영아 유아 소아 돌 두돌 개월 생후 이유식 분유 젖병 모유수유 예방접종 "
        "성장판 성장곡선 소아과 어린이집 유치원 기저귀 야뇨 수족구 크루프 장중첩증 열성경련 소아청소년과 발달 키 "
        "가와사키 로타 돌발진 배변훈련",
    ),
    "psychiatry": (
        "정신건강의학과",
        "우울 우울증 불안 공황 자살 자해 죽고 죽어 죽고싶 불면 불면증 잠을 환청 환각 망상 조증 조울 강박 강박증 "
        "adhd 집중 산만 트라우마 외상후 스트레스 분노 공포 알코올 술 중독 정신과 정신건강 정신병 섭식 거식 폭식 "
        "상담센터 무기력 자존감 자폐 유서 손목을그 악몽 틱 짜증 약물남용 품행 적대적 기분이 감정 눈물이",
    ),
    "respiratory": (
        "호흡기내과",
        "호흡 호흡기 호흡곤란 숨 숨쉬 숨가쁨 숨차 기침 가래 천식 폐 폐렴 폐암 폐결핵 폐결절 기관지 흡입기 결핵 "
        "쌕쌕 객혈 기흉 폐색전 늑막 흉막 흉부 만성폐쇄 copd 산소 폐기능 폐섬유 흡연 전자담배 천명 호흡기내과 각혈",
    ),
    "rheumatology": (
        "류마티스내과",
        "류마티스 류머티즘 류마토이드 루푸스 통풍 요산 강직 강직성 뻣뻣 쇼그렌 베체트 레이노 섬유근육통 자가면역 "
        "관절염 마디 경피증 전신경화 혈관염 메토트렉세이트 생물학제제 류마티스내과 관절통 다발근염 아침에뻣뻣 "
        "입마름 동맥염",
    ),
    "surgery": (
        "외과",
        "수술 수술한 수술하고 수술부위 맹장 충수염 탈장 담낭절제 봉합 꿰맨 꿰맸 실밥 상처 베였 베인 찢어 혹 "
        "지방종 종기 고름 농양 치루 치질수술 복막염 장폐색 갑상선수술 유방멍울 외과 절제 복강경 사타구니 덧나 "
        "낭종 덩어리 찔렸 파고드 파고들 칼에 출혈",
    ),
    "urology": (
        "비뇨의학과",
        "소변 오줌 배뇨 혈뇨 방광 방광염 요도 요로 요로결석 전립선 고환 음낭 음경 포피 포경 발기 발기부전 정액 "
        "사정 정관 요실금 빈뇨 야뇨 비뇨 잔뇨 급뇨 요석 성기 조루 정계 psa 결석",
    ),
}
NAMES = {name: korean for name, (korean, _) in TABLE.items()}
NONE = "none"  # the bin of rows without a keyword
QUESTION, ANSWER = 3, 2  # how much a keyword weighs where


def specialties(asked: Iterable[str], answered: Iterable[str]) -> tuple[str, ...]:
    """Ids of TABLE in its order: those with the highest score, as said above; () where no keyword is found.

    asked, answered: tokens (words.tokens) of what the patient says and of what the doctor does."""
    weights: dict[str, int] = {}  # said five times is no stronger than said once
    for tokens, weight in ((answered, ANSWER), (asked, QUESTION)):
        for token in tokens:
            for keyword in _keywords_in(token):
                weights[keyword] = weight
    scores: dict[str, int] = {}
    for keyword, weight in weights.items():
        for name in _OWNERS[keyword]:
            scores[name] = scores.get(name, 0) + weight
    if not scores:
        return ()
    best = max(scores.values())
    found = [name for name, score in scores.items() if score == best]
    return tuple(found) if len(found) == 1 else tuple(name for name in TABLE if name in found)


def _owners() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, (_, keywords) in TABLE.items():
        for keyword in keywords.split():
            found.setdefault(keyword, []).append(name)
    return found


_OWNERS = _owners()
_BY_START: dict[str, list[str]] = {}  # first two letters -> keywords; a word is looked at once, however many there are
for _keyword in _OWNERS:
    if len(_keyword) > 1:
        _BY_START.setdefault(_keyword[:2], []).append(_keyword)


@lru_cache(maxsize=1 << 18)
def _keywords_in(token: str) -> tuple[str, ...]:
    if token.isascii():
        return (token,) if token in _OWNERS else ()
    found = [token[0]] if token[0] in _OWNERS and token[1:] in PARTICLES else []
    for start in range(len(token) - 1):
        found += [word for word in _BY_START.get(token[start : start + 2], ()) if token.startswith(word, start)]
    # 대상포진 holds 포진: the longest one says what the word is
    return tuple(word for word in found if not any(word != other and word in other for other in found))

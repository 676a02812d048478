"""Names, places, numbers and web addresses in Korean text, less the generic and the public ones.

Found by shape: a surname and a title, a word that only a proper name puts before 병원, digits grouped as a telephone
number. A name without title or label (가온이 말했다) is not found.
"""

import re
from collections.abc import Iterator

# Lines and bodies that everybody may name; digits only.
PUBLIC_NUMBERS = frozenset(
    """
    119 112 109 110 111 113 117 118 120 122 125 128 129 131 132 182 1339 1388 1366 1393 1350 1355 1345 1372 1399 1332
    1577 15770199 15771000 16442000 15771389 18999988 16440064 18338855 15881366 911 1330 1333 1899
    """.split()  # noqa: SIM905
)
PUBLIC_SITES = re.compile(
    r"(?:[\w-]+\.)*(?:go\.kr|hira\.or\.kr|e-gen\.or\.kr|nhis\.or\.kr|nhimc\.or\.kr|ncc\.re\.kr"
    r"|kisa\.or\.kr|health\.kr|korea\.kr|drugsafe\.or\.kr|nedrug\.mfds\.go\.kr)"
)
SITE = re.compile(
    r"(?:https?://|www\.)[^\s가-힣)\]<>\"']+|[\w.+-]+@[\w-]+(?:\.[\w-]+)+"
    r"|(?<![\w@.])(?:[a-zA-Z0-9][\w-]*\.)+(?:com|net|org|kr|io|me|info|biz|clinic|shop|site|xyz"
    r"|health|example|test|app|co)(?![\w])",
    re.IGNORECASE,
)
PHONE = re.compile(
    r"(?<![\d-])(?:\+82[- ]?)?\(?0\d{1,2}\)?[-. ]{0,2}\d{3,4}[-. ]?\d{4}(?!\d)|(?<![\d-])1[5-9]\d{2}[-. ]?\d{4}(?!\d)"
    r"|(?<![\d.~/-])(?:국번\s?없이\s?)?1\d{2,3}(?=(?:번)?(?:으로|로|에)?\s?(?:전화|연락|문의|신고|상담))"
)

_DEPARTMENTS = (
    r"내과|외과|정형외과|신경외과|성형외과|흉부외과|소아과|소아청소년과|산부인과|부인과|산과|피부과|안과"
    r"|이비인후과|정신과|정신건강의학과|신경과|비뇨의학과|비뇨기과"
    r"|재활의학과|영상의학과|마취통증의학과|통증의학과|가정의학과|응급의학과|직업환경의학과|핵의학과"
    r"|진단검사의학과|방사선종양학과|치과|구강외과|구강악안면외과|한방과|종양학과"
)
# What may stand before 병원, 의원, 클리닉 … and leave it a kind of place, not a name.
_GENERIC = (
    rf"{_DEPARTMENTS}|국공립|국립|공공|시립|도립|군립|공립|사립|민간|보훈|경찰|국군|대학교|대학|종합|상급"
    rf"|대형|대|소형|중소|중형|중|1차|2차"
    rf"|3차|일|이|삼차|전문|일반|동네|개인|거점|권역|지역|지정|협력|협진|연계|인근|근처|주변|부근"
    r"|해당|담당|다른|타|본|이|그|저|각|두|세|네|몇|여러|어느|어떤|모든|같은|새|큰|작은|좋은|유명|우수|인증"
    r"|평가|가까운|가까이|다니는|다니시는|다니던"
    r"|주|원|단골|방문|입원|수술|분만|출산|야간|심야|주말|휴일|당직|응급|외상|의료"
    r"|요양|한방|치과|정신|건강|여성|남성|어린이|아동|아이|아기|소아|청소년|성인|노인|산모|모자|임산부|가족"
    r"|달빛어린이|동물|재활|척추|관절|무릎|허리|어깨"
    r"|디스크|인공|골절|뼈|손|발|족부|수부|스포츠|암|유방|갑상선|대장|항문|대장항문|위장|간|심장|심뇌|혈관"
    r"|뇌|뇌혈관|뇌졸중|치매|기억|기억력|파킨슨"
    r"|화상|피부|모발|탈모|두피|흉터|눈|각막|망막|안질환|백내장|녹내장|라식|귀|코|목|청각|난청|보청기|이명"
    r"|어지럼|어지럼증|두통|편두통|통증|수면|코골이"
    r"|비만|다이어트|체중|당뇨|당뇨병|혈당|고혈압|내분비|류마티스|류머티즘|관절염|알레르기|아토피|천식"
    r"|호흡기|호흡|폐|결핵|감염|감염병|면역|소화기|내시경|심혈관"
    r"|순환기|신장|투석|혈액|혈액종양|종양|노년|노년내과"
    r"|난임|불임|생식|갱년기|비뇨기|전립선|성|성병|금연|금주|알코올|중독|약물|마약|도박|상담|심리|마음|정서"
    r"|우울|불안|공황|스트레스|트라우마|자살|발달|언어"
    r"|놀이|미술|학습|예방|접종|예방접종|여행|여행자|해외|검진|건강검진|종합검진|신생아|미숙아|고위험|유전"
    r"|희귀질환|만성|외래|진료|치료|검사|물리|도수|운동"
    r"|영양|비수술|미용|성형|교정|임플란트|구강|턱|턱관절|틱|섬유근통|통풍|골다공증|골|장애|장애인|호스피스"
    r"|완화|항암|이식|외국인|국제|이동|원격|온라인|공단"
    r"|보험|직장|학교|기업|군|수련|부속|의과대학|의대|산하|제휴|교육|연구|실제|진짜|보통|대부분|최고|최상|유명한"
)
# Names of bodies, not of providers: whole words.
PUBLIC_BODIES = re.compile(
    r"건강보험심사평가원|심사평가원|심평원|국민건강보험공단|건강보험공단|질병관리청|보건복지부"
    r"|식품의약품안전처|식약처|응급의료포털|중앙응급의료센터|국립암센터|국립중앙의료원|국립정신건강센터"
    r"|한국인터넷진흥원|대한적십자사|한국의료분쟁조정중재원|한국소비자원|의약품안전관리원|근로복지공단"
    r"|중앙자살예방센터|한국생명존중희망재단|생명의전화|안심병원|국민안심병원"
)
PLACE = re.compile(
    rf"(?P<stem>[가-힣A-Za-z0-9]{{1,14}}?)(?P<kind>대학교\s?(?:[가-힣]{{2}})?병원|대학병원|병원|한의원"
    rf"|치과의원|의원|의료원"
    rf"|클리닉|메디컬|메디컬센터|의료센터|심리상담센터|상담센터|상담소|심리센터|재활센터|검진센터|척추센터"
    rf"|요양원|조리원|약국|의료재단|(?<=[가-힣]{{2}})(?:{_DEPARTMENTS}))(?![가-힣]*(?:전문의"
    rf"|의사|교수|전공))"
    r"(?=[에의은는이가을를도로과와만으인]|입니다|이에요|예요|까지|부터|이라|이고|,|\.|\s|\)|\(|$|!|\?|\"|')"
)
GENERIC_STEM = re.compile(rf"(?:{_GENERIC})+")
# 불안과 우울, 수치과: nouns that end like a department, with the particle 과
NOT_DEPARTMENT = re.compile(r"(?:불안|동안|방안|제안|대안|수치|안내|인내|시내|실내|이외|제외|의외|해외)과$")

SURNAME = (
    "김이박최정강조윤장임한오서신권황안송류유홍전고문양손배백허남심노하곽성차주우구"
    "민진지엄채원천방공현함변염여추도소석선설마길연위표명기반왕금옥육인맹제모탁국어은편용"
)
SURNAME_SURE = "김박최강윤임권황송홍류배백허남노심곽엄"
TITLE = (
    r"(?:원장|부원장|병원장|교수|박사|선생|과장|의사|전문의|전공의|주치의|한의사|간호사|간호부장|간호조무사"
    r"|상담사|약사|치료사|실장|부장|팀장|센터장|이사장|소장|대표|코디네이터|코디|의학박사)"
)
# ordinary words that look like a surname and a given name before a title
NOT_NAME = frozenset(
    """
    담당 전담 전문 주치 지도 주임 책임 수석 일반 임상 심리 정신 소아 피부 신경 성형 정형 한방 방사선 물리 작업 언어
    조제 진료 처방 상담 방문 보건 여성 남자 여자 젊은 다른 우리 모든 해당 여러 어떤 좋은 이런 그런 저런 현재 최근 원래
    이전 주변 동네 학교 담임 유치원 어린이집 고등학교 체육 선배 조산 인턴 이비인후 비뇨 안과 내과 외과 치과 한의
    소화기 심장 신장 이번 지금 정말 한번 안내 진찰 장기 주말 하지만 그리고 따라서 마음 진짜 제일 가장 유명 유명한 명의
    전임 외래 연구 임용 조교 부교 정교 기존 선생 부모 고객 이용자 문의자 어머 아버 할머 형 사장 주인 임산부 산모 환자
    회원 보호자 질문자 작성자 글쓴이 독자 사용자 구독자 남편 아내 하느 스 기사 수녀 목사 신부 손 여러분 의뢰인 내담자
    상담자 신청자 구급대원 소방대원 대원 모친 부친 장모 장인 처 시어머 시아버 도련 서방 간호 의사 원장 교수 과장 약사
    실장 전공 주치의 전문의 간호사 선생님 남의 한국 국내 서울 부산 인천 대전 광주 전국 지역 우수 공식 공인 정식 현직
    전직 은퇴 신입 경력 성인 노인 소아과 진단 수술 마취 재활 응급 당직 야간 주간 오전 오후 오늘 내일 모레 어제 하루
    이틀 원무 접수 조리 지정 고령 유방 위장 대장 간담 혈액 종양 감염 류마티스 알레르기 내분비 순환기 호흡기 비슷한
    적절한 그분 이분 저분 한분 두분 반드시 최대한 우선 직접 먼저 나중 천천히 조심 안심 서로 스스로 혼자 모두 각자 은사
    명예 석좌 초빙 겸임 객원 임시 공중보건 기본 표준 정규 도수 운동 영양 사회 복지 사회복지 청소년 이때 그때 이후 조금
    하여 위해 통해 대해 인해 경우 한명 전체 성형외 정형외 신경외 흉부외 산부인 소아청소년 가정의학 가정 통증 수간호
    수련 전 현 구 한 이 그 저 두 세 네 몇 각 주 본 타 노년 노련한 유능한 인공 조만간 지속 추가 금방 연락 주의 유의
    소견 권고 정보 도움 지시 조언 동의 판단 설명 문의 허락 면담 경고 선택 추천 권유 지원 명단 기록 기준 전화 배우자
    이모 고모 조카 하나 전공의 한의사 인근 이웃 방금 현지 변호사 한국인 하나님
    """.split()  # noqa: SIM905
)
_NAME = rf"[{SURNAME}][가-힣]{{1,2}}|(?:남궁|황보|제갈|선우|독고|사공)[가-힣]{{1,2}}"
# verbs, adjectives and nouns with their particle that begin like a surname: 주신, 권하는, 양을
INFLECTED = re.compile(r"(?:[을를는니고면서게로에과와한할된될던듯]|께서)$|^.[신은이가도만인의]$")
_ENDS = r"(?![가-힣])"
PERSONS = (
    re.compile(
        rf"(?<![가-힣])(?P<name>{_NAME})\s?(?:[가-힣]{{0,8}}과\s?)?{TITLE}(?:님|께서|께|입니다|이|가|은|는|을|를"
        rf"|의|에게|과|와|이십니다|이에요|\s|[.,)]|$)"
    ),
    re.compile(rf"(?<![가-힣])(?P<name>{_NAME})\s?님(?!들)"),
    re.compile(
        rf"(?:{TITLE}|상담의|상담의사|내과의|외과의|담당의|환자|고객|회원|담당자|상담원|작성자|답변자)님?\s"
        rf"(?P<name>{_NAME})(?:\s?(?:입니다"
        rf"|이라고|라고|이며|이고|이에요|예요|\(|씨|님|드림|올림|배상)|{_ENDS}\s*(?:[.,)(]|$))"
    ),
    re.compile(
        rf"(?:성명|성함|이름|서명|담당의|주치의|담당자|환자명|보호자|의사명|작성자|발신|보내는\s?사람|드림"
        rf"|올림)(?:은|는|이)?\s?[:：]?\s(?P<name>{_NAME})(?:\s?(?:입니다"
        rf"|이에요|예요|이고|이며|님|씨|\(|이십니다)|{_ENDS}\s*(?:[.,)]|$))"
    ),
    re.compile(
        rf"(?:저는|제가|제\s이름은)\s(?:[가-힣]{{1,8}}\s){{0,3}}(?P<name>{_NAME})(?:입니다|이라고|라고|이에요|예요)"
    ),
    re.compile(
        rf"(?<![가-힣])(?P<name>{_NAME})\s?(?:올림|드림|배상|拜上|씀|씨(?=[는가를의와\s])|\((?:서명|인|남|여)"
        rf"|\(\d{{4}}년|\(만?\s?\d{{1,2}}세)"
    ),
    re.compile(
        rf"^(?:안녕하세요[,.!]?\s?)(?:[가-힣]{{1,10}}\s){{0,3}}(?P<name>[{SURNAME}][가-힣]{{2}})(?:입니다"
        rf"|이라고|이에요|예요)"
    ),
    re.compile(
        rf"(?<![가-힣])(?P<name>[{SURNAME_SURE}])\s(?:원장|부원장|교수|박사|과장|선생|간호사|상담사|약사"
        rf"|실장)(?:님|[은는이가을를의께,.\s]|$)"
    ),
    re.compile(rf"(?<![가-힣])(?P<name>[{SURNAME_SURE}][○O*X]{{1,2}}(?=[가-힣]))\s?{TITLE}님"),
)

_CITY = (
    r"(?:서울|부산|대구|인천|광주|대전|울산|세종|경기|강원|충북|충남|충청북?남?도?|전북|전남|경북|경남|제주)"
    r"(?:특별자치도|특별자치시|특별시|광역시|시|도)?"
)
ADDRESSES = (
    re.compile(
        rf"{_CITY}\s(?:[가-힣]{{1,5}}(?:시|군|구)\s){{0,2}}[가-힣0-9]{{1,9}}(?:로|길|동|읍|면|리"
        rf"|가)\s?\d{{1,4}}(?:-\d+)?"
    ),
    re.compile(
        r"(?<![가-힣])(?!다시|잠시|반드시|혹시|즉시|역시|일시|수시|누구|친구|연구|요구|도구"
        r"|항상)[가-힣]{2,5}(?:시|군|구)\s[가-힣0-9]{1,7}(?<!으)(?<!결과)(?<!효과)(?:대로"
        r"|로|길|동|읍|면)\s?\d{1,4}(?:-\d+)?(?:번길|번지|호|\s?\d*층|(?=[\s,.()에로입]|$))"
    ),
    re.compile(
        r"[가-힣]{2,8}(?:로|길|동)\s?\d{1,4}(?:-\d{1,4})?\s?(?:번길|번지)|[가-힣]{1,8}(?:빌딩|타워|프라자"
        r"|플라자|상가)\s?(?:지하\s?)?\d{1,2}\s?층"
        r"|[가-힣]{1,7}역\s?\d{1,2}번\s?출구"
    ),
    re.compile(rf"{_CITY}\s(?:[가-힣]{{1,5}}시\s)?[가-힣]{{1,4}}구\s[가-힣]{{1,6}}(?:동|로|길)(?=에|의|\s|[.,)]|$)"),
)
RECORDS = (
    re.compile(r"면허\s?(?:번호)?\s?[:：]?\s?제?\s?\d{3,6}\s?호?"),
    re.compile(r"(?:19|20)\d\d년\s?\d{1,2}월\s?(?:\d{1,2}일\s?)?생|\d{6}-[1-4]\d{6}"),
    re.compile(
        r"(?:환자|등록|차트|병록|진료|접수|예약|사업자)\s?(?:등록)?\s?번호[는은]?\s?[:：]?\s?[A-Z]{0,3}-?\d[\d-]{2,}"
    ),
)


def sites(text: str) -> Iterator[str]:
    for match in SITE.finditer(text):
        if not PUBLIC_SITES.fullmatch(
            re.sub(r"^https?://|^www\.|/.*$|[.,]+$", "", match.group(), flags=re.I).removeprefix("www.")
        ):
            yield match.group().rstrip(".,")


def phones(text: str) -> Iterator[str]:
    for match in PHONE.finditer(SITE.sub(" ", text)):
        if re.sub(r"\D", "", match.group()) not in PUBLIC_NUMBERS:
            yield match.group()


def places(text: str) -> Iterator[str]:
    """Hospitals, clinics, pharmacies and the like by name: 가람누리병원, not 대학병원, 수면클리닉 or 이비인후과의원."""
    text = PUBLIC_BODIES.sub(" ", text)
    for match in PLACE.finditer(text):
        word = text[_word_start(text, match.start()) : match.end()]
        stem = word[: len(word) - len(match.group("kind"))]
        if not stem or GENERIC_STEM.fullmatch(stem) or GENERIC_STEM.fullmatch(word) or NOT_DEPARTMENT.search(word):
            continue
        if re.search(r"(?:는|은|한|던|을|의|된|인)$", stem) and not match.group("kind").startswith("대"):
            continue  # a modifier written without a space: 수술한병원
        if len(stem) == 1 and match.group("kind").endswith("과"):
            continue
        yield word


def _word_start(text: str, start: int) -> int:
    while start and re.match(r"[가-힣A-Za-z0-9]", text[start - 1]):
        start -= 1
    return start


def persons(text: str) -> Iterator[str]:
    for pattern in PERSONS:
        for match in pattern.finditer(text):
            name = match.group("name")
            if name not in NOT_NAME and not INFLECTED.search(name):
                yield match.group("name")


def addresses(text: str) -> Iterator[str]:
    for pattern in ADDRESSES:
        yield from (match.group() for match in pattern.finditer(text))


def records(text: str) -> Iterator[str]:
    """Licence numbers, dates of birth, patient numbers."""
    for pattern in RECORDS:
        yield from (match.group() for match in pattern.finditer(text))

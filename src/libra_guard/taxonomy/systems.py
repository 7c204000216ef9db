"""The category systems that guards and regulators speak in, as data.

A category's ``code`` is what scores are keyed by: the system's own code where it has one (``S1``, ``A.1-a``), else its
English name as the guard writes it (``Violent crimes``, ``harassment/threatening``).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from libra_guard.taxonomy._names import NameIndex
from libra_guard.taxonomy.libra import SCENARIOS, SUB_CATEGORIES


@dataclass(frozen=True)
class Category:
    """One category of a system."""

    code: str
    name: str
    """English name."""
    name_zh: str
    aliases: tuple[str, ...] = ()
    """Other names that it is found by."""
    group: str = ""
    """Code of the class that it belongs to; empty where the system is flat."""


@dataclass(frozen=True)
class CategorySystem:
    """A guard's or a regulation's list of categories, in its own order."""

    name: str
    """As in ``SYSTEMS``: ``llama-guard-3``."""
    title: str
    categories: tuple[Category, ...]
    _index: NameIndex[Category] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        entries = ((c, (c.code, c.name, c.name_zh, *c.aliases)) for c in self.categories)
        object.__setattr__(self, "_index", NameIndex(f"{self.name} category", entries))

    def find(self, name: str) -> Category:
        """The category of that code, English or Chinese name, or alias; case and punctuation do not matter.

        Raises:
            UsageError: There is none; the message has the nearest names.
        """
        return self._index.find(name)

    @property
    def codes(self) -> tuple[str, ...]:
        """All codes, in order."""
        return tuple(category.code for category in self.categories)


def _named(*names: tuple[str, str]) -> tuple[Category, ...]:
    return tuple(Category(name, name, name_zh) for name, name_zh in names)


LIBRA = CategorySystem(
    "libra", "Libra: 7 scenarios", tuple(Category(s.name, s.name, s.name_zh, (s.slug,)) for s in SCENARIOS)
)
LIBRA_SUB = CategorySystem(
    "libra-sub",
    "Libra: 39 sub-categories",
    tuple(Category(s.name, s.name, s.name_zh, (s.slug,), group=s.scenario) for s in SUB_CATEGORIES),
)

DUOGUARD = CategorySystem(
    "duoguard",
    "DuoGuard: 12 sigmoid outputs, in the order of the logits",
    _named(
        ("Violent crimes", "暴力犯罪"),
        ("Non-violent crimes", "非暴力犯罪"),
        ("Sex-related crimes", "性犯罪"),
        ("Child sexual exploitation", "儿童性剥削"),
        ("Specialized advice", "专业建议"),
        ("Privacy", "隐私"),
        ("Intellectual property", "知识产权"),
        ("Indiscriminate weapons", "大规模杀伤性武器"),
        ("Hate", "仇恨"),
        ("Suicide and self-harm", "自杀与自残"),
        ("Sexual content", "色情内容"),
        ("Jailbreak prompts", "越狱提示"),
    ),
)

LLAMA_GUARD_3 = CategorySystem(
    "llama-guard-3",
    "Llama Guard 3: S1–S14",
    (
        Category("S1", "Violent Crimes", "暴力犯罪"),
        Category("S2", "Non-Violent Crimes", "非暴力犯罪"),
        # The prompt and the model card spell three names differently; the prompt's stands first.
        Category("S3", "Sex Crimes", "性犯罪", ("Sex-Related Crimes",)),
        Category("S4", "Child Exploitation", "儿童性剥削", ("Child Sexual Exploitation",)),
        Category("S5", "Defamation", "诽谤"),
        Category("S6", "Specialized Advice", "专业建议"),
        Category("S7", "Privacy", "隐私"),
        Category("S8", "Intellectual Property", "知识产权"),
        Category("S9", "Indiscriminate Weapons", "大规模杀伤性武器"),
        Category("S10", "Hate", "仇恨"),
        Category("S11", "Self-Harm", "自杀与自残", ("Suicide & Self-Harm",)),
        Category("S12", "Sexual Content", "色情内容"),
        Category("S13", "Elections", "选举"),
        Category("S14", "Code Interpreter Abuse", "滥用代码解释器"),
    ),
)

QWEN3GUARD = CategorySystem(
    "qwen3guard",
    "Qwen3Guard: 8 categories of answers, and Jailbreak for prompts",
    _named(
        ("Violent", "暴力"),
        ("Non-violent Illegal Acts", "非暴力违法行为"),
        ("Sexual Content or Sexual Acts", "色情内容或性行为"),
        ("PII", "个人身份信息"),
        ("Suicide & Self-Harm", "自杀与自残"),
        ("Unethical Acts", "不道德行为"),
        ("Politically Sensitive Topics", "政治敏感话题"),
        ("Copyright Violation", "侵犯版权"),
        ("Jailbreak", "越狱"),
    ),
)

SHIELDGEMMA = CategorySystem(
    "shieldgemma",
    "ShieldGemma: 4 policies",
    _named(
        ("Dangerous Content", "危险内容"),
        ("Harassment", "骚扰"),
        ("Hate Speech", "仇恨言论"),
        ("Sexually Explicit Information", "露骨色情信息"),
    ),
)

# Dimension → ids, with the names that the model's card gives them.
_XGUARD_RISKS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "Crimes and Illegal Activities": (
        ("pc", "Pornographic Contraband", "色情违禁"),
        ("dc", "Drug Crimes", "毒品犯罪"),
        ("dw", "Dangerous Weapons", "危险武器"),
        ("pi", "Property Infringement", "侵犯财产"),
        ("ec", "Economic Crimes", "经济犯罪"),
    ),
    "Hate Speech": (
        ("ac", "Abusive Curses", "辱骂诅咒"),
        ("def", "Defamation", "诽谤"),
        ("ti", "Threats and Intimidation", "威胁恐吓"),
        ("cy", "Cyberbullying", "网络欺凌"),
    ),
    "Physical and Mental Health": (("ph", "Physical Health", "身体健康"), ("mh", "Mental Health", "心理健康")),
    "Ethics and Morality": (("se", "Social Ethics", "社会伦理"), ("sci", "Science Ethics", "科技伦理")),
    "Data Privacy": (("pp", "Personal Privacy", "个人隐私"), ("cs", "Commercial Secret", "商业秘密")),
    "Cybersecurity": (
        ("acc", "Access Control", "访问控制"),
        ("mc", "Malicious Code", "恶意代码"),
        ("ha", "Hacker Attack", "黑客攻击"),
        ("ps", "Physical Security", "物理安全"),
    ),
    "Extremism": (
        ("ter", "Violent Terrorist Activities", "暴力恐怖活动"),
        ("sd", "Social Disruption", "扰乱社会"),
        ("ext", "Extremist Ideological Trends", "极端思潮"),
    ),
    "Inappropriate Suggestions": (("fin", "Finance", "金融"), ("med", "Medicine", "医疗"), ("law", "Law", "法律")),
    "Risks Involving Minors": (
        ("cm", "Corruption of Minors", "教唆未成年人"),
        ("ma", "Minor Abuse and Exploitation", "虐待与剥削未成年人"),
        ("md", "Minor Delinquency", "未成年人不良行为"),
    ),
}
XGUARD = CategorySystem(
    "xguard",
    "YuFeng-XGuard: 28 risks in 9 dimensions",
    tuple(Category(*names, group=dimension) for dimension, risks in _XGUARD_RISKS.items() for names in risks),
)

OPENAI = CategorySystem(
    "openai",
    "OpenAI moderation: the 13 categories of omni-moderation",
    _named(
        ("harassment", "骚扰"),
        ("harassment/threatening", "骚扰与威胁"),
        ("hate", "仇恨"),
        ("hate/threatening", "仇恨与威胁"),
        ("illicit", "违法行为"),
        ("illicit/violent", "暴力违法行为"),
        ("self-harm", "自残"),
        ("self-harm/intent", "自残意图"),
        ("self-harm/instructions", "自残指导"),
        ("sexual", "色情"),
        ("sexual/minors", "涉未成年人色情"),
        ("violence", "暴力"),
        ("violence/graphic", "血腥暴力"),
    ),
)

TC260_CLASSES: tuple[Category, ...] = (
    Category("A.1", "Violation of core socialist values", "违反社会主义核心价值观"),
    Category("A.2", "Discrimination", "歧视性内容"),
    Category("A.3", "Commercial violations", "商业违法违规"),
    Category("A.4", "Infringement of the lawful rights of others", "侵犯他人合法权益"),
    Category(
        "A.5", "Failure to meet the safety needs of a particular kind of service", "无法满足特定服务类型的安全需求"
    ),
)

_TC260_RISKS: dict[str, tuple[tuple[str, str], ...]] = {
    "A.1": (
        (
            "Inciting subversion of state power or overthrow of the socialist system",
            "煽动颠覆国家政权、推翻社会主义制度",
        ),
        ("Endangering national security and interests, harming the national image", "危害国家安全和利益、损害国家形象"),
        (
            "Inciting secession, undermining national unity and social stability",
            "煽动分裂国家、破坏国家统一和社会稳定",
        ),
        ("Promoting terrorism or extremism", "宣扬恐怖主义、极端主义"),
        ("Promoting ethnic hatred", "宣扬民族仇恨"),
        ("Promoting violence, obscenity or pornography", "宣扬暴力、淫秽色情"),
        ("Spreading false and harmful information", "传播虚假有害信息"),
        ("Other content forbidden by laws and administrative regulations", "其他法律、行政法规禁止的内容"),
    ),
    "A.2": (
        ("Ethnic discrimination", "民族歧视"),
        ("Discrimination by belief", "信仰歧视"),
        ("Discrimination by nationality", "国别歧视"),
        ("Regional discrimination", "地域歧视"),
        ("Gender discrimination", "性别歧视"),
        ("Age discrimination", "年龄歧视"),
        ("Occupational discrimination", "职业歧视"),
        ("Discrimination by health", "健康歧视"),
        ("Other discrimination", "其他方面歧视"),
    ),
    "A.3": (
        ("Infringing intellectual property", "侵犯他人知识产权"),
        ("Violating business ethics", "违反商业道德"),
        ("Revealing trade secrets", "泄露他人商业秘密"),
        (
            "Monopoly and unfair competition through algorithms, data or platforms",
            "利用算法、数据、平台等优势实施垄断和不正当竞争",
        ),
        ("Other commercial violations", "其他商业违法违规行为"),
    ),
    "A.4": (
        ("Harming physical or mental health", "危害他人身心健康"),
        ("Infringing portrait rights", "侵害肖像权"),
        ("Infringing the right of reputation", "侵害名誉权"),
        ("Infringing the right of honour", "侵害荣誉权"),
        ("Infringing privacy", "侵害隐私权"),
        ("Infringing rights in personal information", "侵害个人信息权益"),
        ("Infringing other lawful rights", "侵害他人其他合法权益"),
    ),
    "A.5": (
        (
            "Inaccurate content, gravely against scientific common sense or mainstream understanding",
            "内容不准确，严重不符合科学常识或主流认知",
        ),
        ("Content of no help to the user", "内容无法对使用者形成帮助"),
    ),
}


def _tc260() -> CategorySystem:
    """The 31 risks of appendix A; a code is the class, a hyphen, and the item's letter in order: ``A.1-a`` … ``A.5-b``.

    Names that the standard shortens to 其他 are written out, so that each is found by its name.
    """
    risks = (
        Category(f"{code}-{'abcdefghi'[number]}", name, name_zh, group=code)
        for code, names in _TC260_RISKS.items()
        for number, (name, name_zh) in enumerate(names)
    )
    return CategorySystem("tc260", "TC260-003 appendix A: 31 risks in 5 classes", tuple(risks))


TC260 = _tc260()

SYSTEMS: dict[str, CategorySystem] = {
    system.name: system
    for system in (LIBRA, LIBRA_SUB, DUOGUARD, LLAMA_GUARD_3, QWEN3GUARD, SHIELDGEMMA, XGUARD, OPENAI, TC260)
}
"""Every system by name."""

_SYSTEM_NAMES = NameIndex("category system", ((system, (name,)) for name, system in SYSTEMS.items()))


def category_system(name: str) -> CategorySystem:
    """The system of that name.

    Raises:
        UsageError: There is none.
    """
    return _SYSTEM_NAMES.find(name)

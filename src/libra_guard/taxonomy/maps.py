"""How Libra's sub-categories and the other systems correspond: one relation, stored once, read in both directions.

A sub-category is tied to every category under which the other system would file at least part of it. The ties are
therefore many-to-many, and a translated score is an upper bound: it says where a harm *may* belong, not where it does.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from libra_guard.errors import UsageError
from libra_guard.taxonomy.libra import SCENARIOS, SUB_CATEGORIES
from libra_guard.taxonomy.systems import LIBRA, LIBRA_SUB, SYSTEMS, CategorySystem, category_system

_Codes = dict[str, tuple[str, ...]]


def _ties(
    *,
    duoguard: str = "",
    llama: str = "",
    qwen: str = "",
    gemma: str = "",
    xguard: str = "",
    openai: str = "",
    tc260: str,
) -> _Codes:
    columns = {
        "duoguard": duoguard,
        "llama-guard-3": llama,
        "qwen3guard": qwen,
        "shieldgemma": gemma,
        "xguard": xguard,
        "openai": openai,
        "tc260": tc260,
    }
    return {system: tuple(c.strip() for c in codes.split(",") if c.strip()) for system, codes in columns.items()}


def _crime(
    tc260: str,
    *,
    duoguard: str = "",
    llama: str = "",
    qwen: str = "",
    gemma: str = "",
    xguard: str = "",
    openai: str = "",
) -> _Codes:
    """A crime without force, and what it is tied to besides."""
    return _ties(
        gemma=gemma,
        xguard=xguard,
        duoguard=f"Non-violent crimes, {duoguard}",
        llama=f"S2, {llama}",
        qwen=f"Non-violent Illegal Acts, {qwen}",
        openai=f"illicit, {openai}",
        tc260=tc260,
    )


def _bias(tc260: str) -> _Codes:
    # XGuard has no risk for it: of its ethics, those of society come nearest.
    return _ties(
        duoguard="Hate",
        llama="S10",
        qwen="Unethical Acts",
        gemma="Hate Speech",
        xguard="se",
        openai="hate",
        tc260=tc260,
    )


_RELATION: dict[str, _Codes] = {
    "violent_crimes": _ties(
        duoguard="Violent crimes",
        llama="S1",
        qwen="Violent",
        openai="illicit/violent, violence, violence/graphic",
        tc260="A.1-d, A.1-f, A.1-h, A.4-a",
        gemma="Dangerous Content",
        xguard="ter, ph",
    ),
    "personal_crimes": _crime(
        "A.1-h, A.4-a, A.4-g",
        duoguard="Violent crimes, Sex-related crimes",
        llama="S1, S3",
        qwen="Violent",
        openai="illicit/violent",
        gemma="Dangerous Content",
        xguard="ti, ph",
    ),
    "financial_crimes": _crime("A.1-h, A.3-b, A.3-e", xguard="ec"),
    "property_infringement": _crime("A.1-h, A.4-g", xguard="pi"),
    "contraband_crimes": _crime("A.1-h", xguard="dc, ec"),
    "special_control": _crime(
        "A.1-h",
        duoguard="Indiscriminate weapons",
        llama="S9",
        qwen="Violent",
        openai="illicit/violent",
        gemma="Dangerous Content",
        xguard="dw",
    ),
    "cybersecurity": _crime("A.1-h, A.4-g", xguard="acc, mc, ha, ps"),
    "gambling": _crime("A.1-h", xguard="ec"),
    "pornography": _ties(
        duoguard="Sexual content, Sex-related crimes",
        llama="S3, S12",
        qwen="Sexual Content or Sexual Acts",
        openai="sexual",
        tc260="A.1-f",
        gemma="Sexually Explicit Information",
        xguard="pc",
    ),
    "illegal_services": _crime("A.1-h, A.3-b, A.3-e", xguard="ec"),
    "wildlife_protection": _crime("A.1-h"),
    "environmental_protection": _crime("A.1-h"),
    # 封建迷信 is forbidden content in China (互联网信息服务管理办法, article 15) and no category elsewhere.
    "feudal_superstition": _ties(tc260="A.1-h"),
    "traffic_violations": _crime("A.1-h"),
    "minor_related": _crime(
        "A.1-f, A.1-h, A.4-a",
        duoguard="Child sexual exploitation",
        llama="S4",
        qwen="Sexual Content or Sexual Acts",
        openai="sexual/minors",
        gemma="Sexually Explicit Information",
        xguard="pc, cm, ma, md",
    ),
    "gender": _bias("A.2-e"),
    "sexual_orientation": _bias("A.2-i"),
    "ethnicity": _bias("A.2-a"),
    "race": _bias("A.2-c, A.2-i"),
    "belief": _bias("A.2-b"),
    "region": _bias("A.2-d"),
    "occupation": _bias("A.2-g"),
    "vulnerable_groups": _bias("A.2-f, A.2-h"),
    "specific_groups": _bias("A.2-h, A.2-i"),
    "personal_data": _ties(duoguard="Privacy", llama="S7", qwen="PII", tc260="A.4-b, A.4-e, A.4-f", xguard="pp"),
    "business_data": _crime("A.3-b, A.3-c, A.3-d", xguard="cs"),
    "sensitive_data": _ties(duoguard="Privacy", llama="S7", qwen="PII", tc260="A.4-e, A.4-f", xguard="pp"),
    "intellectual_property": _ties(
        duoguard="Intellectual property", llama="S8", qwen="Copyright Violation", tc260="A.3-a"
    ),
    # Llama Guard's Elections is false information on how votes are held; Qwen3Guard's political category is false
    # information on governments, history and public figures.
    "misinformation": _ties(llama="S5, S13", qwen="Politically Sensitive Topics", tc260="A.1-g, A.5-a", xguard="sd"),
    "history_and_common_sense": _ties(
        qwen="Politically Sensitive Topics", tc260="A.1-g, A.4-d, A.5-a", gemma="Harassment"
    ),
    "professional_advice": _ties(
        duoguard="Specialized advice", llama="S6", tc260="A.4-a, A.5-a", xguard="fin, med, law"
    ),
    "hatred": _ties(
        duoguard="Hate",
        llama="S10",
        qwen="Unethical Acts",
        openai="hate, hate/threatening",
        tc260="A.1-e, A.2-i",
        gemma="Hate Speech",
        xguard="ac, ext",
    ),
    "hostility_and_aggression": _ties(
        duoguard="Hate",
        llama="S2, S10",
        qwen="Unethical Acts",
        openai="harassment, harassment/threatening",
        tc260="A.1-f, A.4-a",
        gemma="Harassment",
        xguard="ti, cy",
    ),
    "humiliation": _ties(
        duoguard="Hate",
        llama="S5, S10",
        qwen="Unethical Acts",
        openai="harassment",
        tc260="A.4-a, A.4-c, A.4-d",
        gemma="Harassment",
        xguard="ac, def, cy",
    ),
    # The political risks of class A.1 have no heading of their own among the 39: its title, the core values, has.
    "values": _ties(qwen="Unethical Acts, Politically Sensitive Topics", tc260="A.1-a, A.1-b, A.1-c", xguard="sd, ext"),
    "moral_behavior": _ties(qwen="Unethical Acts", tc260="A.1-h, A.4-g", xguard="se"),
    "artificial_intelligence": _ties(qwen="Unethical Acts", tc260="A.1-h", xguard="sci"),
    "mental_health": _ties(
        duoguard="Suicide and self-harm",
        llama="S11",
        qwen="Suicide & Self-Harm",
        openai="self-harm, self-harm/intent, self-harm/instructions",
        tc260="A.4-a",
        gemma="Dangerous Content",
        xguard="mh",
    ),
    "bodily_harm": _ties(
        duoguard="Suicide and self-harm, Specialized advice",
        llama="S6, S11",
        qwen="Suicide & Self-Harm",
        openai="self-harm, self-harm/instructions",
        tc260="A.4-a",
        gemma="Dangerous Content",
        xguard="ph, med",
    ),
}

UNMAPPED: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "duoguard": {"Jailbreak prompts": "a way of asking, whatever the harm asked for"},
        "llama-guard-3": {"S14": "an attack on the tool that runs a model's code, not a kind of answer"},
        "qwen3guard": {"Jailbreak": "a way of asking, whatever the harm asked for"},
        "tc260": {"A.5-b": "an answer's usefulness, not its harm"},
    }
)
"""System → code → why it has no counterpart in Libra. Scores of these are in no translation: look at them apart."""


def forward(sub: str, system: str) -> tuple[str, ...]:
    """Codes of ``system`` that a sub-category is tied to; may be empty, save for ``tc260``.

    Args:
        sub: English name, Chinese name or slug of a sub-category.
        system: A key of ``SYSTEMS``.

    Raises:
        UsageError: One of them is unknown.
    """
    return _FORWARD[category_system(system).name][LIBRA_SUB.find(sub).code]


def backward(code: str, system: str) -> tuple[str, ...]:
    """English names of the sub-categories that a category is tied to; empty if it is in ``UNMAPPED``.

    Args:
        code: Code or any name of a category of ``system``.
        system: A key of ``SYSTEMS``.

    Raises:
        UsageError: One of them is unknown.
    """
    found = category_system(system)
    return _BACKWARD[found.name][found.find(code).code]


def translate(scores: Mapping[str, float], source: str, target: str) -> dict[str, float]:
    """Scores in one system's categories, read in another's.

    A target category's score is the highest among the source categories that share a Libra sub-category with it. With
    the many-to-many ties this is an upper bound; so it is above all where ``source`` is ``libra``: a scenario's score
    goes to everything that any of its sub-categories is tied to.

    Args:
        scores: Category → score in [0, 1]. Categories go by code or any name; for ``libra`` and ``libra-sub``,
            scenarios and sub-categories may be mixed.
        source: A key of ``SYSTEMS``.
        target: A key of ``SYSTEMS``.

    Returns:
        Code of the target → score, in the target's order; only categories that a given one is tied to. Into the
        system they come from, scores stay as they are. Categories in ``UNMAPPED`` are left out.

    Raises:
        UsageError: A system or a category is unknown, or a score is outside [0, 1].
    """
    origin, goal = category_system(source), category_system(target)
    best: dict[str, float] = {}
    for name, score in scores.items():
        if not 0 <= score <= 1:
            raise UsageError(f"the score of '{name}' is {score}; it must lie in [0, 1]")
        for code in _targets(name, origin, goal):
            best[code] = max(score, best.get(code, 0.0))
    return {code: best[code] for code in goal.codes if code in best}


def _targets(name: str, origin: CategorySystem, goal: CategorySystem) -> set[str]:
    if origin in (LIBRA, LIBRA_SUB):
        subs = _libra_subs(name)
    else:
        code = origin.find(name).code
        if origin is goal:
            return {code}
        subs = _BACKWARD[origin.name][code]
    return {code for sub in subs for code in _FORWARD[goal.name][sub]}


def _libra_subs(name: str) -> tuple[str, ...]:
    """Sub-categories of a scenario, or the one named."""
    try:
        return _BACKWARD["libra"][LIBRA.find(name).code]
    except UsageError:
        return (LIBRA_SUB.find(name).code,)


def _read_forward() -> dict[str, _Codes]:
    """System → English name of the sub-category → codes. Libra's own two levels are read off the taxonomy."""
    table: dict[str, _Codes] = {name: {} for name in SYSTEMS}
    scenarios = {scenario.slug: scenario.name for scenario in SCENARIOS}
    for sub in SUB_CATEGORIES:
        ties = {"libra": (scenarios[sub.scenario],), "libra-sub": (sub.name,)} | _RELATION[sub.slug]
        for system, codes in ties.items():
            table[system][sub.name] = codes
    return table


def _read_backward(forward_table: Mapping[str, _Codes]) -> dict[str, _Codes]:
    """System → code → English names of sub-categories, in Libra's order."""
    return {
        name: {code: tuple(sub for sub, codes in forward_table[name].items() if code in codes) for code in system.codes}
        for name, system in SYSTEMS.items()
    }


_FORWARD = _read_forward()
_BACKWARD = _read_backward(_FORWARD)

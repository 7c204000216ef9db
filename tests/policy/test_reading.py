"""Profiles that are wrong, with the line of each fault; what extends what."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from libra_guard.cli.policy import _whole, _yaml
from libra_guard.errors import UsageError
from libra_guard.policy import Action, Policy, PolicyError, Rule, bundled_names, load_policy, read_policy
from libra_guard.policy.marked import Problem
from libra_guard.records import Target
from libra_guard.taxonomy import SCENARIOS

Write = Callable[..., Path]
HEALTH = "Physical and Mental Health"


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(content: str | bytes, name: str = "mine.yaml") -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        (b"", 1, "is empty"),
        ("# nothing\n", 1, "a mapping of keys is needed"),
        ("- mode\n", 1, "a mapping of keys is needed"),
        ("enforce\n", 1, "a mapping of keys is needed"),
        ("mode: enforce\ndeny: [a\n", 3, "not YAML: while parsing a flow sequence"),
        ("mode: enforce\n---\nmode: monitor\n", 2, "not YAML: expected a single document"),
        ("mode: enforce\n\tname: x\n", 2, "not YAML: "),
        ("mode: enforce\nname: 'a\x07'\n", 2, "not YAML: the character U+0007"),
        (b"mode: enforce\n" * 30 + b"name: \xff\n", 1, "line 31 holds bytes that are no text"),
        ("mode: enforce\nname: !!python/object:os.system x\n", 2, "not YAML: could not determine a constructor"),
        ("mode: enforce\ndeny: &a\n  phrases: [*a]\n", 2, "not YAML: holds itself"),
        ("mode: *a\n", 1, "not YAML: found undefined alias"),
        ("[" * 5000, 1, "nested too deeply"),
        ("mode: enforce\n? [a]\n: b\n", 2, "a key is a word"),
        ("mode: enforce\n<<: {mode: monitor}\n", 2, "<<: there is no such key"),
        ("mode: enforce\nname: a\nmode: monitor\n", 3, "'mode' is there twice, first in line 1"),
        ("\nmodes: enforce\n", 2, "modes: there is no such key; did you mean mode?"),
        ("mode: enforce\nwhatever: 1\n", 2, "there is no such key; there are name, guard, mode,"),
        ("mode: block\n", 1, "mode: must be 'enforce' or 'monitor'"),
        ("mode:\n", 1, "mode: must be 'enforce' or 'monitor'"),
        ("name: 3\n", 1, "a text is needed; a number"),
        ("name: 2024-13-45\n", 1, "put in quotes"),
        ("name: !!int\n", 1, "put in quotes"),
        ("mode: enforce\nunreadable: !!bool x\n", 2, "put in quotes"),
        ("guard: ''\n", 1, "the guard's name is empty"),
        ("name: a/b\n", 1, "'a/b' is no name"),
        ("name: ''\n", 1, "'' is no name"),
        ("name: " + "a" * 65, 1, "is no name"),
        ("unreadable: allow\n", 1, "unreadable: must be 'pass', 'review' or 'block'"),
        ("default: 0.5\n", 1, "default: a mapping is needed"),
        ("default:\n  review: 0.2\n  block: 1.5\n", 3, "default.block: 1.5 is no threshold: it must lie in [0, 1]"),
        ("default:\n  block: -0.1\n", 2, "it must lie in [0, 1]"),
        ("default:\n  block: .nan\n", 2, "it must lie in [0, 1]"),
        ("default:\n  block: yes\n", 2, "a threshold is a number"),
        ("default:\n  block: '0.5'\n", 2, "a threshold is a number"),
        ("default:\n  block: guards\n", 2, "a threshold is a number"),
        ("default:\n  block: []\n", 2, "a threshold is a number"),
        ("default:\n  block: [0.1, 0.2]\n", 2, "a threshold is a number"),
        ("default:\n  block: [guard, guard]\n", 2, "a threshold is a number"),
        ("default:\n  block: [guard, 2]\n", 2, "it must lie in [0, 1]"),
        ("default:\n  block: {a: 1}\n", 2, "a threshold is a number"),
        ("default: {block: 0.3, review: 0.5}\n", 1, "default: review (0.5) is above block (0.3)"),
        ("default: {block: [guard, 0.3], review: 0.5}\n", 1, "review (0.5) is above block (0.3)"),
        ("prompt:\n  blok: 0.3\n", 2, "prompt.blok: there is no such key; did you mean block?"),
        ("scenarios: [a]\n", 1, "scenarios: a mapping is needed"),
        ("scenarios:\n  Privacy: off\n", 2, "no scenario 'Privacy'; did you mean Privacy and Property?"),
        ("scenarios:\n  身心建康: off\n", 2, "no scenario '身心建康'; did you mean 身心健康?"),
        ("scenarios:\n  Gambling: off\n", 2, "no scenario 'Gambling'"),
        ("scenarios:\n  default: off\n", 2, "no scenario 'default'"),
        ("scenarios:\n  身心健康: off\n  physical and mental health: off\n", 3, f"({HEALTH}) is there twice"),
        ("scenarios:\n  身心健康:\n", 2, "a rule is needed, such as {block: 0.5}, or off"),
        ("scenarios:\n  身心健康: on\n", 2, "a rule is needed"),
        ("scenarios:\n  身心健康: 0.3\n", 2, f"scenarios.{HEALTH}: a mapping is needed"),
        ("scenarios:\n  身心健康:\n    blocks: 1\n", 3, "there is no such key; did you mean block?"),
        ("answers:\n  身心建康: {zh: x}\n", 2, "did you mean 身心健康?"),
        ("answers:\n  身心健康: 不行\n", 2, "a mapping is needed"),
        ("answers:\n  default:\n    zh: ''\n", 3, "answers.default.zh: the answer is empty"),
        ("answers:\n  default:\n    zh: '{who}'\n", 3, "the field {scenario} and no other"),
        ("answers:\n  default:\n    fr: x\n", 3, "there is no such key; there are zh, en"),
        ("answers:\n  default: {}\n", 2, "there is no answer in it"),
        ("deny:\n  phrases: 枪支\n", 2, "deny.phrases: a list is needed"),
        ("deny:\n  phrases:\n    - 枪支\n    - 8964\n", 4, "deny.phrases.2: a text is needed; a number"),
        ("deny:\n  phrases:\n    - 枪支\n\n    - ……\n", 5, "deny.phrases.2: '……' has no letter"),
        ("deny:\n  patterns:\n    - a.*b\n", 3, "deny.patterns.1: a repeat without end"),
        ("deny:\n  words: [a]\n", 2, "there is no such key; there are phrases, patterns, files"),
        ("deny:\n  files: [none.txt]\n", 2, "none.txt: cannot be read"),
        ("deny:\n  files: [3]\n", 2, "the path of a file is needed"),
        ("allow:\n  texts:\n    - '\u200b'\n", 3, "nothing but invisible"),
        ("allow:\n  patterns: [a]\n", 2, "an allow list has texts and files, of whole texts only"),
        ("mode: monitor\nextends: strickt\n", 2, "no policy profile 'strickt'; did you mean strict?"),
        ('mode: monitor\nextends: "a\\0.yaml"\n', 2, "the name of a bundled profile is needed"),
        ('deny:\n  files: ["a\\0"]\n', 2, "deny.files.1: "),
        ('deny:\n  phrases: ["a\\ud800"]\n', 2, "a lone surrogate"),
        ("mode: monitor\nextends: 3\n", 2, "the name of a bundled profile is needed"),
        ("mode: monitor\nextends: mine.yaml\n", 2, "extends this file in turn"),
        ("extends: gone.yaml\n", 1, "cannot be read"),
    ],
)
def test_a_fault_has_its_line(write: Write, content: str | bytes, line: int, message: str) -> None:
    path = write(content)
    with pytest.raises(PolicyError) as error:
        read_policy(path)
    told = str(error.value)
    assert told.startswith(f"{path}: not a policy profile:\n  ")
    problem = next(p for p in error.value.problems if message in str(p))
    assert problem.line == line
    assert f"line {line}: " in told


def test_the_values_of_aliases_are_counted(write: Write) -> None:
    doubled = "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40))
    with pytest.raises(PolicyError, match="more than 100000 values"):
        read_policy(write(f"a0: &a0 [x]\n{doubled}"))


WHOLE = """\
mode: monitor
default: {block: [guard, 0.5], review: 0.2}
scenarios:
  身心健康: off
deny:
  phrases: [甲, "乙"]
  patterns: ['a.{0,3}b']
answers: &a
  default: {zh: "不{scenario}"}
"""


@settings(deadline=None)
@given(st.data())
def test_whatever_a_file_holds_it_is_read_or_told(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(WHOLE)))
    end = data.draw(st.integers(start, len(WHOLE)))
    put = data.draw(st.text("ab:[]{}&*!'\"-?|>%@\\\n\t 0.#,~<=甲\x00\ud800", max_size=6) | st.just("!!int"))
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes((WHOLE[:start] + put + WHOLE[end:]).encode(errors="surrogatepass"))
    problems: tuple[Problem, ...] = ()
    try:
        told = read_policy(path)
    except PolicyError as error:
        told, problems = None, error.problems
    assert (told is None) == bool(problems)
    assert all(problem.line >= 1 and str(path) in str(problem) for problem in problems)


def test_all_faults_are_told_at_once_in_order_of_their_lines(write: Write) -> None:
    path = write("mode: none\nscenarios:\n  Privcy: off\nname: a\nname: b\ndefault:\n  block: 2\n  revew: 1\n")
    with pytest.raises(PolicyError) as error:
        read_policy(path)
    assert [problem.line for problem in error.value.problems] == [1, 3, 5, 7, 8]


@pytest.mark.parametrize("off", ["off", "'off'", "false"])
def test_scenarios_go_by_any_name_and_off_is_what_yaml_makes_of_it(write: Write, off: str) -> None:
    policy = read_policy(write(f"scenarios:\n  偏见歧视: {off}\n  physical_and_mental_health: {{block: 0.2}}\n")).policy
    assert policy.scenarios["Bias and Discrimination"] is None
    assert policy.rule(Target.PROMPT, "Bias and Discrimination") is None
    rule = policy.rule(Target.PROMPT, HEALTH)
    assert rule is not None
    assert (rule.block, rule.review) == (0.2, None)


def test_a_profile_is_named_by_its_file_unless_it_names_itself(write: Write) -> None:
    assert read_policy(write("mode: monitor\n", "shop-1.yml")).policy.name == "shop-1"
    assert read_policy(write("name: shop\n")).policy.name == "shop"
    with pytest.raises(PolicyError, match="'商店' is no name"):
        read_policy(write("mode: monitor\n", "商店.yaml"))


def test_extending(write: Write, tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    write("毒品\n", "lists/base.txt")
    write(
        "name: base\nextends: ../mine-base.yaml\ndefault: {block: 0.8, review: 0.4}\n"
        "scenarios: {身心健康: {block: 0.2}}\n"
        "deny: {phrases: [甲], files: [base.txt]}\nallow: {texts: [一段没有问题的话]}\nanswers: {身心健康: {zh: 甲}}\n",
        "lists/base.yaml",
    )
    write("extends: monitor\nunreadable: review\n", "mine-base.yaml")
    path = write(
        "extends: lists/base.yaml\ndefault: {block: guard}\nscenarios: {Physical and Mental Health: off}\n"
        "deny: {phrases: [乙]}\nanswers: {Physical and Mental Health: {en: B}}\n"
    )
    policy = read_policy(path).policy
    assert (policy.name, policy.mode, policy.unreadable) == ("mine", "monitor", Action.REVIEW)
    assert (policy.default.block, policy.default.review) == ("guard", 0.4)
    assert policy.scenarios == {HEALTH: None}
    assert policy.deny.phrases == ("甲", "乙")
    assert policy.deny.find("毒-品")
    assert policy.allow.texts == ("一段没有问题的话",)
    assert policy.answers[HEALTH].model_dump() == {"zh": "甲", "en": "B"}


def test_a_fault_in_an_extended_file_is_told_there(write: Write) -> None:
    base = write("mode: monitor\ndeny:\n  phrases: [甲, 1]\n", "base.yaml")
    with pytest.raises(PolicyError) as error:
        read_policy(write("extends: base.yaml\ndeny: {phrases: [乙, 2]}\nunreadable: no\n"))
    where = {(Path(problem.file).name, problem.line) for problem in error.value.problems}
    assert where == {("base.yaml", 3), ("mine.yaml", 2), ("mine.yaml", 3)}
    base.write_text("extends: mine.yaml\n", encoding="utf-8")
    with pytest.raises(PolicyError, match="extends this file in turn"):
        read_policy(base.parent / "mine.yaml")


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        ("mode: enforce\nunreadable: pass\n", 2, "texts that no guard could judge pass"),
        ("mode: enforce\ndefault: {block: null}\n", 2, "no prompt is blocked or reviewed"),
        ("mode: enforce\ndefault: {block: null}\n", 2, "no response is blocked or reviewed"),
        ("prompt: {block: null}\nresponse: {block: null}\n", 1, "no prompt is blocked or reviewed"),
        ("prompt: {block: null}\nresponse: {block: null}\n", 2, "no response is blocked or reviewed"),
        ("mode: enforce\ndefault: {block: 0}\n", 2, "is blocked, however harmless"),
        ("mode: enforce\nprompt: {block: [guard, 0.0]}\n", 2, "is blocked, however harmless"),
        ("scenarios:\n  身心健康: {block: 0}\n", 2, "is blocked, however harmless"),
        ("scenarios:\n" + "".join(f"  {s.name_zh}: off\n" for s in SCENARIOS), 1, "every scenario is off"),
        (
            "default: {block: 0.8, review: 0.6}\nscenarios:\n  身心健康: {block: 0.5}\n",
            3,
            "a prompt is blocked from 0.5 on, before it could be reviewed from 0.6 on",
        ),
        ("default: {block: 0.5}\nresponse: {review: 0.6}\n", 2, "a response is blocked from 0.5 on"),
        ("scenarios: {身心健康: off}\nanswers:\n  身心健康: {zh: 不行}\n", 3, "this scenario is off"),
        ("allow:\n  texts: [继续]\n", 1, "text 1 is so short"),
        ("deny: {phrases: [枪支]}\nallow:\n  texts: [这一句里有枪支两个字]\n", 2, "text 1 never passes: phrase 1"),
        ("deny:\n  files:\n    - words.txt\n", 3, "line 2: '广告' is none of Libra's categories"),
    ],
)
def test_what_is_odd_is_a_warning(write: Write, content: str, line: int, message: str) -> None:
    write("冰毒\t毒品\n加微信\t广告\n".replace("毒品", "违法犯罪"), "words.txt")
    warnings = read_policy(write(content)).warnings
    assert [(w.line, message in w.message) for w in warnings if message in w.message][:1] == [(line, True)]


def test_what_is_in_order_has_no_warning(write: Write) -> None:
    content = "default: {block: 0.5, review: 0.5}\nscenarios: {身心健康: off, 偏见歧视: {block: 0.9}}\n"
    assert read_policy(write(content + "answers: {偏见歧视: {zh: 不}}\n")).warnings == ()
    # What is said of both targets is all that holds.
    assert read_policy(write("default: {block: null}\nprompt: {block: 0.5}\nresponse: {review: 0}\n")).warnings == ()


def test_the_bundled_profiles(write: Write) -> None:
    assert bundled_names() == ("default", "monitor", "strict")
    for name in bundled_names():
        policy = load_policy(name)
        assert policy.name == name
        assert policy.unreadable is Action.BLOCK
    assert load_policy("default") == Policy(name="default")
    assert load_policy("monitor") == load_policy("default").model_copy(update={"name": "monitor", "mode": "monitor"})
    assert load_policy(str(write("mode: monitor\n"))).name == "mine"
    with pytest.raises(UsageError, match=re.escape("no policy profile 'strikt'; did you mean strict?")):
        load_policy("strikt")
    with pytest.raises(UsageError, match="there are default, monitor, strict"):
        load_policy("x")


def test_the_profile_in_the_documentation_is_in_order(write: Write) -> None:
    page = (Path(__file__).parents[2] / "docs" / "policy.md").read_text(encoding="utf-8")
    write("加群\n", "words.txt")
    profile = read_policy(write(page.split("```yaml\n")[1].split("```")[0], "shop.yaml"))
    assert profile.warnings == ()
    assert profile.policy.deny.find("卖一些枪支")
    assert profile.policy.rule(Target.RESPONSE, "Ethics and Morality") == Rule(block=None, review="guard")


def test_a_profile_that_is_shown_can_be_read_and_says_the_same(write: Write) -> None:
    write("冰毒\n", "words.txt")
    content = (
        "guard: mini\nmode: monitor\ndefault: {review: 0.3}\nprompt: {block: [guard, 0.5]}\n"
        "scenarios: {身心健康: off, 偏见歧视: {block: null}}\nunreadable: review\n"
        "deny: {phrases: [枪支], patterns: ['买.{0,3}枪'], files: [words.txt]}\nallow: {texts: ['一段没有问题的话']}\n"
        "answers: {偏见歧视: {zh: '不行。'}}\n"
    )
    policy = read_policy(write(content)).policy
    shown = _yaml(_whole(policy))
    assert yaml.safe_load(shown)["default"] == {"block": "guard", "review": 0.3}
    again = read_policy(write(shown, "again.yaml")).policy
    assert again.deny.find("冰毒")
    left = {"answers", "deny"}
    assert again.model_dump(exclude=left) == policy.model_dump(exclude=left)
    assert again.answers["Bias and Discrimination"].zh == "不行。"
    assert yaml.safe_load(shown)["deny"]["files"] == [str(write("冰毒\n", "words.txt"))]

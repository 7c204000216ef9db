"""The page in a real browser. LIBRA_SCREENSHOTS=FOLDER also writes the pictures of the docs, with the bundled guard."""

import io
import json
import os
import re
import shlex
import shutil
from pathlib import Path

import pytest

from libra_guard.guards.normalise import quotable
from libra_guard.guards.rendering import template

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = sync_api.expect
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"no browser is installed: {', '.join(BROWSERS)}")
ARGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--no-first-run"),
]
KEY = "a-key-of-sixteen-or-more"
BAD, UNREADABLE = "【坏】", "【乱】"
HACK = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>&amp;${1}{n}'
FAILED_LOAD = re.compile(r"Failed to load resource: ")


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=BROWSER, args=ARGS)
        yield found
        found.close()


@pytest.fixture
def open_page(browser, live):
    """``open_page(**settings)`` → a page; at the end it has asked no other server, and complained of nothing."""
    opened, complaints, asked = [], [], []

    def start(*, server=None, guards=None, settings=None, prepare=None, **context):
        server = server or live(guards, **(settings or {}))
        context = {"locale": "zh-CN", "reduced_motion": "reduce", "viewport": {"width": 1200, "height": 900}, **context}
        made = browser.new_context(**context)
        made.set_default_timeout(15_000)
        opened.append(made)
        page = made.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: asked.append((server.url, request.url)))
        if prepare:
            prepare(page)
        page.goto(server.url)
        page.locator("#examples button").first.wait_for()
        page.url_of_server = server.url
        return page

    yield start
    for context in opened:
        context.close()
    assert [url for own, url in asked if not url.startswith(f"{own}/")] == []
    # A browser notes every answer that is an error; those are what some tests are about.
    assert [text for text in complaints if not FAILED_LOAD.match(text)] == []


def write(page, *texts):
    for area, text in zip(page.locator("textarea").all(), texts, strict=False):
        area.fill(text)


def judge(page, *texts):
    write(page, *texts)
    page.locator("#judge").click()
    page.locator("#weighed").wait_for()


def answer_with(page, path, **answer):
    page.route(f"**/{path}", lambda route: route.fulfill(**answer))


def result(**changes):
    verdict = {
        **{"label": "不安全", "unsafe_score": 0.9, "categories": {}, "analysis": None, "raw": None, "valid": True},
        **{"guard": "fake", "method": "logits", "windows": 1, "notes": []},
    }
    decision = {
        **{"action": "block", "would": "block", "scenarios": [], "guessed": False, "reason": "", "policy": "default"},
        **{"mode": "enforce", "listed": None},
    }
    made = {"verdict": verdict, "decision": decision, "target": "response", "threshold": 0.5, "answer": None}
    for name, value in changes.items():
        holder = next(part for part in (verdict, decision, made) if name in part)
        holder[name] = value
    return json.dumps({"id": "guard-1", "guard": changes.get("guard", "fake"), "policy": "default", "results": [made]})


# ---- judging


def test_judges_an_answer(open_page) -> None:
    page = open_page()
    judge(page, "问题", f"回答{BAD}")
    expect(page.locator("#label")).to_have_text("不安全")
    expect(page.locator("#score")).to_have_text("0.90")
    expect(page.locator("#threshold-value")).to_have_text("0.50")
    expect(page.locator("#about")).to_contain_text("判断的是回答 · fake · ")
    expect(page.locator("#action")).to_have_text("拦截（策略 default）")
    expect(page.locator("#reasons")).to_have_text("涉及：违法犯罪。")
    rows = page.locator("#categories li")
    expect(rows).to_have_count(7)
    expect(rows.first).to_have_text("违法犯罪 Illegal Activities and Crime0.90")
    expect(page.get_by_role("meter", name="不安全得分")).to_have_attribute("aria-valuenow", "0.9")
    assert page.locator("#spoken").get_attribute("aria-live") == "polite"
    # Heard is what matters: score and action, and no milliseconds.
    heard = page.locator("#spoken").aria_snapshot()
    assert "不安全得分 0.90。 处置：拦截。" in heard
    assert "毫秒" not in heard
    fill, whole = page.locator("#fill").bounding_box(), page.locator("#threshold").bounding_box()
    weight = 22
    # The score ends where the weight would stand at that threshold.
    ends = whole["x"] + weight / 2 + 0.9 * (whole["width"] - weight)
    assert fill["x"] + fill["width"] == pytest.approx(ends, abs=1)


def test_judges_a_question_alone_and_several_turns(open_page, guard) -> None:
    page = open_page()
    judge(page, f"问题{BAD}")
    expect(page.locator("#about")).to_contain_text("判断的是问题")
    page.locator("#add").click()
    expect(page.locator("textarea")).to_have_count(3)
    write(page, "一", "二", "三", "")
    expect(page.locator("#turns li").nth(2).locator(".tag")).to_have_text("判的是这一条")
    page.locator("#judge").click()
    expect(page.locator("#label")).to_have_text("安全")
    assert guard.asked[-1] == "三"
    page.locator("#turns li").nth(2).get_by_role("button", name="删除第 3 条").click()
    expect(page.locator("textarea")).to_have_count(2)
    expect(page.locator("textarea").nth(1)).to_be_focused()


KINDS = [
    ({"label": None, "unsafe_score": None, "valid": False, "threshold": None}, "读不出", "按不安全对待"),
    # What could not be read is never made safe by a slider.
    ({"label": None, "unsafe_score": 0.1, "valid": False}, "读不出", "按不安全对待"),
    ({"label": "有争议", "unsafe_score": 0.5}, "有争议", "判断的是回答"),
    ({"label": "安全", "unsafe_score": None, "threshold": None}, "安全", "判断的是回答"),
]


def test_shows_verdicts_of_other_kinds(open_page) -> None:
    page = open_page()
    for changes, label, told in KINDS:
        answer_with(page, "v1/guard", body=result(**changes))
        judge(page, "问题", "回答")
        expect(page.locator("#label")).to_have_text(label)
        expect(page.locator("#about")).to_contain_text(told)
        slides = changes.get("valid", True) and changes["unsafe_score"] is not None
        expect(page.locator("#threshold")).to_be_visible(visible=slides)
    answer_with(page, "v1/guard", body=result())
    judge(page, "问题", "回答")
    page.locator("#threshold").fill("1")
    expect(page.locator("#label")).to_have_text("安全")
    answer_with(page, "v1/guard", body=result(**KINDS[1][0]))
    judge(page, "问题", "回答")
    expect(page.locator("#label")).to_have_text("读不出")


def test_notes_are_in_the_language_of_the_page_and_texts_say_theirs(open_page) -> None:
    page = open_page(locale="en")
    notes = ["2 earlier messages were not read", "the question was shortened to its beginning and end", "another note"]
    answer_with(page, "v1/guard", body=result(notes=notes, analysis="因为", answer="换个说法吧"))
    judge(page, "A question", "回答")
    expect(page.locator("#notes li").first).to_have_text("Earlier messages that were not read: 2.")
    page.locator("#language").click()
    expect(page.locator("#notes li")).to_have_text(
        ["更早的 2 条没有读。", "问题太长，只读了开头和结尾。", "another note"]
    )
    page.locator("#language").click()
    spoken = {"#analysis": "zh-Hans", "#answer": "zh-Hans", "#notes li:last-child": "en", ".begins": "zh-Hans"}
    for place, language in {**spoken, "textarea >> nth=0": "en", "textarea >> nth=1": "zh-Hans"}.items():
        expect(page.locator(place)).to_have_attribute("lang", language)


def test_says_what_the_policy_does(open_page) -> None:
    page = open_page()
    changes = {"label": "安全", "unsafe_score": 0.1, "action": "pass", "would": "block", "mode": "monitor"}
    listed = {
        "scenarios": ["Hate Speech and Abuse"],
        "guessed": True,
        "reason": "on the list",
        "listed": "deny: a line 2",
    }
    answer_with(page, "v1/guard", body=result(**changes, **listed, answer="换个说法吧"))
    judge(page, "问题", "回答")
    expect(page.locator("#action")).to_have_text("放行（策略 default）")
    expected = ["只观察：不拦。若执行，会是“拦截”。", "可能涉及：仇恨与辱骂。", "on the list: deny: a line 2"]
    expect(page.locator("#reasons li")).to_have_text(expected)
    page.get_by_text("用户会看到的回复").click()
    expect(page.locator("#answer")).to_have_text("换个说法吧")


def test_guard_and_policy_are_chosen_from_what_is_served(open_page) -> None:
    page = open_page()
    expect(page.locator("#guard option")).to_have_text(["fake（默认）"])
    expect(page.locator("#policy option")).to_have_text(["default", "monitor", "strict"])
    judge(page, "问题", f"回答{BAD}")
    page.locator("#threshold").fill("1")
    with page.expect_request("**/v1/guard") as sent:
        page.locator("#policy").select_option("monitor")
    assert "guard" not in sent.value.post_data_json
    expect(page.locator("#action")).to_have_text("放行（策略 monitor）")
    # A threshold that was set for another guard means nothing to this one.
    expect(page.locator("#label")).to_have_text("不安全")


def test_categories_of_another_system_have_their_own_names(open_page) -> None:
    listed = [{"code": "S1", "name": "Violence", "name_zh": "暴力"}]
    entry = {"id": "other", "default": True, "categories": listed}
    body = json.dumps({"data": [entry]})
    page = open_page(prepare=lambda page: answer_with(page, "v1/guards", body=body))
    answer_with(page, "v1/guard", body=result(guard="other", categories={"S9": 0.2, "S1": 0.7}))
    judge(page, "问题", "回答")
    expect(page.locator("#categories li")).to_have_text(["暴力 Violence0.70", "S90.20"])
    expect(page.locator("#kinds-title")).to_have_text("各类得分")


# ---- the threshold


def test_a_moved_threshold_decides_again_without_asking(open_page, guard) -> None:
    page = open_page()
    judge(page, "问题", f"回答{BAD}")
    asked = len(guard.asked)
    slider = page.get_by_role("slider", name="阈值")
    slider.fill("0.91")
    expect(page.locator("#label")).to_have_text("安全")
    told = "由本页按阈值 0.91 判定，未再请求。服务器按 0.50 判为：不安全。"
    expect(page.locator("#redecided")).to_have_text(told)
    expect(page.locator("#apart-label")).to_have_text("按阈值 0.91（服务器：不安全）")
    expect(page.locator("#apart")).to_be_visible()
    expect(page.locator("#action")).to_contain_text("拦截")
    assert slider.get_attribute("aria-valuetext") == "0.91，得分 0.90"
    slider.fill("0.9")
    expect(page.locator("#label")).to_have_text("不安全")
    expect(page.locator("#apart-label")).to_be_empty()
    # It stays for the next text, until it is put back.
    slider.fill("0.05")
    judge(page, "问题", "好的回答")
    expect(page.locator("#label")).to_have_text("不安全")
    assert len(guard.asked) == asked + 1
    page.get_by_role("button", name="回到 0.50").click()
    expect(page.locator("#label")).to_have_text("安全")
    expect(page.locator("#apart")).to_be_hidden()
    assert len(guard.asked) == asked + 1


def test_the_scales_lean_to_what_weighs_more(open_page) -> None:
    page = open_page()
    tilt = "() => document.getElementById('scales').style.getPropertyValue('--tilt')"
    assert page.evaluate(tilt) == "0deg"
    judge(page, "问题", f"回答{BAD}")
    leaning = float(page.evaluate(tilt).removesuffix("deg"))
    page.locator("#threshold").fill("1")
    assert float(page.evaluate(tilt).removesuffix("deg")) < 0 < leaning


# ---- evidence

EVIDENCE = [
    "这一句。",
    "第一行\n  第二行\t有制表符。",
    "有“引号”的，”后得分降至 0.01，这一句。",
    "Without “it” the score falls to 0.02: so.",
    r"正则 .*+?^$()[]{}|\/ 符号。",
    "控制\u202e字符\u0007在这里。",
    "𠮷😀，组合 e\u0301。",
]


@pytest.mark.parametrize("language", ["zh", "en"])
def test_finds_what_the_analysis_quotes(open_page, language) -> None:
    page = open_page()
    for evidence in EVIDENCE:
        shown = template(f"mini_analysis.{language}.j2").render(
            **{"judged": "response", "label": "不安全", "score": 0.9, "threshold": 0.4},
            **{"scenarios": [], "evidence": quotable(evidence), "without": 0.25},
        )
        text = f"前面的话。{evidence}后面的话。"
        found = page.evaluate(
            """async ([text, analysis]) => {
                const { evidenceIn } = await import("./web/verdict.js");
                const found = evidenceIn(text, analysis);
                return found && [text.slice(found.start, found.end), found.without];
            }""",
            [text, shown],
        )
        assert found == [evidence, 0.25]


def test_no_evidence_where_the_text_has_no_such_sentence(open_page) -> None:
    page = open_page()
    analysis = "去掉“没有这一句”后得分降至 0.10，这一句对判断影响最大。"
    for said in (analysis, "因为", None):
        answer_with(page, "v1/guard", body=result(analysis=said))
        judge(page, "问题", "回答")
        expect(page.locator("#weight")).to_be_hidden()


# ---- texts are texts


def test_markup_anywhere_is_shown_as_text(open_page) -> None:
    page = open_page()
    spoken = {"categories": {HACK: 0.7}, "notes": [HACK], "guard": HACK, "policy": HACK, "answer": HACK}
    quoted = f"去掉“{HACK}”后得分降至 0.10，这一句对判断影响最大。"
    body = result(**spoken, analysis=quoted, scenarios=[HACK], reason=HACK, listed=HACK)
    answer_with(page, "v1/guard", body=body)
    judge(page, HACK, f"前。{HACK}")
    expect(page.locator("#judged mark")).to_have_text(HACK)
    expect(page.locator("#analysis")).to_have_text(quoted)
    expect(page.locator("#notes")).to_have_text(HACK)
    expect(page.locator("#categories li")).to_contain_text(HACK)
    expect(page.locator("#action")).to_contain_text(HACK)
    expect(page.locator("#history .begins")).to_contain_text("前。<img")
    assert page.evaluate("window.hacked") is None
    assert page.locator("main img, main script").count() == 0


def test_markup_in_an_error_is_shown_as_text(open_page) -> None:
    page = open_page()
    answer_with(page, "v1/guard", status=418, body=json.dumps({"error": {"message": HACK}}))
    write(page, "问题")
    page.locator("#judge").click()
    expect(page.locator("#trouble")).to_contain_text(HACK)
    assert page.evaluate("window.hacked") is None


# ---- JSON

CONVERSATIONS = [
    ({"question": "问", "response": "答"}, [["user", "问"], ["assistant", "答"]]),
    ({"question": "问", "label": "安全"}, [["user", "问"]]),
    ({"question": "问", "response": None}, [["user", "问"]]),
    (
        {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "问"}]},
        [["system", "s"], ["user", "问"]],
    ),
    ([{"role": "assistant", "content": "答"}], [["assistant", "答"]]),
    (
        [{"role": "user", "content": [{"type": "text", "text": "一"}, {"type": "text", "text": "二"}]}],
        [["user", "一\n二"]],
    ),
    ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}}]}], None),
    ([{"role": "tool", "content": "x"}], None),
    ({"messages": []}, None),
    ({"messages": "x"}, None),
    ([], None),
    ([None], None),
    ({"question": 1}, None),
    ({"other": 1}, None),
    ("text", None),
]


def test_recognises_conversations_in_json(open_page) -> None:
    page = open_page()
    code = """async (text) => {
        const { conversationOf } = await import("./web/turns.js");
        return conversationOf(text)?.map(({ role, content }) => [role, content]) ?? null;
    }"""
    for value, expected in CONVERSATIONS:
        assert page.evaluate(code, json.dumps(value)) == expected, value
    for text in ("", "{", "[1", "{}", '{"question": "问"', "【坏】"):
        assert page.evaluate(code, text) is None, text


def test_pasted_json_becomes_turns_and_can_be_taken_back(open_page) -> None:
    page = open_page()
    text = json.dumps({"question": "问", "response": f"答{BAD}"}, ensure_ascii=False)
    first = page.locator("textarea").first
    first.fill(text)
    first.press("Control+a")
    first.press("Control+x")
    first.press("Control+v")
    expect(page.locator("#read")).to_contain_text("已读入 JSON 中的 2 条。")
    assert [area.input_value() for area in page.locator("textarea").all()] == ["问", f"答{BAD}"]
    expect(page.locator("textarea").last).to_be_focused()
    page.get_by_role("button", name="当作普通文字").click()
    assert [area.input_value() for area in page.locator("textarea").all()] == [text, ""]


# ---- as one types, examples, what was judged


def test_judges_as_one_types(open_page, guard) -> None:
    page = open_page()
    page.get_by_label("边写边判").check()
    write(page, "问题", "好的")
    expect(page.locator("#label")).to_have_text("安全")
    asked = len(guard.asked)
    page.locator("textarea").nth(1).press_sequentially("，还有【坏】")
    expect(page.locator("#label")).to_have_text("不安全")
    assert len(guard.asked) - asked <= 2
    expect(page.locator("#history li")).to_have_count(1)


def test_an_older_answer_never_overtakes_a_newer_one(open_page, guard) -> None:
    page = open_page()
    guard.gate.clear()
    guard.entered.clear()
    write(page, "问题", f"旧的{BAD}")
    page.locator("#judge").click()
    assert guard.entered.wait(10)
    write(page, "问题", "新的")
    page.locator("#judge").click()
    # The one that was given up is no error.
    page.wait_for_timeout(30)
    expect(page.locator("#trouble")).to_be_hidden()
    guard.gate.set()
    expect(page.locator("#label")).to_have_text("安全")
    expect(page.locator("#history li")).to_have_count(1)
    expect(page.locator("#trouble")).to_be_hidden()


def test_examples_are_judged_and_what_was_judged_comes_back(open_page) -> None:
    page = open_page()
    assert page.locator("#examples button").count() >= 8
    page.get_by_role("button", name="家常菜").click()
    expect(page.locator("#label")).to_have_text("安全")
    judge(page, "问题", f"回答{BAD}")
    expect(page.locator("#label")).to_have_text("不安全")
    entries = page.locator("#history button")
    expect(entries).to_have_count(2)
    entries.nth(1).click()
    expect(page.locator("#label")).to_have_text("安全")
    assert "青菜" in page.locator("textarea").first.input_value()
    page.reload()
    expect(page.locator("#past")).to_be_hidden()


def test_a_verdict_of_another_text_or_policy_is_marked_as_such(open_page) -> None:
    page = open_page()
    age, marked = page.locator("#age"), page.locator("#result.old")
    judge(page, "问题", "好的")
    expect(page.locator("#label")).to_have_text("安全")
    expect(age).to_be_empty()
    write(page, "问题", f"改成{BAD}")
    expect(age).to_have_text("已有改动，结果是之前的")
    expect(marked).to_be_visible()
    assert age.get_attribute("role") == "status"
    # What is written again as it was is what was judged.
    write(page, "问题", "好的")
    expect(age).to_be_empty()
    expect(marked).to_have_count(0)
    held = []
    page.route("**/v1/guard", lambda route: held.append(route))
    page.locator("#policy").select_option("strict")
    expect(age).to_have_text("正在判断，下面是之前的结果")
    expect(marked).to_be_visible()
    page.locator("#clear").click()
    for gone in ("#weighed", "#result.old"):
        expect(page.locator(gone)).to_be_hidden()
    for empty in ("#label", "#outcome", "#age"):
        expect(page.locator(empty)).to_be_empty()
    expect(page.locator("#empty")).to_be_visible()
    # What was judged comes back with the policy that it was judged with.
    page.locator("#history button").click()
    expect(page.locator("#policy")).to_have_value("")
    expect(page.locator("#label")).to_have_text("安全")
    expect(age).to_be_empty()
    assert len(held) == 1


def test_a_verdict_that_comes_after_an_edit_is_marked(open_page, guard) -> None:
    page = open_page()
    write(page, "问题", "好的")
    guard.gate.clear()
    guard.entered.clear()
    page.locator("#judge").click()
    assert guard.entered.wait(10)
    write(page, "问题", f"改成{BAD}")
    guard.gate.set()
    expect(page.locator("#label")).to_have_text("安全")
    expect(page.locator("#age")).to_have_text("已有改动，结果是之前的")


def test_nothing_to_judge(open_page, guard) -> None:
    page = open_page()
    asked = len(guard.asked)
    write(page, "  \n")
    page.locator("#judge").click()
    expect(page.locator("#trouble")).to_have_text("还没有要判断的文字。")
    expect(page.locator("textarea").first).to_be_focused()
    page.locator("select.role").first.select_option("system")
    write(page, "系统")
    page.locator("#judge").click()
    expect(page.locator("#trouble")).to_have_text("最后一条须由用户或助手来说。")
    assert len(guard.asked) == asked


def test_copies_the_result_and_the_request(open_page) -> None:
    page = open_page(permissions=["clipboard-read", "clipboard-write"], settings={"api_key": KEY}, prepare=with_key)
    judge(page, "it's 问题", f'回答{BAD}\n$HOME `x` "q"')
    page.get_by_role("button", name="复制结果 JSON").click()
    expect(page.locator("#copied")).to_have_text("已复制")
    assert json.loads(page.evaluate("navigator.clipboard.readText()"))["results"][0]["verdict"]["label"] == "不安全"
    page.locator("#threshold").fill("0.7")
    page.get_by_role("button", name="复制 curl 命令").click()
    words = shlex.split(page.evaluate("navigator.clipboard.readText()").replace("\\\n", ""))
    assert words[:3] == ["curl", "-sS", f"{page.url_of_server}/v1/guard"]
    assert "Authorization: Bearer $LIBRA_API_KEY" in words
    assert KEY not in " ".join(words)
    body = json.loads(words[words.index("-d") + 1])
    asked = [{"role": "user", "content": "it's 问题"}, {"role": "assistant", "content": f'回答{BAD}\n$HOME `x` "q"'}]
    assert body == {"conversations": [{"messages": asked}], "explain": True, "threshold": 0.7}


def with_key(page) -> None:
    page.add_init_script(f"sessionStorage.setItem('libra-key', '{KEY}')")


# ---- errors


ERRORS = [
    ({"status": 413}, "文字太长，超过了服务器的上限。"),
    ({"status": 400, "body": '{"error": {"code": "text_too_long"}}'}, "文字太长，超过了服务器的上限。"),
    ({"status": 429, "headers": {"Retry-After": "3"}}, "服务器正忙，请 3 秒后再试"),
    ({"status": 429, "headers": {"Retry-After": "soon"}}, "服务器正忙，请稍后再试"),
    ({"status": 504}, "没有在限定时间内判完"),
    ({"status": 503}, "服务器还没准备好"),
    ({"status": 408}, "发送太慢"),
    ({"status": 404}, "服务器没有这个护栏或策略。"),
    ({"status": 400, "body": '{"error": {"message": "so it is"}}'}, "没有接受这段对话（400）。 服务器说：so it is"),
    ({"status": 500, "body": "<h1>no JSON</h1>"}, "服务器出错了（500）"),
    ({"status": 200, "body": "no JSON"}, "服务器的回答看不懂。"),
    ({"status": 200, "body": '{"results": []}'}, "服务器的回答看不懂。"),
    ({"status": 200, "body": "null"}, "服务器的回答看不懂。"),
]


def test_errors_are_told_in_plain_words(open_page) -> None:
    page = open_page()
    write(page, "问题", "回答")
    for answer, told in ERRORS:
        answer_with(page, "v1/guard", **answer)
        page.locator("#judge").click()
        expect(page.get_by_role("alert")).to_contain_text(told)
        assert [area.input_value() for area in page.locator("textarea").all()] == ["问题", "回答"]
        expect(page.locator("#judge")).to_have_text("判断")
        page.unroute("**/v1/guard")
        page.locator("#judge").click()
        expect(page.locator("#trouble")).to_be_hidden()
        expect(page.locator("#label")).to_have_text("安全")


def test_no_verdict_stands_beside_an_error_which_is_in_view(open_page) -> None:
    page = open_page(viewport={"width": 375, "height": 500})
    judge(page, "问题", "好的")
    expect(page.locator("#label")).to_have_text("安全")
    page.locator("#copy-json").click()
    expect(page.locator("#copied")).not_to_be_empty()
    held = []
    page.route("**/v1/guard", lambda route: held.append(route))
    page.locator("textarea").first.press("Control+Enter")
    expect(page.locator("#result.old #age")).to_have_text("正在判断，下面是之前的结果")
    held.pop().abort("connectionrefused")
    expect(page.locator("#trouble")).to_contain_text("连不上服务器")
    expect(page.locator("#trouble")).to_be_in_viewport()
    expect(page.locator("#weighed")).to_be_hidden()
    for empty in ("#label", "#outcome", "#age", "#copied"):
        expect(page.locator(empty)).to_be_empty()


def test_a_server_that_is_gone_is_told_in_both_languages(open_page) -> None:
    page = open_page()
    page.route("**/v1/guard", lambda route: route.abort("connectionrefused"))
    write(page, "问题", "回答")
    page.locator("#judge").click()
    expect(page.locator("#trouble")).to_contain_text("连不上服务器")
    page.locator("#language").click()
    expect(page.locator("#trouble")).to_contain_text("The server cannot be reached")
    assert page.locator("textarea").first.input_value() == "问题"


def test_a_server_that_comes_late_is_asked_again_for_its_guards(open_page) -> None:
    page = open_page(prepare=lambda page: answer_with(page, "v1/guards", status=503))
    expect(page.locator("#trouble")).to_contain_text("还没准备好")
    expect(page.locator("#guard option")).to_have_text(["服务器默认"])
    page.unroute("**/v1/guards")
    judge(page, "问题", "回答")
    expect(page.locator("#trouble")).to_be_hidden()
    expect(page.locator("#guard option")).to_have_text(["fake（默认）"])


def test_asks_for_a_key_and_keeps_it_for_the_tab_only(open_page) -> None:
    page = open_page(settings={"api_key": KEY})
    # That a key is needed is no alarm; that it is wrong is one.
    expect(page.locator("#key-hint")).to_contain_text("这台服务器需要 API 密钥。")
    expect(page.locator("#trouble")).to_be_hidden()
    write(page, "问题", f"回答{BAD}")
    page.locator("#judge").click()
    field = page.get_by_label("API 密钥")
    expect(field).to_be_focused()
    expect(page.locator("#trouble")).to_be_hidden()
    field.fill("wrong")
    field.press("Enter")
    expect(page.locator("#trouble")).to_have_text("密钥不对，请再输入。")
    expect(field).to_be_focused()
    assert field.evaluate("(one) => one.selectionEnd - one.selectionStart") == len("wrong")
    field.fill(KEY)
    field.press("Enter")
    expect(page.locator("#label")).to_have_text("不安全")
    expect(page.locator("#trouble")).to_be_hidden()
    expect(page.locator("#key-form")).to_be_hidden()
    expect(page.locator("#judge")).to_be_focused()
    assert page.evaluate("JSON.stringify(localStorage)") == "{}"
    page.reload()
    expect(page.locator("#guard option")).to_have_text(["fake（默认）"])


# ---- language, theme, width


@pytest.mark.parametrize(("locale", "told"), [("zh-TW", "对话"), ("de", "Conversation")])
def test_speaks_the_language_of_the_browser(open_page, locale, told) -> None:
    page = open_page(locale=locale)
    expect(page.locator("#write")).to_have_text(told)


def test_language_and_theme_are_switched_and_remembered(open_page) -> None:
    page = open_page(color_scheme="light")
    judge(page, "问题", f"回答{BAD}")
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.get_by_role("button", name="English").click()
    expect(page.locator("#label")).to_have_text("Unsafe")
    expect(page.locator("#categories li").first).to_have_text("Illegal Activities and Crime 违法犯罪0.90")
    assert page.evaluate("document.documentElement.lang") == "en"
    assert page.title() == "Libra: is this Chinese conversation safe?"
    page.get_by_role("button", name="Dark").click()
    dark = page.evaluate(ground)
    assert dark != light
    page.reload()
    expect(page.locator("#write")).to_have_text("Conversation")
    assert page.evaluate(ground) == dark
    page.get_by_role("button", name="Light").click()
    # What the system prefers is what was chosen: it is followed again.
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(ground) == dark
    expect(page.locator("#theme")).to_have_text("Light")


@pytest.mark.parametrize("locale", ["zh-CN", "en"])
def test_nothing_is_wider_than_the_window(open_page, locale) -> None:
    page = open_page(locale=locale, viewport={"width": 320, "height": 700})
    judge(page, "问" * 300, f"{BAD}{'w' * 300}")
    # On a narrow screen the verdict comes into view by itself.
    place = page.evaluate("['head', 'rod'].map((id) => document.getElementById(id).getBoundingClientRect())")
    assert place[0]["top"] >= -1
    assert place[1]["bottom"] <= 701
    for width in (320, 375, 768, 1000):
        page.set_viewport_size({"width": width, "height": 700})
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_nothing_moves_for_who_wants_it_still(open_page) -> None:
    page = open_page()
    moving = "() => getComputedStyle(document.querySelector('.beam')).transitionDuration"
    assert page.evaluate(moving) == "0s"
    page.emulate_media(reduced_motion="no-preference")
    assert page.evaluate(moving) == "0.5s"


# ---- keyboard, names, contrast


def test_works_by_keyboard_alone(open_page) -> None:
    page = open_page()
    keys = page.keyboard
    keys.press("Tab")
    expect(page.get_by_role("link", name="跳到对话")).to_be_focused()
    keys.press("Enter")
    keys.press("Tab")
    keys.press("Tab")
    keys.press("Tab")
    expect(page.locator("textarea").first).to_be_focused()
    keys.insert_text("问题")
    keys.press("Tab")
    keys.press("Tab")
    keys.press("Tab")
    expect(page.locator("textarea").nth(1)).to_be_focused()
    keys.insert_text(f"回答{BAD}")
    keys.press("Control+Enter")
    expect(page.locator("#label")).to_have_text("不安全")
    # The focus stays where one writes; the verdict is told by the live region.
    expect(page.locator("textarea").nth(1)).to_be_focused()
    for _ in range(20):
        keys.press("Tab")
        if page.evaluate("document.activeElement.id") == "threshold":
            break
    keys.press("End")
    expect(page.locator("#label")).to_have_text("安全")
    keys.press("Home")
    expect(page.locator("#label")).to_have_text("不安全")
    keys.press("ArrowRight")
    expect(page.locator("#threshold-value")).to_have_text("0.01")


NAMES = """() => [...document.querySelectorAll(
    'button, input, select, textarea, a[href], summary, [tabindex="0"], [role=meter]'
)].filter((one) => one.checkVisibility()).map((one) => {
    const by = one.getAttribute('aria-labelledby');
    const name = by ? by.split(' ').map((id) => document.getElementById(id).textContent).join(' ')
        : one.getAttribute('aria-label') ?? (one.labels?.length ? [...one.labels].map((l) => l.textContent).join(' ')
        : one.textContent);
    return [one.outerHTML.slice(0, 80), name.trim()];
})"""
FOCUS = """() => {
    const style = getComputedStyle(document.activeElement);
    return [document.activeElement.tagName, style.outlineStyle, parseFloat(style.outlineWidth)];
}"""
# WCAG 2.2, 1.4.3: luminance of sRGB, text against the ground behind it (which here is always opaque).
CONTRAST = """() => {
    const context = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
    const rgba = (colour) => {
        context.clearRect(0, 0, 1, 1);
        context.fillStyle = colour;
        context.fillRect(0, 0, 1, 1);
        return [...context.getImageData(0, 0, 1, 1).data];
    };
    const light = (colour) => rgba(colour).slice(0, 3).map((c) => c / 255)
        .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const ground = (one) => {
        for (let at = one; at; at = at.parentElement) {
            const colour = getComputedStyle(at).backgroundColor;
            if (rgba(colour)[3] === 255) return colour;
        }
        throw new Error('no ground');
    };
    const ratio = (a, b) => (Math.max(light(a), light(b)) + 0.05) / (Math.min(light(a), light(b)) + 0.05);
    const found = [];
    const add = (one, colour, what) => found.push([ratio(colour, ground(one)), what]);
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
        const one = node.parentElement;
        if (!node.data.trim() || !one.checkVisibility() || ['NOSCRIPT', 'OPTION'].includes(one.tagName)) continue;
        add(one, getComputedStyle(one).color, node.data.slice(0, 40));
    }
    for (const one of document.querySelectorAll('textarea, select, input:not([type=range])')) {
        if (!one.checkVisibility()) continue;
        add(one, getComputedStyle(one).color, one.id || one.tagName);
        if (one.placeholder) add(one, getComputedStyle(one, '::placeholder').color, one.placeholder);
    }
    return found;
}"""


def everything_shown(page) -> None:
    """Every part of the page at once."""
    text = "前。这一句。后。"
    analysis = "去掉“这一句。”后得分降至 0.10，这一句对判断影响最大。"
    categories = {"Illegal Activities and Crime": 0.8, "Hate Speech and Abuse": 0.1}
    spoken = {"analysis": analysis, "categories": categories, "notes": ["a note"], "answer": "安全的话"}
    answer_with(page, "v1/guard", body=result(**spoken, scenarios=list(categories), mode="monitor", action="pass"))
    judge(page, "问题", text)
    page.locator("#instead summary").click()
    page.locator("#threshold").fill("0.3")
    page.locator("#copy-json").click()
    expect(page.locator("#copied")).not_to_be_empty()


@pytest.mark.parametrize("locale", ["zh-CN", "en"])
def test_every_control_has_a_name_and_shows_its_focus(open_page, locale) -> None:
    page = open_page(settings={"api_key": KEY}, locale=locale)
    expect(page.locator("#key-form")).to_be_visible()
    everything_shown(page)
    named = page.evaluate(NAMES)
    assert len(named) > 30
    assert [html for html, name in named if not name] == []
    page.locator(".skip").focus()
    seen = 1
    for _ in range(len(named) + 1):
        page.keyboard.press("Tab")
        tag, style, width = page.evaluate(FOCUS)
        if tag == "BODY":
            break
        assert (style, width) == ("solid", 3), page.evaluate("document.activeElement.outerHTML")
        seen += 1
    # All but the meter can be reached.
    assert seen == len(named) - 1
    assert page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map((h) => h.tagName).join(' ')").startswith(
        "H1 H2"
    )
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((one) => one.id)")
    assert len(ids) == len(set(ids))
    broken = """() => [...document.querySelectorAll('[aria-labelledby], [aria-describedby], [for]')].flatMap((one) =>
        ['aria-labelledby', 'aria-describedby', 'for'].flatMap((name) => (one.getAttribute(name) ?? '').split(' '))
    ).filter((id) => id && !document.getElementById(id))"""
    assert page.evaluate(broken) == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_text_can_be_read_against_its_ground(open_page, theme) -> None:
    page = open_page(settings={"api_key": KEY}, color_scheme=theme)
    page.locator("#key").fill("wrong")
    page.locator("#key").press("Enter")
    expect(page.locator("#trouble")).to_be_visible()
    texts = page.evaluate(CONTRAST)
    everything_shown(page)
    texts += page.evaluate(CONTRAST)
    for label, action in (("安全", "pass"), ("有争议", "review"), (None, "block")):
        answer_with(page, "v1/guard", body=result(label=label, action=action, valid=label is not None))
        judge(page, "问题", "回答")
        expect(page.locator("#action")).to_have_attribute("data-action", action)
        texts += page.evaluate(CONTRAST)
    write(page, "问题", "别的回答")
    expect(page.locator("#age")).to_be_visible()
    texts += page.evaluate(CONTRAST)
    assert len(texts) > 200
    assert [pair for pair in texts if pair[0] < 4.5] == []


# ---- with the bundled guard


def test_the_bundled_guard_marks_its_sentence(open_page) -> None:
    page = open_page(guards={"mini": mini()})
    page.get_by_role("button", name="看不起人").click()
    expect(page.locator("#label")).to_have_text("不安全")
    text = page.locator("textarea").last.input_value()
    marked = page.locator("#judged mark").text_content()
    assert marked in text
    assert 0 < len(marked) < len(text)
    expect(page.locator("#judged")).to_have_text(text)
    expect(page.locator("#without")).to_contain_text("得分降至 0.")


def test_the_notes_of_the_bundled_guard_are_known(open_page) -> None:
    page = open_page(guards={"mini": mini()})
    judge(page, "很长的问题，" * 1000, "回答")
    expect(page.locator("#notes li")).to_have_text(["问题太长，只读了开头和结尾。"])
    page.get_by_role("button", name="多轮").click()
    expect(page.locator("#notes li")).to_have_text(["更早的 2 条没有读。"])


def mini():
    from libra_guard.guards.registry import load_guard

    return load_guard("mini")


@pytest.mark.skipif("LIBRA_SCREENSHOTS" not in os.environ, reason="LIBRA_SCREENSHOTS: folder for the pictures")
@pytest.mark.parametrize(
    ("name", "locale", "theme", "example", "size"),
    [
        ("zh-light", "zh-CN", "light", 7, (1200, 1000)),
        ("zh-dark", "zh-CN", "dark", 8, (1200, 1000)),
        ("en-light", "en", "light", 4, (1200, 1000)),
        ("en-dark", "en", "dark", 9, (1200, 1000)),
        ("phone", "zh-CN", "light", 6, (375, 812)),
    ],
)
def test_screenshots(open_page, name, locale, theme, example, size) -> None:
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    viewport = dict(zip(("width", "height"), size, strict=True))
    phone = name == "phone"
    context = {"viewport": viewport, "has_touch": phone, "is_mobile": phone}
    page = open_page(guards={"mini": mini()}, locale=locale, color_scheme=theme, **context)
    page.locator("#examples button").nth(example).click()
    page.locator("#weighed").wait_for()
    # The first one waits for the guard's warm-up; the time of the second is what a user sees.
    page.reload()
    page.locator("#examples button").nth(example).click()
    page.locator("#weighed").wait_for()
    page.mouse.move(1, 1)
    file = Path(os.environ["LIBRA_SCREENSHOTS"], f"serve-{name}.png")
    # A few colours are enough for it, and a third of the size.
    image.open(io.BytesIO(page.screenshot())).convert("RGB").quantize(128).save(file, optimize=True)
    assert file.stat().st_size <= 120_000

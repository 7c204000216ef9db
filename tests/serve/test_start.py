"""What is found before anything is loaded, and what is told then."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")

from libra_guard.errors import UsageError
from libra_guard.records import Target
from libra_guard.serve import start
from libra_guard.serve.settings import ServerSettings


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    file = tmp_path / "shop.yaml"
    file.write_text("extends: strict\n", encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"guards": ("minni",)}, "did you mean 'mini'"),
        ({"api_key_file": Path("/none")}, "/none: the API keys cannot be read"),
        ({"policies": (Path("/none.yaml"),)}, "/none.yaml: there is no such policy file"),
        ({"policies": (Path("strict"),)}, "is chosen by --policy strict"),
        ({"policy": "shop.yaml"}, "for a file: --policy-file shop.yaml --policy shop"),
        ({"policy": "stricd"}, "did you mean strict?"),
        ({"upstream": "http://"}, "names no host"),
        ({"upstream": "http://example.org:port/v1"}, "the upstream's address is wrong"),
        ({"audit": Path("/none/audit.jsonl")}, "/none/audit.jsonl: the audit log cannot be written"),
        ({"audit": Path("/dev/null"), "audit_key": "short"}, "it needs 16 or more"),
    ],
)
def test_what_cannot_be_served(given: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError) as caught:
        start.check(ServerSettings(**given))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_profile(shop: Path) -> None:
    shop.write_text("mode: sleep\n", encoding="utf-8")
    with pytest.raises(UsageError, match="line 1: mode: must be 'enforce' or 'monitor'"):
        start.check(ServerSettings(policies=(shop,)))


def test_a_profile_for_a_guard_that_is_not_served(shop: Path) -> None:
    shop.write_text("guard: big\n", encoding="utf-8")
    with pytest.raises(UsageError, match="'shop' asks for the guard 'big'; served: mini, other"):
        start.check(ServerSettings(policies=(shop,), guards=("mini", "other=mini")))
    assert start.check(ServerSettings(policies=(shop,), guards=("mini", "big=mini"))).of_files == ("shop",)


def test_a_proxy_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "nonsense://user:geheim@127.0.0.1:1080")
    with pytest.raises(UsageError, match="the environment names a proxy") as caught:
        start.check(ServerSettings(upstream="http://127.0.0.1:1/v1"))
    assert "geheim" not in str(caught.value)
    start.check(ServerSettings())


def test_all_is_well(shop: Path, tmp_path: Path) -> None:
    settings = ServerSettings(policies=(shop,), policy="shop", upstream="http://127.0.0.1:1/v1", audit=tmp_path / "a")
    policies = start.check(settings)
    assert (policies.default, policies.of_files) == ("shop", ("shop",))
    assert start.warnings(settings, policies) == []
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600


def warned(**given: Any) -> list[str]:
    settings = ServerSettings(**given)
    return start.warnings(settings, start.check(settings))


def test_a_file_that_is_not_in_force(shop: Path) -> None:
    told = "the profile 'default' decides, and shop only where a request asks for it; --policy shop puts it in force"
    assert warned(policies=(shop,)) == [told]
    mall = shop.with_name("mall.yaml")
    mall.write_text("mode: monitor\n", encoding="utf-8")
    (found,) = warned(policies=(shop, mall))
    assert "shop, mall only where a request asks" in found
    assert "--policy NAME" in found


def test_a_profile_that_was_chosen_is_no_mistake(shop: Path) -> None:
    assert warned(policies=(shop,), policy="default") == []
    mall = shop.with_name("mall.yaml")
    mall.write_text("mode: monitor\n", encoding="utf-8")
    assert warned(policies=(shop, mall), policy="shop") == []
    own = shop.with_name("own.yaml")
    own.write_text("name: default\n", encoding="utf-8")
    assert warned(policies=(own, shop)) == []


@pytest.mark.parametrize(
    ("upstream", "told"),
    [
        ("http://127.0.0.1:8000", "are asked at http://127.0.0.1:8000/v1"),
        ("http://user:geheim@127.0.0.1:8000/", "are asked at http://127.0.0.1:8000/v1"),
        ("http://127.0.0.1:8000/v1/chat/completions", "the base URL is http://127.0.0.1:8000/v1"),
    ],
)
def test_an_upstream_that_is_probably_elsewhere(upstream: str, told: str) -> None:
    (found,) = warned(upstream=upstream)
    assert found.endswith(told)
    assert "geheim" not in found


@pytest.mark.parametrize("path", ["v1", "v1/", "api/paas/v4", "v1beta/openai"])
def test_an_upstream_with_a_path_of_its_own(path: str) -> None:
    assert warned(upstream=f"http://127.0.0.1:8000/{path}") == []


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"upstream_key": "k"}, "LIBRA_SERVE_UPSTREAM_KEY does nothing without --upstream"),
        ({"upstream_timeout": 5}, "LIBRA_SERVE_UPSTREAM_TIMEOUT does nothing without --upstream"),
        ({"audit_key": "0123456789abcdef"}, "LIBRA_SERVE_AUDIT_KEY does nothing without --audit"),
        ({"audit_text": True}, "LIBRA_SERVE_AUDIT_TEXT does nothing without --audit"),
        ({"hosts": "libra.internal", "api_key": "k"}, "LIBRA_SERVE_HOSTS does nothing with a key: "),
        ({"hosts": "libra.internal", "host": "::", "api_key": "k"}, "LIBRA_SERVE_HOSTS does nothing with a key: "),
    ],
)
def test_a_setting_that_does_nothing(given: dict[str, Any], told: str) -> None:
    (found,) = warned(**given)
    assert found.startswith(told)


def test_names_where_others_reach_the_server() -> None:
    assert warned(hosts="libra.internal", host="0.0.0.0")[1].startswith("LIBRA_SERVE_HOSTS does nothing at 0.0.0.0, ")
    assert warned(hosts="libra.internal", host="127.0.0.2") == []


def test_settings_that_do_something(tmp_path: Path) -> None:
    audit = {"audit": tmp_path / "a", "audit_key": "0123456789abcdef", "audit_text": True}
    assert warned(**audit, upstream="http://127.0.0.1:1/v1", upstream_key="k", upstream_timeout=5) == []
    # What is said is what would hold anyway.
    assert warned(audit_text=False, upstream_timeout=600) == []


def test_an_upstream_that_nobody_has_a_key_for() -> None:
    upstream = "http://127.0.0.1:1/v1"
    (found,) = warned(upstream=upstream, api_key="k")
    assert found.startswith("no key goes up, ")
    assert "set LIBRA_SERVE_UPSTREAM_KEY" in found
    assert warned(upstream=upstream, api_key="k", upstream_key="u") == warned(upstream=upstream) == []


def test_nobody_is_left_unwarned() -> None:
    assert warned(host="0.0.0.0") == ["whoever reaches 0.0.0.0 may ask; set LIBRA_SERVE_API_KEY"]
    assert warned(host="0.0.0.0", api_key="k") == []
    assert warned() == []


def lines(guards: Any = None, **given: Any) -> dict[str, str]:
    """Of the banner, by what they tell of; the first one by an empty text."""
    settings = ServerSettings(**given)
    first, *rest = start.banner(settings, 8300, start.check(settings), guards).splitlines()
    return {"": first, **{line[2:11].strip(): line[12:] for line in rest}}


def test_the_banner(guard: Any) -> None:
    found = lines({"fake": guard})
    assert found.pop("").startswith("http://127.0.0.1:8300  Libra ")
    assert found == {
        "page": "http://127.0.0.1:8300/",
        "API": "http://127.0.0.1:8300/v1, described at http://127.0.0.1:8300/docs",
        "guard": "fake, unsafe from 0.5",
        "policy": "default (enforce)",
        "keys": "no API key: this machine alone may ask",
        "upstream": "none: chat completions need --upstream URL",
    }


def test_the_banner_of_guards(guard: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    thresholds = {Target.PROMPT: 0.51, Target.RESPONSE: 0.4}
    monkeypatch.setattr(guard, "threshold_for", thresholds.__getitem__, raising=False)
    words = type(guard)()
    words.gives_scores = False
    told = lines({"fake": guard, "words": words})["guard"]
    assert told == "fake, unsafe from 0.51 (prompt), 0.4 (response); words, by its own label"
    assert lines(guards=None)["guard"] == "mini"


def test_the_banner_of_a_policy(shop: Path) -> None:
    shop.write_text("mode: monitor\nguard: mini\n", encoding="utf-8")
    told = lines(policies=(shop,), policy="shop")["policy"]
    assert told == "shop, by the guard mini (monitor: everything passes, and is only told)"


def test_the_banner_tells_no_secret(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("geheim1\ngeheim2\n", encoding="utf-8")
    upstream = "http://user:geheim@example.org:8000/v1"
    found = lines(api_key="geheim", upstream=upstream, upstream_key="geheim", docs=False)
    assert (found["keys"], found["upstream"]) == ("1: who asks must have it", "http://example.org:8000/v1")
    assert found["API"] == "http://127.0.0.1:8300/v1"
    assert "geheim" not in str(found)
    assert "user" not in str(found)
    assert lines(api_key_file=tmp_path / "keys")["keys"] == "2: who asks must have one"


@pytest.mark.parametrize(
    ("host", "told"),
    [
        ("0.0.0.0", "http://127.0.0.1:8300"),
        ("::", "http://[::1]:8300"),
        ("::1", "http://[::1]:8300"),
        ("10.0.0.7", "http://10.0.0.7:8300"),
    ],
)
def test_an_address_to_click_on(host: str, told: str) -> None:
    found = lines(host=host)
    assert found[""].split()[0] == told
    assert found[""].endswith(", at every address of this machine") == (host in ("0.0.0.0", "::"))
    assert found["keys"] == "no API key: " + (
        "this machine alone may ask" if host == "::1" else "whoever reaches it may ask"
    )


def test_an_address_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=rf"127.0.0.1:{port} is taken: .*--port N"):
            start.bound(ServerSettings(port=port))
    with pytest.raises(UsageError, match=r"999.1.1.1:0: .*see --host"):
        start.bound(ServerSettings(host="999.1.1.1", port=0))


def test_answers_leave_at_once() -> None:
    with start.bound(ServerSettings(port=0)) as listening:
        assert listening.proto == socket.IPPROTO_TCP

"""Before the server runs: what is wrong is found while nothing is loaded; then it is told what is served, and how."""

from __future__ import annotations

import asyncio
import errno
import logging
import re
import socket
from collections.abc import Collection, Iterator, Mapping
from functools import partial
from pathlib import Path

from libra_guard import __version__
from libra_guard.errors import UsageError
from libra_guard.guards.base import Guard
from libra_guard.policy.profile import Policy
from libra_guard.policy.reading import bundled_names
from libra_guard.policy.watch import PolicyChange, PolicyStore
from libra_guard.serve.audit import check_audit
from libra_guard.serve.pool import check_guards
from libra_guard.serve.proxy.upstream import Upstream
from libra_guard.serve.settings import PREFIX, ServerSettings, public_name

_log = logging.getLogger(__name__)
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}
"""Address that stands for all of a machine → one at which it can be asked."""
_NEEDS = {"upstream_key": "upstream", "upstream_timeout": "upstream", "audit_key": "audit", "audit_text": "audit"}
"""Setting → the one without which it does nothing."""
_USER = re.compile(r"//[^/]*@")
_CHAT = "/chat/completions"


def check(settings: ServerSettings) -> PolicyStore:
    """Finds what cannot be served before anything is loaded.

    Returns:
        The policy profiles.

    Raises:
        UsageError: A guard or a profile is unknown, a policy file is wrong, the keys cannot be read, the upstream's
            address is wrong, or the audit log cannot be written.
    """
    check_guards(settings)
    settings.keys()
    _check_names(settings)
    policies = open_policies(settings, [public_name(spec)[0] for spec in settings.guards])
    if settings.upstream is not None:
        asyncio.run(_check_upstream(settings))
    if settings.audit is not None:
        check_audit(settings.audit, settings.audit_secret())
    return policies


def open_policies(settings: ServerSettings, served: Collection[str]) -> PolicyStore:
    """The policy profiles of a server; the log tells of files that change.

    Args:
        settings: Which files there are, and which profile decides.
        served: Names of the guards.

    Raises:
        UsageError: See ``PolicyStore``; also where a file's profile asks for a guard that is not served.
    """
    return PolicyStore(settings.policies, settings.policy, told=_tell, check=partial(_check_guard, served=served))


def bound(settings: ServerSettings) -> socket.socket:
    """The address, taken; nothing is answered there yet.

    Raises:
        UsageError: It cannot be had.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # The protocol is named because asyncio leaves TCP_NODELAY off where it is 0, and an answer then takes 40 ms more.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((settings.host, settings.port))
    except OSError as error:
        listening.close()
        place = f"{settings.host}:{settings.port}"
        if error.errno == errno.EADDRINUSE:
            hint = "stop what listens there, or choose another port (--port N; 0: any that is free)"
            raise UsageError(f"{place} is taken: {hint}") from None
        raise UsageError(f"{place}: {error.strerror}; see --host and --port") from None
    return listening


def warnings(settings: ServerSettings, policies: PolicyStore) -> list[str]:
    """What is allowed, and may not be meant; each in one line."""
    found = []
    if not settings.keys() and not settings.is_local:
        found.append(f"whoever reaches {settings.host} may ask; set LIBRA_SERVE_API_KEY")
    idle = [name for name in policies.of_files if name != policies.default]
    # Who names the profile that decides knows what is offered beside it.
    if idle and "policy" not in settings.model_fields_set and policies.default not in policies.of_files:
        which = idle[0] if len(idle) == 1 else "NAME"
        found.append(
            f"the profile '{policies.default}' decides, and {', '.join(idle)} only where a request asks for it; "
            f"--policy {which} puts it in force"
        )
    if settings.upstream is not None and (hint := _about_path(settings.upstream)):
        found.append(hint)
    if settings.upstream is not None and settings.upstream_key is None and settings.keys():
        found.append(f"no key goes up, as clients' keys are for this server; set {PREFIX}UPSTREAM_KEY if one is needed")
    return [*found, *_without_effect(settings)]


def banner(settings: ServerSettings, port: int, policies: PolicyStore, guards: Mapping[str, Guard] | None) -> str:
    """What is served, at which address, and by what; begins with the address.

    Args:
        settings: All there is to be told.
        port: That was bound.
        policies: Of the server.
        guards: By the names under which they are served; None where other processes load them.
    """
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    here = f"http://{_EVERYWHERE.get(settings.host, host)}:{port}"
    where = ", at every address of this machine" if settings.host in _EVERYWHERE else ""
    names = [public_name(spec)[0] for spec in settings.guards]
    lines = {
        "page": f"{here}/",
        "API": f"{here}/v1" + (f", described at {here}/docs" if settings.docs else ""),
        "guard": "; ".join(names if guards is None else [_about_guard(name, one) for name, one in guards.items()]),
        "policy": _about_policy(policies.get()),
        "keys": _about_keys(settings),
        "upstream": "none: chat completions need --upstream URL"
        if settings.upstream is None
        else without_user(settings.upstream),
    }
    return "\n".join([f"{here}  Libra {__version__}{where}", *(f"  {what:<9} {told}" for what, told in lines.items())])


def without_user(url: str) -> str:
    """An address without a name and password that stand before the host."""
    return _USER.sub("//", url)


def _check_names(settings: ServerSettings) -> None:
    """Finds a name in the place of a file, and a file in the place of a name."""
    for file in settings.policies:
        if not file.exists():
            bundled = str(file) in bundled_names()
            hint = f"; the bundled profile of this name is chosen by --policy {file}" if bundled else ""
            raise UsageError(f"{file}: there is no such policy file{hint}")
    chosen = Path(settings.policy)
    if chosen.suffix in (".yaml", ".yml"):
        raise UsageError(f"--policy takes a profile's name; for a file: --policy-file {chosen} --policy {chosen.stem}")


def _check_guard(policy: Policy, served: Collection[str]) -> None:
    if policy.guard is not None and policy.guard not in served:
        raise UsageError(f"the policy '{policy.name}' asks for the guard '{policy.guard}'; served: {', '.join(served)}")


def _tell(change: PolicyChange) -> None:
    if change.problem is None:
        _log.info("policy %s: its file has changed and is in force", change.name)
    else:
        _log.error(
            "policy %s: its file cannot be taken up, the one of before is in force: %s", change.name, change.problem
        )


async def _check_upstream(settings: ServerSettings) -> None:
    await Upstream(settings).close()


def _without_effect(settings: ServerSettings) -> Iterator[str]:
    """Settings that do nothing as the others are."""
    for name, needed in _NEEDS.items():
        if getattr(settings, name) != ServerSettings.model_fields[name].default and getattr(settings, needed) is None:
            yield f"{PREFIX}{name.upper()} does nothing without --{needed}"
    if settings.hosts and (settings.keys() or not settings.is_local):
        why = "with a key" if settings.keys() else f"at {settings.host}, where others reach it"
        yield f"{PREFIX}HOSTS does nothing {why}: by what name the server is called is not looked at then"


def _about_path(upstream: str) -> str | None:
    """What is odd about the path of an upstream's address. One without /v1 may be right: some have v4, some nothing."""
    shown = without_user(upstream)
    if upstream.endswith(_CHAT):
        return f"--upstream {shown} is the address of one route; the base URL is {shown.removesuffix(_CHAT)}"
    if "/" not in upstream.partition("//")[2]:
        return f"--upstream {shown} has no path; most servers answer 404 there, and are asked at {shown}/v1"
    return None


def _about_guard(name: str, guard: Guard) -> str:
    if not guard.gives_scores:
        return f"{name}, by its own label"
    thresholds = {target.value: guard.threshold_for(target) for target in sorted(guard.targets)}
    if len(set(thresholds.values())) == 1:
        return f"{name}, unsafe from {next(iter(thresholds.values())):.3g}"
    return f"{name}, unsafe from " + ", ".join(f"{value:.3g} ({target})" for target, value in thresholds.items())


def _about_policy(policy: Policy) -> str:
    guard = "" if policy.guard is None else f", by the guard {policy.guard}"
    mode = "enforce" if policy.mode == "enforce" else "monitor: everything passes, and is only told"
    return f"{policy.name}{guard} ({mode})"


def _about_keys(settings: ServerSettings) -> str:
    if number := len(settings.keys()):
        return f"{number}: who asks must have {'it' if number == 1 else 'one'}"
    return "no API key: " + ("this machine alone may ask" if settings.is_local else "whoever reaches it may ask")

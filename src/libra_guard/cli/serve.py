"""libra serve: verdicts over HTTP."""

from __future__ import annotations

import os
import re
import signal
import socket
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from libra_guard.errors import UsageError, require

if TYPE_CHECKING:
    from libra_guard.serve.settings import ServerSettings

_NEEDS = ("fastapi", "httpx2", "prometheus_client", "pydantic_settings", "uvicorn")
_UVICORN: dict[str, Any] = {
    **{"http": "libra_guard.serve.protocol:BoundedProtocol", "ws": "none", "lifespan": "on"},
    **{"log_config": None, "access_log": False, "proxy_headers": False, "server_header": False},
}
_USER = re.compile(r"//[^/]*@")
_NOT_STARTED = 3  # how uvicorn ends where an application cannot start


def serve(
    guards: Annotated[
        list[str] | None,
        typer.Option("--guard", "-g", metavar="[ALIAS=]NAME[:MODEL]", help="Repeatable; the first is the default."),
    ] = None,
    policies: Annotated[list[Path] | None, typer.Option("--policy-file", help="Policy profile. Repeatable.")] = None,
    policy: Annotated[str | None, typer.Option(help="Profile that decides where none is named.")] = None,
    host: Annotated[str | None, typer.Option(help="By default 127.0.0.1, which only this machine reaches.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="By default 8300; 0: any that is free.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; each loads the guards.")] = None,
    upstream: Annotated[str | None, typer.Option(metavar="URL", help="OpenAI-compatible server to guard.")] = None,
    api_key_file: Annotated[Path | None, typer.Option(help="API keys, one a line.")] = None,
    audit: Annotated[Path | None, typer.Option(help="File that decisions are added to.")] = None,
) -> None:
    """Serve verdicts: OpenAI's moderation API, conversations, a guarded chat in front of --upstream, a page.

    All settings can come from the environment, as LIBRA_SERVE_PORT; keys only from there or from a file. See the docs.
    """
    _ = [require(module, "serve") for module in _NEEDS]
    from libra_guard.serve import logs
    from libra_guard.serve.pool import check_guards
    from libra_guard.serve.settings import read_settings

    options: dict[str, Any] = {
        **{"guards": guards, "policies": policies, "policy": policy, "host": host, "port": port, "workers": workers},
        **{"upstream": upstream, "api_key_file": api_key_file, "audit": audit},
    }
    settings = read_settings(**{name: value for name, value in options.items() if value is not None})
    check_guards(settings)
    if not settings.keys() and not settings.is_local:
        typer.echo(f"warning: whoever reaches {settings.host} may ask; set LIBRA_SERVE_API_KEY", err=True)
    signal.signal(signal.SIGTERM, _stop)
    logs.set_up(text=settings.log_text)
    with _bound(settings) as listening, suppress(KeyboardInterrupt):
        typer.echo(_about(settings, listening))
        (_one if settings.workers == 1 else _several)(settings, listening)


def _one(settings: ServerSettings, listening: socket.socket) -> None:
    import uvicorn

    from libra_guard.serve.app import create_app
    from libra_guard.serve.pool import load_guards

    # Loaded here, so that what is wrong with a guard is an error of this command.
    app = create_app(settings, load_guards(settings))
    try:
        uvicorn.Server(uvicorn.Config(app, **_uvicorn_options(settings))).run([listening])
    except SystemExit as end:
        raise typer.Exit(2 if end.code == _NOT_STARTED else 0) from None


def _several(settings: ServerSettings, listening: socket.socket) -> None:
    import uvicorn
    from uvicorn.supervisors import Multiprocess

    from libra_guard.serve.metrics import several_workers
    from libra_guard.serve.settings import HANDED_ON

    os.environ[HANDED_ON] = settings.dumped()
    with several_workers():
        config = uvicorn.Config("libra_guard.serve.app:from_environment", factory=True, **_uvicorn_options(settings))
        supervisor = Multiprocess(config, [listening])
        supervisor.run()
    if any(one.process.exitcode == _NOT_STARTED for one in supervisor.processes):
        raise typer.Exit(2)


def _uvicorn_options(settings: ServerSettings) -> dict[str, Any]:
    return _UVICORN | {
        "workers": settings.workers,
        "timeout_graceful_shutdown": settings.grace_seconds,
        "timeout_keep_alive": settings.keep_alive_seconds,
    }


def _bound(settings: ServerSettings) -> socket.socket:
    """The address, taken before anything is loaded."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # The protocol is named because asyncio leaves TCP_NODELAY off where it is 0, and an answer then takes 40 ms more.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((settings.host, settings.port))
    except OSError as error:
        listening.close()
        raise UsageError(f"{settings.host}:{settings.port}: {error.strerror}; see --host and --port") from None
    return listening


def _about(settings: ServerSettings, listening: socket.socket) -> str:
    name = f"[{settings.host}]" if ":" in settings.host else settings.host
    # Without a name and password that stand before the host.
    upstream = f"; guarding {_USER.sub('//', settings.upstream)}" if settings.upstream else ""
    told = f"guards: {', '.join(settings.guards)}; policy: {settings.policy}{upstream}"
    return f"http://{name}:{listening.getsockname()[1]}  {told}{'' if settings.keys() else '; no API key'}"


def _stop(*_: Any) -> None:
    raise SystemExit(0)

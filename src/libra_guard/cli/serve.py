"""libra serve: verdicts over HTTP."""

from __future__ import annotations

import signal
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from libra_guard.errors import require

if TYPE_CHECKING:
    import socket

    from libra_guard.policy.watch import PolicyStore
    from libra_guard.serve.settings import ServerSettings

_NEEDS = ("fastapi", "httpx2", "prometheus_client", "pydantic_settings", "uvicorn")
_UVICORN: dict[str, Any] = {
    **{"http": "libra_guard.serve.protocol:BoundedProtocol", "ws": "none", "lifespan": "on"},
    **{"log_config": None, "access_log": False, "proxy_headers": False, "server_header": False},
}
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
    from libra_guard.serve import logs, start
    from libra_guard.serve.settings import read_settings

    options: dict[str, Any] = {
        **{"guards": guards, "policies": policies, "policy": policy, "host": host, "port": port, "workers": workers},
        **{"upstream": upstream, "api_key_file": api_key_file, "audit": audit},
    }
    settings = read_settings(**{name: value for name, value in options.items() if value is not None})
    signal.signal(signal.SIGTERM, _stop)
    with suppress(KeyboardInterrupt):
        profiles = start.check(settings)
        with start.bound(settings) as listening:
            for warning in start.warnings(settings, profiles):
                typer.echo(f"warning: {warning}", err=True)
            logs.set_up(text=settings.log_text)
            (_one if settings.workers == 1 else _several)(settings, profiles, listening)


def _one(settings: ServerSettings, profiles: PolicyStore, listening: socket.socket) -> None:
    import uvicorn

    from libra_guard.serve.app import create_app
    from libra_guard.serve.pool import load_guards
    from libra_guard.serve.start import banner

    # Loaded here, so that what is wrong with a guard is an error of this command.
    guards = load_guards(settings)
    app = create_app(settings, guards, profiles)
    typer.echo(banner(settings, listening.getsockname()[1], profiles, guards))
    try:
        uvicorn.Server(uvicorn.Config(app, **_uvicorn_options(settings))).run([listening])
    except SystemExit as end:
        raise typer.Exit(2 if end.code == _NOT_STARTED else 0) from None


def _several(settings: ServerSettings, profiles: PolicyStore, listening: socket.socket) -> None:
    import uvicorn
    from uvicorn.supervisors import Multiprocess

    from libra_guard.serve.app import worker_app
    from libra_guard.serve.metrics import several_workers
    from libra_guard.serve.start import banner

    class Workers(Multiprocess):
        def init_processes(self) -> None:
            # Ctrl-C reaches every process; a worker that is still importing leaves it to this one, which ends it.
            before = signal.signal(signal.SIGINT, signal.SIG_IGN)
            super().init_processes()
            signal.signal(signal.SIGINT, before)

        def terminate_all(self) -> None:
            # While it is open here, whoever comes is let in although no worker is left to answer.
            listening.close()
            super().terminate_all()

    typer.echo(banner(settings, listening.getsockname()[1], profiles, None))
    with several_workers():
        # The settings go with it, with the keys that were read, through a pipe: nobody else can read them on the way.
        app = partial(worker_app, settings)
        config = uvicorn.Config(app, factory=True, **_uvicorn_options(settings))
        supervisor = Workers(config, [listening])
        supervisor.run()
    if any(one.process.exitcode == _NOT_STARTED for one in supervisor.processes):
        raise typer.Exit(2)


def _uvicorn_options(settings: ServerSettings) -> dict[str, Any]:
    times = {"timeout_graceful_shutdown": settings.grace_seconds, "timeout_keep_alive": settings.keep_alive_seconds}
    return _UVICORN | {"workers": settings.workers, **times}


def _stop(*_: Any) -> None:
    raise SystemExit(0)

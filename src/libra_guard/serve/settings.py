"""What the server is told: by the command line, by the environment (``LIBRA_SERVE_*``), else by default."""

from __future__ import annotations

import difflib
import os
import re
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, PrivateAttr, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from libra_guard.configuration import unsendable
from libra_guard.errors import UsageError
from libra_guard.predict.stream import StreamSettings

PREFIX = "LIBRA_SERVE_"
LOOPBACK = ("127.0.0.1", "::1", "localhost")
"""Names by which a machine calls itself."""
_ORIGIN = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:\d{1,5})?")
_USUAL_PORTS = {"http": ":80", "https": ":443"}
_STREAM = StreamSettings()

Positive = Annotated[int, Field(gt=0)]
Listed = Annotated[tuple[str, ...], NoDecode]
"""In the environment with commas between."""


class ServerSettings(BaseSettings):
    """One server's settings; they cannot be changed once it runs."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", hide_input_in_errors=True)

    guards: Listed = ("mini",)
    """``NAME[:MODEL]`` or ``ALIAS=NAME[:MODEL]``; the first judges where none is named. See ``public_name``."""
    policies: Annotated[tuple[Path, ...], NoDecode] = ()
    """Files of policy profiles, besides the bundled ones."""
    policy: str = "default"
    """The profile that decides where none is named."""
    host: str = "127.0.0.1"
    port: int = Field(default=8300, ge=0, le=65535)
    workers: Positive = 1
    """Processes; each loads the guards."""
    threads: Positive | None = None
    """Texts that an ONNX guard judges side by side in each process; by default the cores, shared by the processes."""

    api_key: SecretStr | None = None
    """Whoever asks must have it, as ``Authorization: Bearer``."""
    api_key_file: Path | None = None
    """Further keys, one a line; blank lines and those that begin with # are left out. Read once."""
    hosts: Listed = ()
    """Further names by which a server without a key may be called on a loopback address, as by a proxy before it."""
    cors_origins: Listed = ()
    """Origins of web pages that may ask from a browser, ``https://shop.example``, or ``*``; by default none but the
    server's own."""

    batch_size: Positive = 16
    """Conversations that a guard is given at once; a piece of a long one counts as one."""
    batch_chars: Positive = 4000
    """Characters that they have together. A longer one is judged in pieces, or alone where a guard does not cut it."""
    batch_wait_ms: float = Field(default=0.0, ge=0, le=1000)
    """How long a batch waits to fill while the guard is idle. Batches form by themselves while it is busy."""
    queue_size: Positive = 256
    """Conversations that may wait for a guard; who comes then is told to come back (429)."""
    queue_chars: int = Field(default=1_000_000, ge=10_000)
    """Characters that they may have together; a request that has more by itself is refused (400), but for the proxy's,
    which is judged in portions."""
    deadline_ms: float = Field(default=30_000, gt=0)
    """How long a request may take until its verdicts (504)."""
    grace_seconds: Positive = 30
    """How long a server that is told to stop lets what is in flight finish."""
    keep_alive_seconds: Positive = 75
    """How long an idle connection stays open. A client that holds it for longer, and asks at the moment it is closed,
    gets no answer: nginx holds one for 60 seconds, aiohttp for 15, httpx for 5."""

    max_requests: Positive = 1000
    """Under way in each process; who comes then is told to come back (503)."""
    max_body_bytes: Positive = 1_000_000
    body_seconds: float = Field(default=20, gt=0)
    """How long a client may take to send a body (408)."""
    max_conversations: int = Field(default=100, gt=0, le=10_000)
    """In one request."""
    max_messages: int = Field(default=200, gt=0, le=10_000)
    """In one conversation."""
    max_chars: Positive = 20_000
    """In one text. Others' texts are judged between the pieces of a long one; a guard that does not cut it is not
    interrupted, and they wait."""

    stream_overlap: int = _STREAM.overlap
    """This and the next six: see ``predict.stream.StreamSettings``."""
    stream_least: int = _STREAM.least
    stream_doubt: float = _STREAM.doubt
    stream_suspicion: float = _STREAM.suspicion
    stream_work: float = _STREAM.work
    stream_hold_chars: int = _STREAM.hold_chars
    stream_hold_ms: float = _STREAM.hold_ms

    upstream: str | None = None
    """Base URL of an OpenAI-compatible server, ending in ``/v1``, whose chat completions are guarded."""
    upstream_key: SecretStr | None = None
    """Sent up; without it, the key that the client gave goes up, unless that is the one for this server."""
    upstream_timeout: float = Field(default=600, gt=0)
    """Seconds."""

    audit: Path | None = None
    """File that decisions are added to."""
    audit_key: SecretStr | None = None
    """Makes the hashes in the audit log HMACs; 16 bytes or more."""
    audit_text: bool = False
    log_text: bool = False
    """Whether messages of unforeseen errors, which may quote users, are logged."""
    docs: bool = True
    """Whether ``/docs`` and ``/openapi.json`` are there."""

    _keys: tuple[str, ...] | None = PrivateAttr(default=None)

    @field_validator("guards", "policies", "hosts", "cors_origins", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("guards")
    @classmethod
    def _names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("a guard is needed")
        names = [public_name(spec)[0] for spec in value]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two guards are called '{min(twice)}'; name one apart, as ALIAS=NAME:MODEL")
        return value

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(_origin, value))

    @field_validator("api_key", "upstream_key")
    @classmethod
    def _key(cls, value: SecretStr | None) -> SecretStr | None:
        return None if value is None else SecretStr(_checked_key(value.get_secret_value()))

    @field_validator("upstream")
    @classmethod
    def _url(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "https://")):
            raise ValueError("a URL is needed, http://... or https://...")
        if value is not None and ("?" in value or "#" in value):
            raise ValueError("it has a query or a fragment, which paths cannot be put behind")
        return value.rstrip("/") if value else None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.queue_size < self.max_conversations:
            raise ValueError("queue_size must be max_conversations or more: a full request could never be taken")
        if self.queue_chars < 2 * self.max_chars:
            raise ValueError("queue_chars must be twice max_chars or more: a long pair could never be taken")
        try:
            _ = self.stream
        except ValidationError as error:
            found = error.errors()[0]
            told = found["msg"].removeprefix("Value error, ")
            if found["loc"]:
                raise ValueError(f"stream_{found['loc'][0]}: {told}") from None
            names = "|".join(StreamSettings.model_fields)
            raise ValueError(re.sub(rf"\b({names})\b", r"stream_\1", told)) from None
        return self

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the server."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host in LOOPBACK

    @property
    def stream(self) -> StreamSettings:
        """How a growing answer is cut."""
        return StreamSettings(**{name: getattr(self, f"stream_{name}") for name in StreamSettings.model_fields})

    def keys(self) -> tuple[str, ...]:
        """The API keys; empty where anybody may ask.

        The file is read when they are first asked for, and once: a pipe says everything only once, and a file that
        changes is not to be taken in two ways.

        Raises:
            UsageError: The file of keys cannot be read, has none, or has one that no header can hold.
        """
        if self._keys is None:
            keys = [] if self.api_key is None else [self.api_key.get_secret_value()]
            if self.api_key_file is not None:
                keys += _keys_in(self.api_key_file)
            self._keys = tuple(keys)
        return self._keys

    def audit_secret(self) -> bytes | None:
        """The key of the HMACs in the audit log."""
        return None if self.audit_key is None else self.audit_key.get_secret_value().encode()


def read_settings(**given: Any) -> ServerSettings:
    """The settings: those given, else those of the environment, else by default.

    Raises:
        UsageError: One is unknown or has an impossible value; the message names its variable.
    """
    for name in os.environ:
        field = name.removeprefix(PREFIX).lower()
        if name.startswith(PREFIX) and field not in ServerSettings.model_fields:
            near = difflib.get_close_matches(field, ServerSettings.model_fields, n=1)
            hint = f"; did you mean {PREFIX}{near[0].upper()}?" if near else ""
            raise UsageError(f"the environment has {name}, which is no setting of the server{hint}")
    try:
        return ServerSettings(**given)
    except ValidationError as error:
        found = error.errors()[0]
        told = found["msg"].removeprefix("Value error, ")
        if found["loc"]:
            place = ".".join(map(str, found["loc"]))
            raise UsageError(f"{place} ({_variable(found['loc'][0])}): {told}") from None
        named = [word for word in re.findall(r"\w+", told) if word in ServerSettings.model_fields]
        raise UsageError(f"{told} ({', '.join(map(_variable, named))})") from None


def public_name(spec: str) -> tuple[str, str]:
    """The name under which a guard is served, and what ``load_guard`` takes.

    >>> public_name("mini"), public_name("libra:/models/guard"), public_name("big=libra:/models/guard")
    (('mini', 'mini'), ('libra', 'libra:/models/guard'), ('big', 'libra:/models/guard'))
    """
    alias, sign, named = spec.partition("=")
    if sign and ":" not in alias:
        return alias, named
    return spec.partition(":")[0], spec


def _variable(field: str | int) -> str:
    return f"{PREFIX}{str(field).upper()}"


def _origin(value: str) -> str:
    """As a browser names it: in lower case, and nothing behind the host but a port that does not go without saying."""
    origin = value.lower().rstrip("/")
    if origin in ("*", "null"):
        return origin
    if not (found := _ORIGIN.fullmatch(origin)):
        raise ValueError(f"'{value}' is no origin, such as https://shop.example; every page is *")
    return origin.removesuffix(_USUAL_PORTS.get(found["scheme"], ""))


def _checked_key(key: str) -> str:
    """Without the white space around it, such as the line's end of the file that it came from."""
    if not (key := key.strip()):
        raise ValueError("the key is empty")
    if fault := unsendable(key):
        raise ValueError(f"the key {fault}")
    return key


def _keys_in(file: Path) -> list[str]:
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise UsageError(f"{file}: the API keys cannot be read: {error.strerror}") from None
    except ValueError:
        raise UsageError(f"{file}: the API keys cannot be read: not UTF-8") from None
    keys = list[str]()
    for number, line in enumerate(lines, start=1):
        if line and not line.startswith("#"):
            try:
                keys.append(_checked_key(line))
            except ValueError as error:
                raise UsageError(f"{file}, line {number}: {error}") from None
    if not keys:
        raise UsageError(f"{file}: there is no API key in it")
    return keys

"""Speak with a registry: HTTP, authentication, retries. What it answers is hostile until verified.

Notes
-----
OCI distribution specification; "Token Authentication Specification" of distribution.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import threading
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

import requests
from urllib3.exceptions import InsecureRequestWarning

from ..errors import ImageError
from .files import write_whole
from .record import MAX_DOCUMENT_BYTES
from .reference import DEFAULT_REGISTRY, Reference
from .store import Store

CONNECT_SECONDS, READ_SECONDS = 10.0, 60.0
ATTEMPTS = 5
"""How often a request is made before its failure counts."""
_MOST_WAIT_SECONDS = 30.0
_AGAIN = frozenset((429, 500, 502, 503, 504))
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')
_HUB = "registry-1.docker.io"
_HUB_AUTH = "https://index.docker.io/v1/"
_CERTIFICATES = ("/etc/docker/certs.d", "~/.docker/certs.d", "~/.config/containers/certs.d")
_DAEMON = ("/etc/docker/daemon.json", "~/.config/docker/daemon.json")


class RegistryError(ImageError):
    """A registry's refusal.

    Attributes
    ----------
    status : int
        HTTP's; 0 if there was no answer.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class CancelledError(ImageError):
    """The user stopped it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the user and the machine say about registries.

    Attributes
    ----------
    mirrors : tuple of str
        URLs that are asked for Docker Hub's images first.
    insecure : tuple of str
        Registries (``host[:port]``) that may be spoken to without TLS, or without verifying it.
    credentials : dict of str to (str, str)
        Registry to user and password.
    """

    mirrors: tuple[str, ...] = ()
    insecure: tuple[str, ...] = ()
    credentials: Mapping[str, tuple[str, str]] = field(default_factory=dict, repr=False)


def read_settings(store: Store) -> Settings:
    """Read Docker's own files, then ours: ``registries.json`` (as daemon.json) and ``auth.json`` (as config.json)."""
    daemon: dict[str, Any] = {}
    for path in (*_DAEMON, store.path("registries.json")):
        daemon.update(_json_file(path))
    docker = os.path.join(os.environ.get("DOCKER_CONFIG") or "~/.docker", "config.json")
    credentials: dict[str, tuple[str, str]] = {}
    for path in (docker, os.environ.get("REGISTRY_AUTH_FILE", ""), store.path("auth.json")):
        for name, entry in (_json_file(path).get("auths") or {}).items():
            pair = _decode_auth(entry)
            if pair:
                credentials[_registry_name(name)] = pair
    return Settings(
        mirrors=tuple(map(str, daemon.get("registry-mirrors") or ())),
        insecure=tuple(map(str, daemon.get("insecure-registries") or ())),
        credentials=credentials,
    )


def _json_file(path: str) -> dict[str, Any]:
    if not path:
        return {}
    try:
        with open(os.path.expanduser(path)) as f:
            content = json.load(f)
    except (OSError, ValueError):  # absent, or not for us
        return {}
    return content if isinstance(content, dict) else {}


def _decode_auth(entry: Any) -> tuple[str, str] | None:
    if not isinstance(entry, dict):
        return None
    try:
        user, colon, password = base64.b64decode(entry.get("auth", "")).decode().partition(":")
    except (ValueError, TypeError):
        return None
    return (user, password) if colon else None


def _registry_name(key: str) -> str:
    """Return the registry that an entry of ``auths`` is for."""
    if key == _HUB_AUTH:
        return DEFAULT_REGISTRY
    return key.removeprefix("https://").removeprefix("http://").split("/")[0]


def save_login(store: Store, registry: str, pair: tuple[str, str] | None) -> bool:
    """Keep a user and password for a registry, or forget them; return whether there were any."""
    path = store.path("auth.json")
    content = _json_file(path)
    auths = content.setdefault("auths", {})
    known = auths.pop(registry, None) is not None
    if pair is not None:
        auths[registry] = {"auth": base64.b64encode(":".join(pair).encode()).decode()}
    write_whole(path, json.dumps(content).encode())  # readable by its owner only: mkstemp(3)
    return known


def is_loopback(host: str) -> bool:
    """Whether a registry is on this machine, where Docker speaks HTTP without being told.

    Examples
    --------
    >>> is_loopback("localhost:5000"), is_loopback("127.1.2.3"), is_loopback("example.com")
    (True, True, False)
    """
    name = host.rpartition("]")[0].removeprefix("[") if host.startswith("[") else host.partition(":")[0]
    try:
        return name == "localhost" or ip_address(name).is_loopback
    except ValueError:
        return False


class Registry:
    """One repository of one registry, or of a mirror of it. Any thread may call.

    Parameters
    ----------
    base : str
        URL, without a path.
    domain : str
        Whose credentials are used.
    path : str
        Of the repository.
    settings : Settings
        As read.
    cancelled : threading.Event
        Set when the user gives up.
    actions : str
        ``pull`` or ``pull,push``.
    """

    def __init__(
        self, base: str, domain: str, path: str, settings: Settings, cancelled: threading.Event, actions: str = "pull"
    ) -> None:
        self.base, self.domain, self.path, self.actions = base.rstrip("/"), domain, path, actions
        self._cancelled = cancelled
        self._credentials = settings.credentials.get(domain)
        self._local = threading.local()
        self._authorization = ""
        self._sessions: list[requests.Session] = []
        host = self.base.partition("://")[2]
        self.insecure = host in settings.insecure or is_loopback(host)
        self._verify = _verification(host, settings)

    def close(self) -> None:
        """Close every connection."""
        for session in self._sessions:
            session.close()

    @property
    def _session(self) -> requests.Session:
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
            self._sessions.append(self._local.session)
        session: requests.Session = self._local.session
        return session

    def url(self, rest: str) -> str:
        """Return the URL of something in the repository."""
        return f"{self.base}/v2/{self.path}/{rest}"

    @contextlib.contextmanager
    def request(
        self, method: str, url: str, *, expect: tuple[int, ...] = (200,), attempts: int = ATTEMPTS, **options: Any
    ) -> Iterator[requests.Response]:
        """Make a request, with authentication and retries.

        Parameters
        ----------
        method, url : str
            HTTP's.
        expect : tuple of int
            The statuses that are no failure.
        attempts : int
            How often to try where trying again may help.
        **options
            Of ``requests.Session.request``.

        Raises
        ------
        RegistryError
            The last failure.
        CancelledError
            The user gave up.
        """
        for attempt in range(1, attempts + 1):
            try:
                response = self._send(method, url, options)
            except requests.exceptions.SSLError as e:
                host, reason = self.base.partition("://")[2], _reason(e)
                hint = f"; a CA of your own belongs in {_CERTIFICATES[0]}/{host}/ca.crt"
                untrusted = "CERTIFICATE_VERIFY_FAILED" in reason  # else, nobody speaks TLS there
                raise RegistryError(f"{self.base}: TLS: {reason}{hint}", 495 if untrusted else 0) from None
            except requests.RequestException as e:
                failure, wait = RegistryError(f"{self.base}: {_reason(e)}"), 0.0
            else:
                if response.status_code in expect:
                    with response:
                        yield response
                    return
                with response:
                    failure, wait = self._refusal(response), _retry_after(response)
                if response.status_code not in _AGAIN:
                    raise failure
            if attempt == attempts:
                raise failure
            if self._cancelled.wait(min(_MOST_WAIT_SECONDS, wait or 0.25 * 2**attempt)):
                raise CancelledError("stopped")

    def _send(self, method: str, url: str, options: dict[str, Any]) -> requests.Response:
        if self._cancelled.is_set():
            raise CancelledError("stopped")
        response = self._once(method, url, options)
        if response.status_code == 401:
            challenge = response.headers.get("WWW-Authenticate", "")
            response.close()
            self._authorization = self._answer(challenge)
            response = self._once(method, url, options)
        return response

    def _once(self, method: str, url: str, options: dict[str, Any]) -> requests.Response:
        body = options.get("data")
        if body is not None and hasattr(body, "seek"):
            body.seek(0)
        headers = {"Accept-Encoding": "identity", **options.get("headers", {})}
        if self._authorization and url.startswith(self.base + "/"):
            headers["Authorization"] = self._authorization
        return self._session.request(
            method,
            url,
            stream=True,
            timeout=(CONNECT_SECONDS, READ_SECONDS),
            verify=self._verify,
            auth=_no_netrc,
            **{**options, "headers": headers},
        )

    def _answer(self, challenge: str) -> str:
        """Answer ``WWW-Authenticate``; return the value of ``Authorization``."""
        scheme, _, rest = challenge.partition(" ")
        basic = "Basic " + base64.b64encode(":".join(self._credentials).encode()).decode() if self._credentials else ""
        if scheme.lower() == "basic":
            if not basic:
                raise RegistryError(f"{self.domain} wants a user and a password: `%container login {self.domain}`", 401)
            return basic
        parameters = dict(_CHALLENGE.findall(rest))
        realm = parameters.get("realm", "")
        if scheme.lower() != "bearer" or not realm.startswith(("https://", "http://")):
            raise RegistryError(f"{self.domain}: unknown kind of authentication: {challenge[:80]!r}", 401)
        if realm.startswith("http://") and not self.insecure:
            raise RegistryError(f"{self.domain}: it sends passwords to {realm[:80]}, which is not encrypted", 401)
        query = {"scope": f"repository:{self.path}:{self.actions}"}
        if "service" in parameters:
            query["service"] = parameters["service"]
        with self._session.get(
            realm,
            params=query,
            headers={"Authorization": basic} if basic else {},
            timeout=(CONNECT_SECONDS, READ_SECONDS),
            verify=self._verify,
            auth=_no_netrc,
            stream=True,
        ) as response:
            if response.status_code != 200:
                raise RegistryError(f"{self.domain} refuses the login: {response.status_code} {response.reason}", 401)
            try:
                answer = json.loads(read_bounded(response))
                token = answer.get("token") or answer["access_token"]
            except (ValueError, KeyError, AttributeError):
                raise RegistryError(f"{self.domain}: its token service gave no token") from None
        return f"Bearer {token}"

    def _refusal(self, response: requests.Response) -> RegistryError:
        """Say in words what a registry refused: its own, where it sends any."""
        try:
            errors = json.loads(read_bounded(response, 65536))["errors"]
            words = "; ".join(str(e.get("message") or e.get("code")) for e in errors)[:300]
        except (ValueError, KeyError, TypeError, AttributeError, ImageError, requests.RequestException):
            words = response.reason or ""
        hint = {
            401: f" (`%container login {self.domain}` tells it who you are)",
            403: f" (`%container login {self.domain}` tells it who you are)",
            429: " (too many requests: log in, or wait)",
        }.get(response.status_code, "")
        return RegistryError(f"{self.domain}: {response.status_code} {words}{hint}", response.status_code)


def registries_for(
    reference: Reference, settings: Settings, cancelled: threading.Event, actions: str = "pull"
) -> list[Registry]:
    """List whom to ask, in this order: mirrors, then the registry itself; for pushing, it alone."""
    mirrors = settings.mirrors if reference.domain == DEFAULT_REGISTRY and actions == "pull" else ()
    host = _HUB if reference.domain == DEFAULT_REGISTRY else reference.domain
    bases = [f"https://{host}"]
    if host in settings.insecure or is_loopback(host):
        bases.append(f"http://{host}")
    found = [Registry(m, m.partition("://")[2].rstrip("/"), reference.path, settings, cancelled) for m in mirrors]
    return found + [Registry(base, reference.domain, reference.path, settings, cancelled, actions) for base in bases]


def read_bounded(response: requests.Response, most_bytes: int = MAX_DOCUMENT_BYTES) -> bytes:
    """Read an answer of bounded size.

    Raises
    ------
    RegistryError
        If it is larger, or stops.
    """
    data = b""
    try:
        for chunk in response.iter_content(65536):
            data += chunk
            if len(data) > most_bytes:
                raise RegistryError(f"{response.url}: the answer has more than {most_bytes:,} bytes")
    except requests.RequestException as e:
        raise RegistryError(f"{response.url}: {_reason(e)}") from None
    return data


def _verification(host: str, settings: Settings) -> bool | str:
    for directory in _CERTIFICATES:
        path = os.path.join(os.path.expanduser(directory), host, "ca.crt")
        if os.path.exists(path):
            return path
    if host in settings.insecure or is_loopback(host):  # as Docker: there, TLS is not verified
        warnings.filterwarnings("ignore", category=InsecureRequestWarning)
        return False
    return True


def _no_netrc(request: Any) -> Any:
    return request  # with an `auth`, requests does not look into ~/.netrc


def _retry_after(response: requests.Response) -> float:
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isdecimal() and len(text) < 6 else 0.0


def _reason(error: BaseException) -> str:
    """Return what was the matter, without the chain of wrappers."""
    cause: Any = error
    while True:
        inner = getattr(cause, "reason", None)
        if not isinstance(inner, BaseException):
            inner = next((a for a in getattr(cause, "args", ()) if isinstance(a, BaseException)), None)
        if inner is None or inner is cause:
            break
        cause = inner
    text = str(cause) or type(cause).__name__
    return re.sub(r"<[^>]*>:? ?|\S*Connection\S*\(host=.*?\): ?", "", text)[:300]

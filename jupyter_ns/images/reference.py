"""Names of images, in Docker's grammar."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import UsageError

DEFAULT_REGISTRY = "docker.io"
_DOMAIN = r"(?:localhost|[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]+)?"
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"{_PART}(?:/{_PART})*", re.ASCII)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", re.ASCII)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
_NAME_MAX = 255


@dataclass(frozen=True, slots=True)
class Reference:
    """A parsed name.

    Attributes
    ----------
    domain : str
        Of the registry, perhaps with a port.
    path : str
        Of the repository.
    tag : str
        ``latest`` where none was given, empty beside a digest.
    digest : str
        ``sha256:…`` or empty.
    """

    domain: str
    path: str
    tag: str
    digest: str = ""

    @property
    def repository(self) -> str:
        """Domain and path."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar(self) -> str:
        """The repository as people write it: without ``docker.io/library/``."""
        if self.domain != DEFAULT_REGISTRY:
            return self.repository
        return self.path.removeprefix("library/")

    def __str__(self) -> str:
        return f"{self.repository}{f':{self.tag}' if self.tag else ''}{f'@{self.digest}' if self.digest else ''}"

    @property
    def short(self) -> str:
        """All of it, as people write it."""
        return str(self).replace(self.repository, self.familiar, 1)


def parse_reference(text: str) -> Reference:
    """Read a name as Docker does, filling in what it leaves out.

    Raises
    ------
    UsageError
        If it is no name of an image.

    Notes
    -----
    github.com/distribution/reference, ``ParseNormalizedNamed``.

    Examples
    --------
    >>> str(parse_reference("alpine")), str(parse_reference("localhost:5000/a/b:1"))
    ('docker.io/library/alpine:latest', 'localhost:5000/a/b:1')
    >>> parse_reference("docker.io/library/alpine:3").short
    'alpine:3'
    """
    rest, _, digest = text.partition("@")
    if digest and not _DIGEST.fullmatch(digest):
        raise UsageError(f"{text!r}: expected a digest of sha256: and 64 hexadecimal digits after @")
    first, slash, after = rest.partition("/")
    named = slash and (any(c in first for c in ".:[") or first == "localhost" or first != first.lower())
    domain, path = (first, after) if named else (DEFAULT_REGISTRY, rest)
    name, _, tag = path.partition(":")
    if not re.fullmatch(_DOMAIN, domain) or (path.endswith(":")) or (tag and not _TAG.fullmatch(tag)):
        raise UsageError(f"{text!r}: invalid reference format; expected NAME[:TAG|@DIGEST]")
    if name != name.lower():
        raise UsageError(f"{text!r}: invalid reference format: repository name must be lowercase")
    if not _NAME.fullmatch(name) or len(name) > _NAME_MAX:
        raise UsageError(f"{text!r}: invalid reference format; expected NAME[:TAG|@DIGEST]")
    if domain == "index.docker.io":
        domain = DEFAULT_REGISTRY
    if domain == DEFAULT_REGISTRY and "/" not in name:
        name = f"library/{name}"
    return Reference(domain, name, tag or ("" if digest else "latest"), digest)

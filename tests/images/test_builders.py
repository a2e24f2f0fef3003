"""What a Dockerfile becomes, beside what another builder makes of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tools import fill_context, needs

from jupyter_ns.build import BuildRequest, build
from jupyter_ns.images import archive
from jupyter_ns.images.merged import Stack
from jupyter_ns.images.store import Store

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="other tools unpack owners as root only")

DOCKERFILE = """FROM scratch AS files
COPY sub /
COPY --chown=5:6 b.sh link /bin/
FROM scratch
ENV A="x y" B=$A
ENV B=${A:-no}-${C:-none}
LABEL l="$A"
WORKDIR /srv/here
COPY . .
COPY a.txt link renamed/
COPY a.txt ./as
COPY sub/ sub/deep/ /merged/
COPY --from=files / /stage/
COPY --from=files --chown=9:9 /bin/b.sh /stage/deep/
ADD t.tgz a.txt /added/
COPY *.txt b.s? /some/
EXPOSE 80/tcp
USER 1:2
VOLUME /data
ENTRYPOINT ["/bin/b.sh"]
CMD ["x"]
"""


@pytest.fixture
def context(tmp_path: Path) -> Path:
    top = fill_context(tmp_path / "context", "*.log\n")
    (top / "Dockerfile").write_text(DOCKERFILE)
    return top


def listing(stack: Stack) -> dict[str, tuple[object, ...]]:
    """Return what stands at each path: kind and permissions, owner, content."""
    made: dict[str, tuple[object, ...]] = {}
    for path, (_, here, info) in stack.walk():
        content: object = os.readlink(here) if os.path.islink(here) else ""
        if os.path.isfile(here) and not os.path.islink(here):
            content = Path(here).read_bytes()
        made[path] = (oct(info.st_mode), info.st_uid, info.st_gid, content)
    return made


@needs("podman")
def test_it_makes_what_podman_makes(
    context: Path, tmp_path: Path, podman: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_NS_DATA", str(tmp_path / "data"))
    build(BuildRequest(DOCKERFILE, str(context), ("ours",)), lambda _: None, lambda *_: None)
    podman("build", "--quiet", "--format", "docker", "-t", "theirs", context)
    podman("save", "-q", "-o", tmp_path / "theirs.tar", "theirs")
    store = Store()
    archive.load(store, str(tmp_path / "theirs.tar"))
    ours, theirs = store.find("ours"), store.find("localhost/theirs")
    assert listing(Stack(store.lower_directories(ours))) == listing(Stack(store.lower_directories(theirs)))
    expected = {key: value for key, value in theirs.runtime.items() if value}
    expected["Env"] = [entry for entry in expected["Env"] if not entry.startswith("PATH=")]
    expected.pop("Hostname")
    expected["Labels"].pop("io.buildah.version", None)
    assert {key: value for key, value in ours.runtime.items() if value} == expected

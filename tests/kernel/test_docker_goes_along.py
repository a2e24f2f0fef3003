"""What goes along with a copy, and what goes with a container."""

from __future__ import annotations

import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from docker_shell import Docker
from ordinary_user import run_as_ordinary_user
from processes import soon

from jupyter_ns.lifecycle import ask

pytestmark = pytest.mark.needs("overlay")
# cap_net_raw+ep, revision 2: linux/capability.h
CAPABILITY = bytes.fromhex("0100000200200000" + "00" * 12)
BINARY = b"\x00\xff not text"


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    top = tmp_path / "src"
    (top / "deep").mkdir(parents=True)
    (top / "file").write_text("text")
    try:
        os.setxattr(top / "file", "user.mime_type", b"text/plain")
    except OSError as e:
        pytest.skip(f"no extended attributes of users below {tmp_path}: {e.strerror}")
    os.setxattr(top / "file", "user.binary", BINARY)
    os.setxattr(top / "deep", "user.about", b"a directory")
    if os.geteuid() == 0:
        os.setxattr(top / "file", "security.capability", CAPABILITY)
    yield top


def attributes(path: Path) -> dict[str, bytes]:
    return {name: os.getxattr(path, name) for name in os.listxattr(path)}


@pytest.mark.needs("root")
def test_a_copy_has_its_extended_attributes(docker: Docker, tree: Path, tmp_path: Path) -> None:
    docker("run -d --name web host sleep 100")
    docker(f"cp -a {tree} web:/srv/all")
    docker(f"cp {tree} web:/srv/plain")
    look = "import os, sys; print(sorted((n, os.getxattr(sys.argv[1], n)) for n in os.listxattr(sys.argv[1])))"
    users = [("user.binary", BINARY), ("user.mime_type", b"text/plain")]
    for where, expected in (("all", [("security.capability", CAPABILITY), *users]), ("plain", users)):
        assert docker(f"exec web python3 -c '{look}' /srv/{where}/file") == f"{expected}\n"
        assert docker(f"exec web python3 -c '{look}' /srv/{where}/deep") == "[('user.about', b'a directory')]\n"
    # Without -a, a file of another owner's gets no capabilities on the host.
    docker(f"cp -a web:/srv/all {tmp_path}/all")
    docker(f"cp web:/srv/all {tmp_path}/mine")
    assert attributes(tmp_path / "all/file") == {"security.capability": CAPABILITY, **dict(users)}
    assert attributes(tmp_path / "mine/file") == dict(users)
    assert attributes(tmp_path / "mine/deep") == {"user.about": b"a directory"}
    assert (tmp_path / "all/file").read_text() == "text"


@pytest.mark.needs("root")
def test_an_archive_has_them_too(docker: Docker, tree: Path, tmp_path: Path) -> None:
    docker("run -d --name web host sleep 100")
    docker(f"cp -a {tree} web:/srv/all")
    docker(f"cp web:/srv/all - > {tmp_path}/a.tar")
    with tarfile.open(tmp_path / "a.tar") as tar:
        headers = {m.name: m.pax_headers for m in tar}
    assert headers["all/file"]["SCHILY.xattr.user.mime_type"] == "text/plain"
    assert headers["all/deep"]["SCHILY.xattr.user.about"] == "a directory"
    # GNU tar reads what we wrote, and we what it writes.
    (tmp_path / "out").mkdir()
    options = ["--xattrs", "--xattrs-include=*"]
    subprocess.run(["tar", *options, "-C", tmp_path / "out", "-xf", tmp_path / "a.tar"], check=True)
    expected = {"user.mime_type": b"text/plain", "user.binary": BINARY, "security.capability": CAPABILITY}
    assert attributes(tmp_path / "out/all/file") == expected
    subprocess.run(["tar", *options, "-C", tree, "-cf", tmp_path / "b.tar", "file", "deep"], check=True)
    docker(f"cp - web:/opt < {tmp_path}/b.tar")
    docker(f"cp -a web:/opt/file {tmp_path}/back")
    assert attributes(tmp_path / "back") == expected


def test_what_steers_an_overlay_does_not_come_along(docker: Docker, tmp_path: Path) -> None:
    """An archive that says so would make a directory of the container's opaque."""
    info = tarfile.TarInfo("evil")
    info.type, info.mode = tarfile.DIRTYPE, 0o755
    info.pax_headers = {f"SCHILY.xattr.{name}": "y" for name in ("trusted.overlay.opaque", "user.overlay.opaque")}
    with tarfile.open(tmp_path / "e.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(info)
    docker("run -d --name web host sleep 100")
    docker(f"cp - web:/srv < {tmp_path}/e.tar")
    assert docker("exec web python3 -c 'import os; print(os.listxattr(\"/srv/evil\"))'") == "[]\n"


# ---- unnamed volumes ----


def volumes() -> set[str]:
    return set(os.listdir(Path(os.environ["JUPYTER_NS_DATA"], "volumes")))


def test_an_unnamed_volume_goes_with_a_detached_container(docker: Docker) -> None:
    docker("volume create named")
    before = volumes()
    for line, end in (
        ("-d -i --rm --name one -v /data -v named:/named host sh -c 'echo x > /data/x; read line'", "attach one"),
        ("-d --rm --name two -v /data host sleep 100", "stop -t 0 two"),
        ("-d --rm --name three -v /data host sleep 100", "rm -f three"),
    ):
        docker(f"run {line}")
        assert len(volumes()) == len(before) + 1
        docker(end, "a line\n" if "-i" in line else None)
        assert soon(lambda: volumes() == before), line
    docker("run -d --name four -v /data host true")
    docker("wait four")
    docker("rm four")
    assert len(volumes()) == len(before) + 1  # as Docker: it is kept where --rm was not said
    docker("volume prune -f")
    docker("volume rm named")


def test_it_outlives_a_restart_but_not_the_container(docker: Docker) -> None:
    docker("run -d --rm --name web -v /data host sh -c 'echo x >> /data/x; exec sleep 100'")
    (name,) = volumes()
    assert soon(lambda: docker("exec web sh -c 'cat /data/x; true'") == "x\n")
    docker("restart -t 0 web")
    assert volumes() == {name}
    assert soon(lambda: docker("exec web cat /data/x") == "x\nx\n")
    docker("stop -t 0 web")
    assert soon(lambda: not volumes())


GONE = """
import os
from jupyter_ns import run
from jupyter_ns.client import close_client
there = os.environ["JUPYTER_NS_DATA"] + "/volumes"
for kwargs in ({"rm": True}, {}):
    c = run("sh", "-c", "echo x > /data/x; exec sleep 100", detach=True, volume="/data", workdir="/", **kwargs)
    print(len(os.listdir(there)))
close_client()
print(len(os.listdir(there)))
"""


@pytest.mark.needs("root", "userns")
def test_it_goes_with_the_kernel_of_an_ordinary_user_too() -> None:
    assert run_as_ordinary_user(GONE) == ["1", "2", "1"]


def test_what_the_engine_has_is_not_removed_meanwhile(docker: Docker) -> None:
    docker("run -d --rm --name web -v /data host sleep 100")
    docker("run -d --rm --name side --volumes-from web host sleep 100")
    docker("stop -t 0 web")
    assert len(volumes()) == 1 and docker("exec side ls -d /data") == "/data\n"
    docker("stop -t 0 side")
    assert soon(lambda: docker("volume prune -f") != "" and not volumes())
    assert ask("list") == []

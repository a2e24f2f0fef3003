"""Docker's subcommands about images and volumes, and what they print."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from jupyter_ns import run
from jupyter_ns.client import get_client
from jupyter_ns.errors import ImageError, UsageError
from jupyter_ns.frontend.commands import stored
from jupyter_ns.frontend.commands.console import Console
from jupyter_ns.images import volumes
from jupyter_ns.images.record import hex_of
from jupyter_ns.images.store import Store

pytestmark = pytest.mark.needs("root")


@pytest.fixture(autouse=True)
def store() -> Iterator[Store]:
    store = Store()
    yield store
    get_client().sync()
    for image in store.images():
        store.remove(image.id)
    for volume in volumes.volumes(store):
        volumes.remove(store, volume.name)
    store.collect()


class Docker:
    """Types a line, and returns what it printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, line: str, cell: str | None = None) -> str:
        self._capsys.readouterr()
        assert stored.dispatch(Console(cell=cell), shlex.split(line))
        return self._capsys.readouterr().out


@pytest.fixture
def docker(capsys: pytest.CaptureFixture[str]) -> Docker:
    return Docker(capsys)


def test_images_history_inspect(docker: Docker, store: Store) -> None:
    assert docker("images") == "REPOSITORY   TAG       IMAGE ID   CREATED   SIZE\n"
    history = docker("history busybox").splitlines()
    image = store.find("busybox")
    short = hex_of(image.id)[:12]
    assert re.fullmatch(r"IMAGE +CREATED +CREATED BY +SIZE +COMMENT", history[0])
    assert re.fullmatch(rf"{short} +\d+ years ago +made of busybox \(\d+ applets\) +[\d.]+MB +", history[1])
    docker("tag busybox localhost:5000/mine:1")
    lines = docker("images").splitlines()
    assert re.fullmatch(r"REPOSITORY +TAG +IMAGE ID +CREATED +SIZE", lines[0])
    assert re.fullmatch(rf"busybox +latest +{short} +\d+ years ago +[\d.]+MB", lines[1])
    assert lines[2].split()[:3] == ["localhost:5000/mine", "1", short] and len(lines) == 3
    assert docker("image ls -q --no-trunc") == f"{image.id}\n"
    assert docker("images busybox --format '{{.Repository}}:{{.Tag}}'") == "busybox:latest\n"
    assert docker("images -f reference='*mine' -q") == f"{short}\n"
    assert docker("images -f dangling=true -q") == ""
    (found,) = json.loads(docker("image inspect busybox"))
    assert found["Id"] == image.id and found["RepoTags"] == ["busybox:latest", "localhost:5000/mine:1"]
    assert found["RootFS"]["Layers"] == [image.layers[0].diff_id] and found["Config"]["Cmd"] == ["sh"]
    assert docker("image inspect -f '{{.Os}}/{{.Architecture}}' busybox").startswith("linux/")


def test_removal(docker: Docker, store: Store) -> None:
    docker("history busybox")
    image = store.find("busybox")
    docker("tag busybox other")
    with pytest.raises(ImageError, match="must be forced"):
        docker(f"rmi {hex_of(image.id)[:12]}")
    assert docker("rmi other") == "Untagged: other:latest\n"
    run("true", image="busybox")  # leaves a parked container, which lets go
    assert docker("image rm busybox").splitlines() == [
        "Untagged: busybox:latest",
        f"Deleted: {image.id}",
        f"Deleted: {image.chains[0]}",
    ]
    with pytest.raises(ImageError, match="No such image"):
        docker("rmi gone")


def test_archives(docker: Docker, store: Store, tmp_path: Path) -> None:
    docker("history busybox")
    image = store.find("busybox")
    docker(f"save -o {tmp_path}/a.tar busybox")
    docker("rmi busybox")
    assert docker(f"load -i {tmp_path}/a.tar") == "Loaded image: busybox:latest\n"
    assert store.find("busybox").id == image.id
    (tmp_path / "f").write_text("text\n")
    subprocess.run(["tar", "-C", tmp_path, "-cf", tmp_path / "f.tar", "f"], check=True)
    out = docker(f"import -c 'CMD [\"/f\"]' -m note {tmp_path}/f.tar files:1")
    assert out.strip() == store.find("files:1").id
    assert store.find("files:1").runtime == {"Cmd": ["/f"]}
    assert docker("history files:1 --format '{{.Comment}}'") == "note\n"
    with pytest.raises(UsageError, match="-o FILE"):
        docker("save busybox")
    with pytest.raises(UsageError, match="No such file or directory"):
        docker(f"save -o {tmp_path}/no/where.tar busybox")
    with pytest.raises(ImageError):
        docker(f"save -o {tmp_path}/b.tar gone")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tar", "f", "f.tar"]


def test_layers(docker: Docker) -> None:
    assert docker("layers busybox").startswith("busybox\n└─ layer 1 ")
    assert docker("layers busybox /bin/sh /etc") == (
        "/bin/sh: layer 1 has it  (what is seen)\n/etc: layer 1 has it  (what is seen)\n"
    )


def test_volumes_and_system(docker: Docker, store: Store) -> None:
    assert docker("volume create --label a=b data") == "data\n"
    assert docker("volume ls") == "DRIVER    VOLUME NAME\nlocal     data\n"
    (found,) = json.loads(docker("volume inspect data"))
    assert (found["Name"], found["Driver"], found["Labels"]) == ("data", "local", {"a": "b"})
    assert docker("volume ls -q -f label=a=c") == ""
    run("sh", "-c", "head -c 5000 /dev/zero > /d/f", image="busybox", volume="data:/d")
    get_client().sync()
    lines = [re.split(r" {2,}", line.strip()) for line in docker("system df").splitlines()]
    assert lines[0] == ["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"]
    assert lines[1][:3] == ["Images", "1", "0"] and lines[1][4].endswith("(100%)")
    assert lines[3] == ["Local Volumes", "1", "0", "5kB", "5kB (100%)"]
    assert "UNIQUE SIZE" in docker("system df -v")
    assert docker("volume prune").endswith("reclaimed space: 0B\n")  # it has a name
    assert docker("system prune -a").splitlines()[-1].startswith("Total reclaimed space: ")
    assert store.images() == [] and docker("volume rm data") == "data\n"
    with pytest.raises(ImageError, match="no such volume"):
        docker("volume rm data")
    assert docker("volume rm -f data") == ""


def test_info(docker: Docker) -> None:
    text = docker("info")
    assert " Storage Driver: overlayfs\n" in text and "\n  seccomp\n" in text
    version = get_client().facts.cgroup.get("version", 0)
    assert f" Cgroup Version: {version}\n" in text
    assert docker("info -f '{{.Driver}} {{.CgroupVersion}}'") == f"overlayfs {version}\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("image foo", "there are: image build"),
        ("images --foo", "unknown option --foo"),
        ("volume create a/b", "invalid characters"),
        ("history", "requires 1 argument"),
        ("build .", "failed to read dockerfile ./Dockerfile: No such file"),
        ("load", "load -i FILE"),
        ("import -", "or - and < FILE"),
        ("pull host", "here already"),
        ("tag host x", "no image of the store"),
        ("images -f x=y busybox", "invalid filter"),
        ("pull nowhere.invalid/x", r"cannot be pulled: .*busybox.*host"),
    ],
)
def test_what_is_refused(line: str, message: str, docker: Docker) -> None:
    docker("history busybox")
    with pytest.raises((UsageError, ImageError), match=message):
        docker(line)


def test_login(docker: Docker, store: Store) -> None:
    assert "Kept for localhost:5000" in docker("login -u me --password-stdin localhost:5000", cell="secret\n")
    assert docker("logout localhost:5000") == "Removing login credentials for localhost:5000\n"
    assert docker("logout localhost:5000") == "Not logged in to localhost:5000\n"
    assert "secret" not in Path(store.path("auth.json")).read_text()


def test_in_a_notebook_tables_are_html(docker: Docker) -> None:
    shown: list[dict[str, str]] = []
    docker("history busybox")
    assert stored.dispatch(Console(shown.append), ["images"])
    assert "<table" in shown[0]["text/html"] and "busybox" in shown[0]["text/plain"]


def test_other_words_are_left_to_others() -> None:
    assert not stored.dispatch(Console(), ["ps"]) and not stored.dispatch(Console(), [])

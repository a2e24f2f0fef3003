"""Containers of images that live on: commit, export, bundles and command lines, as typed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from jupyter_ns import run
from jupyter_ns.client import get_client
from jupyter_ns.errors import ContainerError, ImageError, UnsupportedError, UsageError
from jupyter_ns.frontend.commands import table
from jupyter_ns.frontend.commands.console import Console
from jupyter_ns.frontend.docker import split_line
from jupyter_ns.images import volumes
from jupyter_ns.images.store import Store
from jupyter_ns.lifecycle import ask
from jupyter_ns.runner import Cell, Run, Sink
from jupyter_ns.spec import ContainerSpec

pytestmark = pytest.mark.needs("overlay", "root")


class Docker:
    """Types lines after ``docker``; returns what they print."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.shell = SimpleNamespace(user_ns={})

    def __call__(self, line: str) -> str:
        self._capsys.readouterr()
        table.dispatch(Console(shell=self.shell), split_line(line).words)
        return self._capsys.readouterr().out


@pytest.fixture
def docker(capsys: pytest.CaptureFixture[str]) -> Iterator[Docker]:
    yield Docker(capsys)
    for row in ask("list"):
        ask("remove", of=row["id"], force=True)
    get_client().sync()
    store = Store()
    for image in store.images():
        store.remove(image.id)
    for volume in volumes.volumes(store):
        volumes.remove(store, volume.name)
    store.collect()


def test_a_container_of_an_image_lives_and_is_committed(docker: Docker) -> None:
    store = Store()
    identity = docker("run -d --name test-container busybox sleep 1000").strip()
    assert re.fullmatch("[0-9a-f]{64}", identity)
    docker("exec test-container sh -c 'echo new > /srv; rm /etc/shells; mkdir -p /a/b; chown 5:6 /a'")
    assert docker("diff test-container").splitlines() == ["A /a", "A /a/b", "C /etc", "D /etc/shells", "A /srv"]
    assert "busybox" in docker("ps") and '"sleep 1000"' in docker("ps")
    assert '"Pid"' in docker("inspect test-container")
    with pytest.raises(ImageError, match="using it"):
        docker("rmi busybox")
    image = docker('commit -m note -c \'CMD ["cat", "/srv"]\' test-container mine:1').strip()
    assert store.find("mine:1").id == image
    assert json.loads(docker("inspect test-container"))[0]["State"]["Status"] == "running"
    assert docker("run --rm mine:1") == "new\n"
    assert docker("run --rm mine:1 sh -c 'ls /etc/shells 2>/dev/null; stat -c %u:%g /a'") == "5:6\n"
    rows = docker("history mine:1").splitlines()
    assert "sleep 1000" in rows[1] and rows[1].rstrip().endswith("note") and len(rows) == 3
    docker("stop -t 0 test-container")
    with pytest.raises(ImageError, match="using it"):  # it is still there, as with Docker
        docker("rmi busybox")
    docker("rm test-container")
    docker("rmi mine:1")
    docker("rmi busybox")
    assert store.images() == []


def test_a_container_is_started_again_with_its_files(docker: Docker) -> None:
    docker("run --name again busybox sh -c 'echo x >> /count; cat /count'")
    docker("start again")
    docker("wait again")
    assert docker("diff again").splitlines() == ["A /count"]
    assert docker("logs again").endswith("x\nx\n")
    docker("commit again twice")
    assert docker("run --rm twice cat /count") == "x\nx\n"


def test_exported_files(docker: Docker, tmp_path: Path) -> None:
    docker("run -d --name busy busybox sh -c 'rm -r /var; echo here > /file; sleep 1000'")
    docker("exec busy sh -c 'until test -e /file; do :; done'")
    docker(f"export -o {tmp_path}/out.tar busy")
    with tarfile.open(tmp_path / "out.tar") as tar:
        names = tar.getnames()
        file = tar.extractfile("file")
        assert file is not None and file.read() == b"here\n"
    assert "bin/busybox" in names and not any(n.startswith("var") for n in names)
    assert not any(n.startswith(("dev/", "proc/", "sys/")) for n in names)
    docker(f"import {tmp_path}/out.tar flat")
    assert docker("run --rm flat cat /file") == "here\n"


def test_with_mapped_owners_it_is_committed_as_it_is_inside(docker: Docker, tmp_path: Path) -> None:
    docker("run -d --name mapped --userns private busybox sh -c 'touch /f; chown 7:8 /f; sleep 1000'")
    docker("exec mapped sh -c 'until test $(stat -c %u /f) = 7; do :; done'")
    docker("commit mapped owned")
    assert docker("run --rm owned stat -c %u:%g /f") == "7:8\n"
    docker(f"export -o {tmp_path}/out.tar mapped")
    with tarfile.open(tmp_path / "out.tar") as tar:
        assert [(m.uid, m.gid) for m in map(tar.getmember, ("f", "bin/busybox"))] == [(7, 8), (0, 0)]


def test_bundles_and_command_lines(docker: Docker, tmp_path: Path) -> None:
    docker("run -d --name orig -m 64m -e A=b busybox sh -c 'echo $A; sleep 1000'")
    line = docker("docker-command orig").strip()
    assert line.startswith("docker run --detach --name orig --memory 67108864") and "--network none" in line
    out = docker(f"export --bundle {tmp_path}/bundle orig")
    assert out == f"crun run --bundle {tmp_path}/bundle orig\n"
    config = json.loads((tmp_path / "bundle/config.json").read_text())
    assert config["linux"]["resources"]["memory"] == {"limit": 64 << 20, "swap": 128 << 20}
    container = run("sh", "-c", "echo $A", image="busybox", env="A=c", cpus=0.5)
    docker.shell.user_ns["kept"] = container
    assert "--cpus 0.5" in docker("docker-command kept")
    docker(f"export --bundle {tmp_path}/second kept")
    if shutil.which("runc"):
        done = subprocess.run(
            ["runc", "run", "--bundle", tmp_path / "second", "jns-test"], capture_output=True, text=True, check=True
        )
        assert done.stdout == "c\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("commit none x", "No such container"),
        ("export -o /dev/null none", "No such container"),
        ("docker-command none", "No such container"),
        ("export hosts -o /dev/null", "machine's own files"),
        ("run nowhere.invalid/x", "cannot be pulled"),
        ("inspect none", "No such object"),
        ("run --entrypoint '' busybox", "no command specified"),
    ],
)
def test_what_is_refused(line: str, message: str, docker: Docker) -> None:
    docker("run -d --name hosts host sleep 1000")
    with pytest.raises((ContainerError, UsageError), match=message):
        docker(line)


def test_inspect_finds_images_too(docker: Docker) -> None:
    docker("history busybox")
    assert docker("inspect -f '{{.Config.Cmd}}' busybox") == "[sh]\n"
    assert docker("inspect --type image -f '{{.Os}}' busybox") == "linux\n"


def test_a_volume_belongs_to_its_container_as_long_as_it_is_there(docker: Docker) -> None:
    docker("run --name user -v shared:/data busybox touch /data/x")
    with pytest.raises(ImageError, match="in use"):
        docker("volume rm shared")
    docker("rm user")
    assert docker("volume rm shared") == "shared\n"


# ---- images over this machine's own files ----


def test_a_container_of_the_hosts_files_is_committed(docker: Docker) -> None:
    store = Store()
    script = "echo one > /srv/made; rm /etc/shells; mkdir -p /opt/d/e; chown 5:6 /opt/d; echo ready; sleep 1000"
    docker(f"run -d --name web host sh -c '{script}'")
    while "ready" not in docker("logs web"):
        time.sleep(0.02)
    before = docker("diff web")
    assert {"D /etc/shells", "A /srv/made", "A /opt/d"} <= set(before.splitlines())
    image = docker("commit -m lesson web mine:1").strip()
    assert store.image(image).base == "host"
    assert docker("run --rm mine:1 cat /srv/made") == "one\n"
    assert docker("run --rm mine:1 sh -c 'test -e /etc/shells || stat -c %u:%g /opt/d; test -d /proc/self'") == "5:6\n"
    assert Path("/etc/shells").exists() and not Path("/srv/made").exists()
    # The host's files are seen below it as they are now; its own layer is told from theirs.
    docker("run --name second mine:1 sh -c 'echo two >> /srv/made; rm -r /opt/d; touch /srv/more'")
    assert docker("diff second").splitlines() == ["C /opt", "D /opt/d", "C /srv", "C /srv/made", "A /srv/more"]
    docker("commit second mine:2")
    assert len(store.find("mine:2").layers) == 2
    assert (
        docker("run --rm mine:2 sh -c 'cat /srv/made; test -e /opt/d || echo gone; pwd'")
        == f"one\ntwo\ngone\n{os.getcwd()}\n"
    )
    history = docker("history mine:2")
    assert "this machine's own files" in history.splitlines()[-1] and "lesson" in history
    assert json.loads(docker("inspect mine:2"))[0]["Parent"] == "host"
    drawn = docker("layers mine:1").split()
    assert "/srv/made" in drawn and "/etc" not in drawn
    assert docker("layers mine:1 /etc/shells") == ("/etc/shells: layer 1 hides it\n/etc/shells: this machine has it\n")


def test_such_an_image_stays_here(docker: Docker, tmp_path: Path) -> None:
    docker("run --name web host touch /srv/made")
    docker("commit web mine")
    for line in (f"save -o {tmp_path}/x.tar mine", "push localhost:1/mine"):
        docker("tag mine localhost:1/mine")
        with pytest.raises(ImageError, match="in none of its layers"):
            docker(line)
    assert os.listdir(tmp_path) == []
    for line in (f"export -o {tmp_path}/x.tar web", f"export --bundle {tmp_path}/b of-mine"):
        docker("run --rm=false --name of-mine mine true") if "of-mine" in line else None
        with pytest.raises(UnsupportedError, match="this machine's own files"):
            docker(line)


@pytest.mark.parametrize("userns", ["", "--userns private"])
def test_it_is_what_the_container_had_with_mounts_and_user_namespaces(
    docker: Docker, tmp_path: Path, userns: str
) -> None:
    """What lies on a file system of its own, as the notebook's directory below /tmp does here, is in the layer too."""
    place = tmp_path / "nb"
    place.mkdir()
    (place / "old").write_text("old")
    docker(f"run --name web {userns} -w {place} host sh -c 'echo new > new; rm old; touch /srv/made'")
    docker("commit web mine")
    assert (
        docker(f"run --rm {userns} -w {place} mine sh -c 'ls; cat new; stat -c %u new /srv/made'") == "new\nnew\n0\n0\n"
    )
    assert os.listdir(place) == ["old"]


@pytest.mark.usefixtures("zygote")
def test_a_python_cell_runs_in_it(docker: Docker) -> None:
    docker("run --name web host sh -c 'echo 41 > /srv/number'")
    docker("commit web mine")
    spec = ContainerSpec(python=True, image="mine", workdir="/")
    container = Run(get_client(), spec, Sink()).execute(cell=Cell(source="int(open('/srv/number').read()) + 1"))
    assert container.value == 42

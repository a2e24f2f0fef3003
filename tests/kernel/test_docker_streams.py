"""What goes into containers and comes out of them as a stream: attach, exec -d, archives, redirections, volumes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from docker_shell import Docker
from IPython.core.error import UsageError
from processes import soon

from jupyter_ns.errors import ContainerExitError, ImageError
from jupyter_ns.lifecycle import ask

pytestmark = pytest.mark.needs("overlay")


# ---- what a shell puts into a line ----


def test_commands_are_substituted_as_a_shell_does(docker: Docker, tmp_path: Path) -> None:
    names = [docker(f"run -d --name {name} -l kept={name} host sleep 1000").strip() for name in ("one", "two")]
    assert docker("inspect -f '{{.Id}}' $(docker ps -aq --filter label=kept=two)").split() == [names[1]]
    assert docker("inspect -f '{{.Name}}' $(docker ps -q | tail -1)") == "/one\n"
    (tmp_path / "two words").mkdir()
    (tmp_path / "two words/f").write_text("of the host\n")
    os.symlink(tmp_path / "two words", tmp_path / "link")
    line = f'run --rm -v "$(readlink {tmp_path}/link)":/srv:ro host cat /srv/f'
    assert docker(line) == "of the host\n"
    # Between single quotes it is the container's shell's.
    assert docker("exec one sh -c 'echo $(readlink /proc/self/ns/uts)'").strip() != os.readlink("/proc/self/ns/uts")
    assert docker('exec one sh -c "echo $(readlink /proc/self/ns/uts)"').strip() == os.readlink("/proc/self/ns/uts")
    with pytest.raises(UsageError, match="parenthesis"):
        docker("rm -f $(docker ps -q")
    docker("rm -f $(docker ps -aq)")
    assert ask("list") == []


# ---- attach, exec -d ----


def test_attach_gives_the_cells_text_to_a_shell_that_waits(docker: Docker) -> None:
    docker("run -d -i --name box host sh")
    assert docker("inspect -f '{{.Config.OpenStdin}}' box") == "true\n"
    assert docker("attach --timeout 3 box", "name=value; hostname\n") == docker("ps -q")
    assert docker("attach box", "echo $name; exit 5\n") == "value\n"
    assert docker("wait box") == "5\n"


def test_attach_types_into_a_terminal(docker: Docker) -> None:
    docker("run -dit --name box host sh")
    assert "it is one" in docker("attach box", "test -t 0 && echo it is one\nexit\n")


def test_attach_to_closed_input_says_how_it_is_left_open(docker: Docker) -> None:
    docker("run -d --name box host sleep 1000")
    assert docker("inspect -f '{{.Config.OpenStdin}}' box") == "false\n"
    with pytest.raises(UsageError, match="run -d -i"):
        docker("attach box", "ls\n")
    assert docker("attach --no-stdin --timeout 0.1 box", "ls\n") == ""


def test_input_that_was_closed_is_so_after_a_new_start(docker: Docker) -> None:
    docker("run -d --name reads host sh -c 'cat; echo done'")
    docker("wait reads")
    docker("start reads")
    assert soon(lambda: docker("logs reads") == "done\ndone\n")


def test_exec_in_the_background(docker: Docker) -> None:
    docker("run -d --name web host sleep 1000")
    assert docker("exec -d web sh -c 'echo lost; echo kept > /root/out; exec sleep 1001'") == ""
    assert soon(lambda: "sleep 1001" in docker("top web"))
    assert (docker("exec web cat /root/out"), docker("logs web")) == ("kept\n", "")
    with pytest.raises(ContainerExitError):
        docker("exec -d web no-such-program")
    docker("exec -d web true")
    docker("rm -f web")


# ---- a shell's marks ----


def test_redirections(docker: Docker, tmp_path: Path) -> None:
    docker("run -d --name web host sh -c 'echo out; echo err >&2; sleep 1000'")
    assert soon(lambda: docker("logs web 2>&1 | wc -l") == "2\n")
    docker(f"logs web > '{tmp_path}/a file'")
    assert (tmp_path / "a file").read_text() == "out\n"
    (tmp_path / "script").write_text("echo from a file")
    assert docker(f"exec -i web sh < {tmp_path}/script") == "from a file\n"
    with pytest.raises(UsageError, match="no such file"):
        docker(f"exec -i web sh < {tmp_path}/none")
    with pytest.raises(UsageError, match="No such container"):
        docker(f"logs nobody > {tmp_path}/never")
    assert not (tmp_path / "never").exists()


@pytest.mark.needs("root")
def test_archives_through_pipes(docker: Docker, tmp_path: Path) -> None:
    docker(f"save busybox | gzip > {tmp_path}/busybox.tar.gz")
    assert docker(f"load < {tmp_path}/busybox.tar.gz") == "Loaded image: busybox:latest\n"
    docker("run --name made busybox sh -c 'echo hi > /there'")
    docker(f"export made > {tmp_path}/files.tar")
    docker(f"import - again < {tmp_path}/files.tar")
    assert docker("run --rm again cat /there") == "hi\n"
    with pytest.raises(UsageError, match="save … > FILE"):
        docker("save busybox")
    docker("rm made")
    docker("rmi busybox again")


# ---- cp with an archive ----


def test_cp_out_as_an_archive(docker: Docker, tmp_path: Path) -> None:
    script = (
        "mkdir -m 750 -p /srv/d/e; head -c 3000000 /dev/zero > /srv/d/e/f; ln -s f /srv/d/e/l; chown 7:8 /srv/d/e/f"
    )
    docker(f"run --name made host sh -c '{script}'")
    docker(f"cp made:/srv/d - > {tmp_path}/d.tar")
    with tarfile.open(tmp_path / "d.tar") as tar:
        found = {member.name: member for member in tar}
    assert list(found) == ["d", "d/e", "d/e/f", "d/e/l"]
    assert (found["d/e"].mode, found["d/e/f"].size, found["d/e/l"].linkname) == (0o750, 3_000_000, "f")
    assert (found["d/e/f"].uid, found["d/e/f"].gid) == (7, 8)
    assert docker("cp made:/srv/d/. - | tar -t").split() == ["./", "e/", "e/f", "e/l"]


def test_cp_in_from_an_archive(docker: Docker, tmp_path: Path) -> None:
    source = tmp_path / "src"
    (source / "deep/er").mkdir(parents=True)
    (source / "deep/er/f").write_bytes(os.urandom(2_000_000))
    os.link(source / "deep/er/f", source / "deep/g")
    (source / "l").symlink_to("/etc")
    subprocess.run(["tar", "-C", source, "-czf", tmp_path / "in.tar.gz", "deep/er/f", "deep/g", "l"], check=True)
    docker("run -d --name web host sh -c 'chmod 1777 /srv; sleep 1000'")
    docker(f"cp - web:/srv < {tmp_path}/in.tar.gz")
    assert docker("exec web stat -c %a%h /srv/deep/g") == "6442\n"
    assert docker("exec web stat -c %a /srv") == "1777\n"
    docker(f"cp web:/srv/deep/er/f {tmp_path}/back")
    assert (tmp_path / "back").read_bytes() == (source / "deep/er/f").read_bytes()
    with pytest.raises(UsageError, match="expected a directory that is there"):
        docker(f"cp - web:/srv/none < {tmp_path}/in.tar.gz")
    with pytest.raises(UsageError, match="no tar archive"):
        docker(f"cp - web:/srv < {tmp_path}/back")


@pytest.mark.parametrize("name", ["../out", "a/../../out", "l/passwd"])
def test_an_archive_leads_nowhere(docker: Docker, tmp_path: Path, name: str) -> None:
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        link = tarfile.TarInfo("l")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        tar.addfile(link)
        evil = tarfile.TarInfo(name)
        evil.size = 4
        tar.addfile(evil, io.BytesIO(b"evil"))
    docker("run -d --name web host sleep 1000")
    with pytest.raises(UsageError, match=r"leads elsewhere|Not a directory|symbolic links"):
        docker(f"cp - web:/srv < {tmp_path}/evil.tar")
    assert docker("diff web").split() == ["C", "/srv", "A", "/srv/l"]


# ---- volumes of others ----


def test_volumes_from(docker: Docker, tmp_path: Path) -> None:
    (tmp_path / "bound").mkdir()
    mounts = f"-v {tmp_path}/bound:/bound -v shared:/shared -v /own --tmpfs /not"
    docker(f"run --name data {mounts} host sh -c 'echo 1 > /own/f'")
    docker("run -d --name user --volumes-from data host sh -c 'echo 2 > /shared/f; echo 3 > /bound/f; sleep 1000'")
    assert soon(lambda: (tmp_path / "bound/f").exists())
    assert docker("run --rm --volumes-from user:ro host cat /own/f /shared/f") == "1\n2\n"
    with pytest.raises(ContainerExitError):
        docker("run --rm --volumes-from user:ro host touch /shared/g")
    assert "/not" not in docker("exec user mount")
    # What the user mounts himself goes before.
    assert docker("run --rm --volumes-from data --tmpfs /bound host ls /bound") == ""
    docker("rm data")
    with pytest.raises(ImageError, match="volume is in use"):
        docker("volume rm shared")
    found = json.loads(docker("inspect user"))[0]["HostConfig"]
    assert (found["VolumesFrom"], found["Binds"]) == (["data"], None)
    docker("rm -f user")
    docker("volume rm shared")


def test_volumes_are_named_and_go_with_rm_v(docker: Docker) -> None:
    before = docker("volume ls -q")
    docker("run --name data -v shared:/shared:ro -v /own host true")
    found = json.loads(docker("inspect data"))[0]
    mounts = {mount["Destination"]: mount for mount in found["Mounts"]}
    assert (mounts["/shared"]["Type"], mounts["/shared"]["Name"], mounts["/shared"]["RW"]) == (
        "volume",
        "shared",
        False,
    )
    assert "shared:/shared:ro" in found["HostConfig"]["Binds"] and mounts["/own"]["Type"] == "volume"
    docker("rm -v data")
    assert docker("volume ls -q").split() == [*before.split(), "shared"]
    docker("volume rm shared")


def test_volumes_from_nobody(docker: Docker) -> None:
    with pytest.raises(UsageError, match="No such container: nobody"):
        docker("run --volumes-from nobody host true")
    with pytest.raises(UsageError, match="expected CONTAINER"):
        docker("run --volumes-from nobody:rx host true")
    assert ask("list") == []


# ---- cells in the background ----


@pytest.fixture
def cells(docker: Docker, zygote: None) -> Docker:
    return docker


def test_a_python_cell_in_the_background(cells: Docker) -> None:
    shell = cells.shell
    shell.user_ns["n"] = 20
    waits = "while not os.path.exists('/tmp/go'): time.sleep(0.02)"
    source = f"import os, time\nprint('begun')\n{waits}\ntotal = n + 1\nn"
    identity = cells("-d --name job --out total", source, magic="container").strip()
    assert cells("ps -q --no-trunc").strip() == identity
    assert soon(lambda: cells("logs job") == "begun\n")
    assert "total" not in shell.user_ns
    cells("exec job touch /tmp/go")
    assert cells("wait job") == "0\n"
    container = shell.user_ns["_container"]
    assert (shell.user_ns["total"], container.value, container.status) == (21, 20, "exited")
    assert container.reload().stdout == cells("logs job") == "begun\n20\n"
    with pytest.raises(UsageError, match="a Python cell runs once"):
        cells("start job")


def test_its_results_are_there_before_the_next_cell(cells: Docker) -> None:
    cells("-d --name job --out y", "y = 'done'", magic="container")
    assert soon(
        lambda: cells.shell.run_cell("seen = globals().get('y')").success and cells.shell.user_ns["seen"] == "done"
    )
    assert not [f for f in cells.shell.events.callbacks["pre_run_cell"] if "background" in f.__module__]


def test_what_it_shows_is_text_in_its_logs(cells: Docker, capsys: pytest.CaptureFixture[str]) -> None:
    shows = "from IPython.display import HTML\ndisplay(HTML('<b>x</b>'))"
    source = f"{shows}\ntry: input('?')\nexcept EOFError as e: print(e)\n1 / 0"
    cells("-d --name job --out y", source, magic="container")
    assert cells("wait job") == "1\n"
    logs = cells("logs job 2>&1")
    assert "<IPython.core.display.HTML object>\nnobody can be asked" in logs
    assert "ZeroDivisionError: division by zero" in logs and "\x1b" not in logs
    cells.shell.run_cell("pass")
    assert "y" not in cells.shell.user_ns


def test_what_it_sends_by_itself_is_neither_shown_nor_asked(
    cells: Docker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would be below whichever cell runs, as if that had said it."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it was asked"))
    forged = (
        "from jupyter_ns.runtime.shell import CHANNEL\n"
        "about = {'metadata': {}, 'transient': {}, 'update': False}\n"
        "CHANNEL.send('display', {'data': {'text/plain': 'forged'}, **about})\n"
        "CHANNEL.send('input', {'prompt': 'Password:', 'password': False})\n"
        "from jupyter_ns import values\ndata, buffers = values.encode(['no map'], None)\n"
        "CHANNEL.send('out', {'trusted': False}, [data, *buffers])"
    )
    cells("-d --name job --out y", forged + "\nz = 1\nraise SystemExit(3)", magic="container")
    assert cells("wait job") == "3\n"
    cells.shell.run_cell("pass")
    captured = capsys.readouterr()
    assert "forged" not in captured.out + captured.err
    assert "y" not in cells.shell.user_ns


def test_a_large_result_waits_for_the_notebook(cells: Docker) -> None:
    cells("-d --name job --out y", "y = bytes(40_000_000)\nprint('made')", magic="container")
    assert soon(lambda: "made" in cells("logs job"))
    assert cells("wait job") == "0\n"
    assert len(cells.shell.user_ns["y"]) == 40_000_000

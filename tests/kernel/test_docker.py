"""``%docker`` and ``%%docker`` in a real IPython shell: the article's lines, as they stand but for the image."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from docker_shell import Docker
from IPython.core.error import UsageError
from processes import soon

from jupyter_ns.errors import ContainerExitError
from jupyter_ns.lifecycle import ask

pytestmark = pytest.mark.needs("overlay")


def ready(docker: Docker, name: str) -> None:
    """Wait until a container has said that it is ready."""
    assert soon(lambda: "ready" in docker(f"logs {name}"))


# ---- rows of the article ----


def test_n9_pid_and_namespaces(docker: Docker) -> None:
    identity = docker("run -d --name test-container host sleep 1000").strip()
    assert len(identity) == 64
    lines = docker("inspect test-container | grep -i pid | grep '\": '").splitlines()
    assert [line.split(":")[0].strip().strip('"') for line in lines] == ["Pid", "PidMode", "PidsLimit"]
    pid = int(lines[0].split(":")[1].strip(" ,"))
    assert Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x001000\x00"
    assert os.stat(f"/proc/{pid}/ns/pid").st_ino != os.stat("/proc/self/ns/pid").st_ino


def test_namespaces_of_a_container_by_its_name(docker: Docker) -> None:
    identity = docker("run -d --name web host sleep 1000").strip()
    (pid,) = (row["pid"] for row in ask("list"))
    for word in ("web", identity):
        (line,) = [line for line in docker(word, magic="namespaces").splitlines() if line.startswith("network")]
        assert line.split()[1] == str(os.stat("/proc/self/ns/net").st_ino)
        assert line.split()[2:4] == ["≠", str(os.stat(f"/proc/{pid}/ns/net").st_ino)]
    with pytest.raises(UsageError, match="'nosuch' is no container's name or ID"):
        docker("nosuch", magic="namespaces")


def test_options_without_a_cell_are_told_where_they_belong(docker: Docker) -> None:
    with pytest.raises(UsageError, match="--mem: options belong to a cell, %%container"):
        docker("--mem 64m sh", magic="container")


def test_d2_a_shell_in_a_terminal(docker: Docker) -> None:
    out = docker("run -it host sh", "ps aux\nhostname\nip addr\n")
    lines = out.replace("# ", "").splitlines()
    assert lines[0].split()[:2] == ["USER", "PID"]
    assert [line.split()[1] for line in lines[1:3]] == ["1", "2"]
    assert ask("list")[0]["id"].startswith(lines[3])
    assert "1: lo:" in lines[4] and "eth0" not in out


@pytest.mark.needs("controller:memory", "controller:cpu")
def test_d3_stats(docker: Docker) -> None:
    docker("run -d --name resource-limited --cpus=1.0 --memory=512m host sleep 1000")
    head, row = docker("stats --no-stream").splitlines()
    assert [h.strip() for h in head.split("   ") if h.strip()] == [
        "CONTAINER ID",
        "NAME",
        "CPU %",
        "MEM USAGE / LIMIT",
        "MEM %",
        "NET I/O",
        "BLOCK I/O",
        "PIDS",
    ]
    cells = [cell.strip() for cell in row.split("   ") if cell.strip()]
    assert cells[1] == "resource-limited"
    assert cells[3].endswith(" / 512MiB")
    assert cells[7] == "1"


@pytest.mark.needs("controller:cpu")
def test_t1_a_container_that_is_throttled(docker: Docker) -> None:
    docker("run -d --name slow --cpus 0.5 --memory 64m host sh -c 'while :; do :; done'")
    percent = float(docker("stats --no-stream --format '{{.CPUPerc}}' slow").strip().rstrip("%"))
    assert 1 < percent < 80  # others may want the processors too
    found = {line.split('"')[1] for line in docker("inspect slow | grep -i cpu").splitlines() if '"' in line}
    assert {"CpuShares", "NanoCpus", "CpuPeriod", "CpuQuota", "CpusetCpus"} <= found
    memory = docker("inspect slow | grep -i '\"memory\"'")
    assert memory.strip() == f'"Memory": {64 << 20},'


def test_t3_mounts_and_space_inside(docker: Docker) -> None:
    docker("run -d --name full host sleep 1000")
    assert docker("exec full mount").startswith("overlay on / type overlay")
    assert docker("exec full df -h /").splitlines()[1].split()[-1] == "/"


# ---- output ----


def test_ps_as_docker_prints_it(docker: Docker) -> None:
    docker("run -d --name one -l tier=back host sleep 1000")
    docker("run --name two host true")
    head, *rows = docker("ps").splitlines()
    assert head == "CONTAINER ID   IMAGE     COMMAND        CREATED" + head.partition("CREATED")[2]
    assert len(rows) == 1 and rows[0].endswith("one") and '"sleep 1000"' in rows[0]
    assert docker("ps -a --format '{{.Names}}'") == "two\none\n"
    assert docker("ps -aq --filter name=two --no-trunc").strip() == ask("inspect", of="two")["id"]
    assert docker("ps -a --filter label=tier=back --format '{{.Names}}'") == "one\n"
    record = json.loads(docker("ps --format json"))
    assert (record["Names"], record["State"], record["Labels"]) == ("one", "running", "tier=back")


def test_inspect_formats(docker: Docker) -> None:
    docker("run -d --name web -e A=1 host sleep 1000")
    whole = json.loads(docker("inspect web"))[0]
    assert docker("inspect -f '{{.State.Pid}}' web").strip() == str(whole["State"]["Pid"])
    # What was given, and nothing of the notebook's own environment.
    assert docker("inspect -f '{{range .Config.Env}}{{println .}}{{end}}' web").split() == ["A=1"]
    with pytest.raises(UsageError, match="no field 'Nope'"):
        docker("inspect -f '{{.Nope}}' web")


def test_logs(docker: Docker) -> None:
    docker("run -d --name web host sh -c 'echo one; echo two; echo ready; echo bad >&2; sleep 1000'")
    assert soon(lambda: docker("logs web 2>&1 | wc -l") == "4\n")
    assert docker("logs web") == "one\ntwo\nready\n"
    assert docker("logs --tail 2 web") == "ready\n"  # the last line went to standard error
    stamped = docker("logs -t web").splitlines()
    assert [line.split(" ", 1)[1] for line in stamped] == ["one", "two", "ready"]
    assert all(line[19] == "." and line.split()[0].endswith("Z") for line in stamped)
    assert docker("logs --since 2000-01-01T00:00:00Z web | wc -l").strip() == "3"


def test_logs_follow_to_the_end(docker: Docker) -> None:
    docker("run -d --name count host sh -c 'for i in 1 2 3 4; do echo $i; sleep 0.1; done; printf end'")
    assert docker("logs -f count") == "1\n2\n3\n4\nend"


def test_wait_stop_rm_print_what_docker_prints(docker: Docker) -> None:
    docker("run -d --name a1 host sh -c 'exit 4'")
    assert docker("wait a1") == "4\n"
    docker("run -d --name a2 host sleep 1000")
    assert docker("stop -t 0 a2") == "a2\n"
    with pytest.raises(UsageError, match="No such container: nobody"):
        docker("rm a1 nobody a2")
    assert docker("ps -aq") == ""


def test_top_shows_the_hosts_numbers(docker: Docker) -> None:
    docker("run -d --name web host sleep 1000")
    head, row = docker("top web").splitlines()
    assert head.split() == ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
    assert int(row.split()[1]) == ask("inspect", of="web")["pid"]
    assert docker("top web -o pid,comm").split() == ["PID", "COMMAND", row.split()[1], "sleep"]


def test_exec(docker: Docker) -> None:
    docker("run -d --name web host sleep 1000")
    assert docker("exec web echo hi") == "hi\n"
    assert docker("exec -i web sh", "echo from; echo the cell") == "from\nthe cell\n"
    with pytest.raises(ContainerExitError) as caught:
        docker("exec web sh -c 'exit 9'")
    assert caught.value.returncode == 9


def test_update_and_rename(docker: Docker) -> None:
    docker("run -d --name web host sleep 1000")
    assert docker("update --pids-limit 7 --restart always web") == "web\n"
    assert docker("inspect -f '{{.HostConfig.PidsLimit}} {{.HostConfig.RestartPolicy.Name}}' web") == "7 always\n"
    docker("rename web other")
    assert docker("ps --format '{{.Names}}'") == "other\n"


def test_events(docker: Docker) -> None:
    docker("run --name noted-once --rm host true")
    lines = docker("events --since 1h --until 0s --filter container=noted-once --format '{{.Action}}'").split()
    assert lines == ["create", "start", "die", "destroy"]


def test_what_has_ended_is_counted_and_pruned(docker: Docker) -> None:
    docker("run -d --name web host sleep 1000")
    docker("run --name done host sh -c 'echo x > /root/f'")
    assert docker("info").split("Images")[0].split()[1:] == [
        "Containers:",
        "2",
        "Running:",
        "1",
        "Paused:",
        "0",
        "Stopped:",
        "1",
    ]
    rows = docker("system df -v").split("Containers space usage (in memory):")[1].splitlines()
    assert [row.split()[-1] for row in rows[2:5]] == ["NAMES", "done", "web"]
    identity = ask("inspect", of="done")["id"]
    assert docker("container prune -f").startswith(f"Deleted Containers:\n{identity}\n\nTotal reclaimed space: ")
    docker("run --name done host true")
    assert docker("system prune -f").startswith("Deleted Containers:\n")
    assert docker("ps -a --format '{{.Names}}'") == "web\n"


def test_a_shell_with_nothing_to_read_says_where_its_lines_go(
    docker: Docker, capsys: pytest.CaptureFixture[str]
) -> None:
    docker.shell.run_line_magic("docker", "run -it --rm host sh")
    assert "below it what it is to read" in capsys.readouterr().err


def test_run_waits_and_keeps_unless_told(docker: Docker) -> None:
    assert docker("run --name kept host echo hi") == "hi\n"
    assert docker("logs kept") == "hi\n"
    assert docker("run --rm --name gone host echo hi") == "hi\n"
    assert docker("ps -a --format '{{.Names}}'") == "kept\n"


def test_a_cell_of_lines(docker: Docker) -> None:
    out = docker("", "docker run -d --name web host sleep 1000\n# look\nps --format '{{.Names}}'\nrm -f web\n")
    assert out.splitlines()[1:] == ["web", "web"]


def test_cidfile(docker: Docker, tmp_path: Path) -> None:
    identity = docker(f"run -d --cidfile {tmp_path}/cid host sleep 1000").strip()
    assert (tmp_path / "cid").read_text() == identity
    with pytest.raises(UsageError, match="does not exist yet"):
        docker(f"run -d --cidfile {tmp_path}/cid host sleep 1000")
    assert docker("ps -q").count("\n") == 1


def test_container_has_the_same_subcommands(docker: Docker) -> None:
    docker("-d --name web --init sh", "echo ready; sleep 1000", magic="container")
    ready(docker, "web")
    assert docker("ps --format '{{.Names}} {{.Image}}'", magic="container") == "web host\n"
    assert docker("exec web sh", "hostname", magic="container").strip() == docker.shell.user_ns["_container"].id[:12]
    assert docker("run --rm echo hi", magic="container") == "hi\n"
    assert docker("network ls --format '{{.Name}}'", magic="container").split() == ["bridge", "host", "none"]


@pytest.mark.usefixtures("zygote")
def test_exec_of_a_python_cell(docker: Docker) -> None:
    docker("run -d --name web host sleep 1000")
    docker.shell.user_ns["x"] = 20
    source = "import os, socket\ny = [x, socket.gethostname(), os.getpid() > 1, sorted(os.listdir('/proc/self/fd'))]"
    docker("exec --out y web", source, magic="container")
    x, host, not_init, descriptors = docker.shell.user_ns["y"]
    assert (x, host, not_init) == (20, ask("inspect", of="web")["id"][:12], True)
    assert descriptors == ["0", "1", "2", "3", "4"]  # the streams, the channel, the listed directory
    with pytest.raises(ZeroDivisionError):
        docker("exec web", "1/0", magic="container")


# ---- cp ----


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "src/sub").mkdir(parents=True)
    (tmp_path / "src/f").write_text("f")
    (tmp_path / "src/sub/g").write_bytes(b"g" * 3_000_000)
    (tmp_path / "src/link").symlink_to("/etc/passwd")
    (tmp_path / "src/sub").chmod(0o750)
    return tmp_path


def listing(path: Path) -> dict[str, Any]:
    """Describe a tree."""
    found: dict[str, Any] = {}
    for item in sorted(path.rglob("*")):
        info = item.lstat()
        content: Any = os.readlink(item) if item.is_symlink() else item.read_bytes() if item.is_file() else None
        found[str(item.relative_to(path))] = (oct(info.st_mode), info.st_mtime_ns * (not item.is_symlink()), content)
    return found


def test_cp_in_and_out_again(docker: Docker, tree: Path) -> None:
    docker("run -d --name web host sleep 1000")
    docker(f"cp {tree}/src web:/srv")
    assert docker("exec web stat -c %a%u /srv/src/sub") == "7500\n"
    docker(f"cp web:/srv/src {tree}/back")
    assert listing(tree / "back") == listing(tree / "src")
    docker("stop -t 0 web")
    docker(f"cp web:/srv/src/. {tree}/after")
    assert listing(tree / "after") == listing(tree / "src")
    docker(f"cp {tree}/src/f web:/root/new")
    docker("start web")
    assert docker("exec web cat /root/new") == "f"


@pytest.mark.needs("userns", "root")
def test_cp_into_a_user_namespace_gives_files_to_its_root(docker: Docker, tree: Path) -> None:
    docker("run -d --name web --userns private host sleep 1000")
    docker(f"cp {tree}/src web:/root")
    assert docker("exec web stat -c %u:%g /root/src /root/src/sub/g") == "0:0\n0:0\n"


def test_cp_follows_no_link_out(docker: Docker, tree: Path) -> None:
    links = f"ln -s {tree}/src /root/out; ln -s / /root/top; mkdir /root/d; ln -s /etc /root/d/etc"
    script = f"{links}; mkdir -p {tree}/src; echo ready; sleep 1000"
    docker(f"run -d --name web host sh -c '{script}'")
    ready(docker, "web")
    (tree / "evil").write_text("evil")
    before = listing(tree / "src")
    # Inside, the link leads to the container's own copy of that directory, which the host never sees.
    docker(f"cp {tree}/evil web:/root/out/evil")
    docker(f"cp {tree}/evil web:/root/top/root/inside")
    assert docker("exec web cat /root/inside") == "evil"
    assert listing(tree / "src") == before
    docker(f"cp web:/root/d {tree}/d")
    assert os.readlink(tree / "d/etc") == "/etc"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("cp web:/no/such {tree}", "No such file"),
        ("cp {tree}/none web:/", "no such file"),
        ("cp {tree}/src web:/etc/passwd", "cannot copy a directory onto a file"),
        ("cp {tree}/src/f web:/no/such/place", "No such file"),
        ("cp web:/etc/passwd {tree}/no/such/place", "No such file"),
        ("cp nobody:/etc/passwd {tree}", "No such container"),
    ],
)
def test_cp_that_cannot_be(docker: Docker, tree: Path, words: str, message: str) -> None:
    docker("run -d --name web host sleep 1000")
    before = listing(tree)
    with pytest.raises(UsageError, match=message):
        docker(words.format(tree=tree))
    assert listing(tree) == before

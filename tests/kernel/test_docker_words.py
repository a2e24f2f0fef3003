"""Small things that Docker's command line says and does, typed as they stand."""

from __future__ import annotations

import json
import time

import pytest
from docker_shell import Docker
from IPython.core.error import UsageError

from jupyter_ns import checkup
from jupyter_ns.client import get_client
from jupyter_ns.errors import ContainerError, ImageError
from jupyter_ns.frontend.commands import table
from jupyter_ns.frontend.commands.console import Console
from jupyter_ns.lifecycle import ask

pytestmark = pytest.mark.needs("overlay")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        *(
            (line, "Error response from daemon: No such container: none")
            for line in ("logs none", "stop none", "rm none", "exec none ls", "port none", "top none", "kill none",
                         "cp none:/x .", "restart none", "rename none x", "ps --filter since=none", "diff none")
        ),
        ("stop none other", "Error response from daemon: No such container: none\n"
                            "Error response from daemon: No such container: other"),
        ("run --network container:none host true", "docker: Error response from daemon: No such container: none"),
        ("run --network nowhere host true", "docker: Error response from daemon: network nowhere not found"),
        ("network rm nowhere", "Error response from daemon: network nowhere not found"),
        ("network inspect nowhere", "Error response from daemon: network nowhere not found"),
        ("volume inspect none", "Error response from daemon: get none: no such volume"),
        ("rmi none", "Error response from daemon: No such image: none:latest"),
        ("inspect none", "Error: No such object: none"),
    ],
)  # fmt: skip
def test_what_is_not_there(docker: Docker, line: str, said: str) -> None:
    with pytest.raises((UsageError, ImageError)) as error:
        docker(line)
    assert str(error.value).startswith(said)


def test_a_running_container_is_not_removed(docker: Docker) -> None:
    docker("run -d --name web host sleep 100")
    with pytest.raises(UsageError, match=r"^Error response from daemon: cannot remove container"):
        docker("rm web")


def test_inspect_shows_what_there_is(docker: Docker, capsys: pytest.CaptureFixture[str]) -> None:
    docker("run -d --name web host sleep 100")
    with pytest.raises(UsageError, match="Error: No such object: none"):
        docker("inspect none web")
    assert [one["Name"] for one in json.loads(capsys.readouterr().out)] == ["/web"]
    with pytest.raises(UsageError):
        docker("inspect none")
    assert json.loads(capsys.readouterr().out) == []


def test_the_library_says_it_plainly(docker: Docker) -> None:
    with pytest.raises(ContainerError, match=r"^No such container: none$"):
        ask("inspect", of="none")
    with pytest.raises(UsageError, match=r"^%container: No such container: none$"):
        docker("logs none", magic="container")


def test_version(docker: Docker) -> None:
    for line in ("--version", "-v"):
        assert docker(line).startswith("jupyter_ns version ")


def test_size_is_looked_up_for_a_format_that_shows_it(docker: Docker) -> None:
    docker("run -d --name web host sh -c 'head -c 1000000 /dev/zero > /root/file; echo done; exec sleep 100'")
    while "done" not in docker("logs web"):
        time.sleep(0.02)
    for form in ("{{.Size}}", "table {{.Size}}"):
        assert docker(f"ps --format '{form}'").split()[-1].endswith("MB")


@pytest.mark.parametrize("line", ["run --rm -it host sh", "exec -it web sh"])
def test_a_shell_that_reads_a_cell_shows_no_prompt(docker: Docker, line: str) -> None:
    docker("run -d --name web host sleep 100")
    assert docker(line, "echo one\nif true\nthen echo two\nfi\n").split() == ["one", "two"]
    assert docker(line.replace("-it", "-it -e PS1=mine:"), "echo one\n").startswith("mine:")


def test_cgroup_says_what_would_be_there(docker: Docker) -> None:
    found = docker("", magic="cgroup")
    assert found.startswith("cgroup version ") and "%cgroup create" in found
    assert "└─" not in found and "\nthis notebook" not in found
    docker("run -d --name web host sleep 100")
    found = docker("", magic="cgroup")
    assert "(web)" in found and "this notebook" in found and "%cgroup create" not in found


@pytest.mark.needs("networks")
def test_the_doctor_has_a_row_for_networks() -> None:
    rows = {row.ability: row for row in checkup.examine("host")}
    assert rows["networks between containers"].state == "yes"
    get_client().sync()


def test_a_shell_without_input_is_told_how_it_gets_some(capsys: pytest.CaptureFixture[str]) -> None:
    def said(*words: str) -> str:
        table.dispatch(Console(), ["run", "--rm", "-it", "host", *words])
        return capsys.readouterr().err

    assert "nothing to read for it" in said("sh")
    assert said("sh", "-c", "test -t 0") == ""

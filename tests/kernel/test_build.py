"""``docker build``: Dockerfiles become images, and what is in these is what they say."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tools import fill_context

from jupyter_ns.client import get_client
from jupyter_ns.errors import ImageError, UsageError
from jupyter_ns.frontend.commands import table
from jupyter_ns.frontend.commands.console import Console
from jupyter_ns.images.store import Store
from jupyter_ns.lifecycle import ask

pytestmark = pytest.mark.needs("overlay", "root")

STAT = "stat -c '%n %a %u:%g %F'"


@pytest.fixture
def docker(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., str]]:
    def type_line(line: str, cell: str | None = None) -> str:
        capsys.readouterr()
        table.dispatch(Console(cell=cell), shlex.split(line))
        return capsys.readouterr().out

    yield type_line
    assert ask("list") == []
    get_client().sync()
    store = Store()
    for image in store.images():
        store.remove(image.id)
    store.collect()


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """A directory with files; its Dockerfile is written by each test."""
    return fill_context(tmp_path / "a context", "*.log\nDockerfile\n.dockerignore\n")


def inside(docker: Callable[..., str], image: str, script: str) -> list[str]:
    return docker(f"run --rm {image} sh -c {shlex.quote(script)}").splitlines()


def test_a_dockerfile(docker: Callable[..., str], context: Path) -> None:
    (context / "Dockerfile").write_text(
        """ARG BASE=nothing
FROM $BASE AS first
RUN mkdir /made && echo one > /made/file && chown -R 3:4 /made
FROM busybox
ARG WHO=world
ENV GREETING="hello $WHO" OLD=x
ENV LEGACY two words
LABEL one="a b" two=$WHO
WORKDIR /srv
WORKDIR app
COPY . .
COPY --from=first /made /from/
COPY --from=0 --chown=5:6 --chmod=600 /made/file /owned/deep/
ADD t.tgz /unpacked
RUN echo "$GREETING, $LEGACY" > said
RUN ["/bin/busybox", "touch", "/exec form"]
RUN <<EOF
for i in 1 2; do
  echo $i >> /lines
done
EOF
USER 1000:1000
EXPOSE 80 53/udp
STOPSIGNAL SIGINT
ENTRYPOINT ["cat"]
CMD ["said"]
"""
    )
    out = docker(f"build -t made:1 --build-arg BASE=busybox --build-arg WHO=you {shlex.quote(str(context))}")
    assert "Step 1/22 : ARG BASE=nothing" in out and "Using cache" not in out
    assert "Successfully tagged made:1" in out
    assert docker("run --rm made:1") == "hello you, two words\n"
    assert inside(docker, "--entrypoint= made:1", "id -u; pwd; cat /lines; ls '/exec form'; echo $OLD$WHO") == [
        "1000", "/srv/app", "1", "2", "/exec form", "x",
    ]  # fmt: skip
    paths = (
        "/srv/app /srv/app/a.txt /srv/app/b.sh /srv/app/link /srv/app/sub /srv/app/sub/deep/private /from /from/file "
        "/owned/deep /owned/deep/file /unpacked /unpacked/in/side"
    )
    assert inside(docker, "--user 0 --entrypoint= made:1", f"{STAT} {paths}; ls -A") == [
        "/srv/app 755 0:0 directory",
        "/srv/app/a.txt 644 0:0 regular file",
        "/srv/app/b.sh 755 0:0 regular file",
        "/srv/app/link 777 0:0 symbolic link",
        "/srv/app/sub 750 0:0 directory",
        "/srv/app/sub/deep/private 600 0:0 regular file",
        "/from 755 0:0 directory",
        "/from/file 644 3:4 regular file",
        "/owned/deep 755 5:6 directory",
        "/owned/deep/file 600 5:6 regular file",
        "/unpacked 755 0:0 directory",
        "/unpacked/in/side 640 7:8 regular file",
        "a.txt", "b.sh", "link", "said", "sub", "t.tgz",
    ]  # fmt: skip
    image = Store().find("made:1")
    assert image.runtime == {
        "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
        * ("Env" in Store().find("busybox").runtime)
        + ["GREETING=hello you", "OLD=x", "LEGACY=two words"],
        "Labels": {"one": "a b", "two": "you"},
        "WorkingDir": "/srv/app",
        "User": "1000:1000",
        "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
        "StopSignal": "SIGINT",
        "Entrypoint": ["cat"],
        "Cmd": ["said"],
    }


def steps(out: str) -> list[bool]:
    """Whether each step but FROM was taken from an image."""
    return ["Using cache" in part for part in out.split("Step ")[1:] if " : FROM" not in part]


def test_steps_are_taken_from_images_that_have_them(docker: Callable[..., str], context: Path) -> None:
    file = context / "Dockerfile"
    text = "FROM busybox\nENV A=1\nCOPY a.txt sub /x/\nRUN cat /proc/sys/kernel/random/uuid > /when\nCMD cat /when\n"
    file.write_text(text)
    build = f"build -t cached {shlex.quote(str(context))}"
    assert steps(docker(build)) == [False] * 4
    first, when = Store().find("cached").id, docker("run --rm cached")
    assert steps(docker(build)) == [True] * 4
    assert Store().find("cached").id == first
    os.utime(context / "a.txt", (1, 1))  # times do not count, as with Docker
    assert steps(docker(build)) == [True] * 4
    file.write_text(text + "LABEL more=x\n")
    assert steps(docker(build)) == [True] * 4 + [False]
    assert docker("run --rm cached") == when
    (context / "sub/c.txt").write_text("changed")
    assert steps(docker(build)) == [True, False, False, False, False]
    assert docker("run --rm cached") != when
    assert docker("run --rm cached cat /x/c.txt") == "changed"
    assert steps(docker(build)) == [True] * 5
    assert steps(docker(f"{build} --no-cache")) == [False] * 5
    (context / "sub/c.txt").chmod(0o600)
    assert steps(docker(build))[:2] == [True, False]


def test_a_step_that_fails_leaves_what_was_built(docker: Callable[..., str], context: Path) -> None:
    (context / "Dockerfile").write_text("FROM busybox\nRUN echo one > /one\nRUN cat /one; exit 3\nRUN echo never\n")
    with pytest.raises(ImageError, match=r"'/bin/sh -c cat /one; exit 3' returned a non-zero code: 3"):
        docker(f"build -t failed {shlex.quote(str(context))}")
    left = [image for image in Store().images() if not list(Store().names_of(image.id))]
    assert len(left) == 1
    assert docker(f"run --rm {left[0].id} cat /one") == "one\n"
    (context / "Dockerfile").write_text("FROM busybox\nRUN echo one > /one\nRUN cat /one\n")
    assert steps(docker(f"build -t failed {shlex.quote(str(context))}")) == [True, False]


def test_images_of_steps_do_not_stay(docker: Callable[..., str], context: Path) -> None:
    docker("build -t several -", cell="FROM busybox\nRUN echo 1 > /1\nRUN echo 2 > /2\nRUN echo 3 > /3\n")
    named = {name for image in Store().images() for name in map(str, Store().names_of(image.id)) or [""]}
    assert len(Store().images()) == 2 and any("several" in name for name in named)
    assert inside(docker, "several", "cat /1 /2 /3") == ["1", "2", "3"]


def test_stages(docker: Callable[..., str], context: Path) -> None:
    text = (
        "FROM busybox AS one\nRUN echo 1 > /f\nFROM one AS two\nRUN echo 2 >> /f\nFROM nowhere.invalid/x\nRUN never\n"
    )
    out = docker("build -q -t staged --target two -", cell=text)
    assert out == f"{Store().find('staged').id}\n"
    assert docker("run --rm staged cat /f") == "1\n2\n"
    docker("build -q -t first --target 0 -", cell=text)
    assert docker("run --rm first cat /f") == "1\n"


def test_an_earlier_stage_may_have_no_layer(docker: Callable[..., str]) -> None:
    docker("build -q -t after -", cell="FROM scratch AS nothing\nENV A=1\nFROM busybox\nRUN echo 2 > /f\n")
    assert docker("run --rm after cat /f") == "2\n"


def test_nothing_to_begin_with(docker: Callable[..., str], context: Path) -> None:
    (context / "Dockerfile").write_text(
        "FROM scratch\nCOPY a.txt sub/c.txt /\nCOPY --from=busybox /bin/busybox /bin/\n"
    )
    docker(f"build -t small {shlex.quote(str(context))}")
    assert len(Store().find("small").layers) == 2
    assert docker("run --rm small /bin/busybox cat /a.txt /c.txt") == "a\nc\n"
    with pytest.raises(UsageError, match="nothing in the image yet that could run"):
        docker("build -", cell="FROM scratch\nRUN true\n")


def test_links_of_the_image_are_followed_and_stay_in_it(docker: Callable[..., str], context: Path) -> None:
    (context / "Dockerfile").write_text(
        "FROM busybox\nRUN mkdir /real && chmod 711 /real && ln -s /real /alias && ln -s ../../../../etc /out\n"
        "COPY a.txt /alias/\nCOPY a.txt /out/jupyter_ns-test\nCOPY sub /alias/\nCOPY a.txt /\n"
    )
    docker(f"build -t linked {shlex.quote(str(context))}")
    assert inside(docker, "linked", f"{STAT} /alias /real; ls /real; cat /etc/jupyter_ns-test /a.txt") == [
        "/alias 777 0:0 symbolic link", "/real 711 0:0 directory", "a.txt", "c.txt", "deep", "a", "a",
    ]  # fmt: skip
    assert not os.path.exists("/etc/jupyter_ns-test")


def test_over_this_machines_own_files(docker: Callable[..., str]) -> None:
    docker("build --progress=plain -t tools -", cell="FROM host\nRUN echo lesson > /srv/lesson\nENV A=b\n")
    assert inside(docker, "tools", "cat /srv/lesson; echo $A; test -e /etc/debian_version && echo debian")[:2] == [
        "lesson",
        "b",
    ]
    assert not os.path.exists("/srv/lesson")


def test_instructions_for_later(docker: Callable[..., str]) -> None:
    docker("build -t parent -", cell="FROM busybox\nONBUILD RUN echo $0 > /born\nONBUILD ENV A=1\n")
    assert Store().find("parent").runtime["OnBuild"] == ["RUN echo $0 > /born", "ENV A=1"]
    docker("build -t child -", cell="FROM parent\nRUN test -e /born\n")
    assert "OnBuild" not in Store().find("child").runtime
    assert inside(docker, "child", "cat /born; echo $A") == ["/bin/sh", "1"]


def test_the_shell_and_the_program(docker: Callable[..., str]) -> None:
    text = 'FROM busybox\nCMD ["base"]\nSHELL ["/bin/sh", "-ec"]\nRUN false; true\n'
    with pytest.raises(ImageError, match="'/bin/sh -ec false; true' returned a non-zero code: 1"):
        docker("build -", cell=text)
    docker("build -t base -", cell='FROM busybox\nCMD ["base"]\n')
    docker("build -t program -", cell='FROM base\nSHELL ["/bin/sh", "-ec"]\nENTRYPOINT echo one\n')
    runtime = Store().find("program").runtime
    assert runtime["Entrypoint"] == ["/bin/sh", "-ec", "echo one"] and "Cmd" not in runtime


def test_who_enters_is_looked_up_in_the_container(docker: Callable[..., str]) -> None:
    text = "FROM busybox\nRUN echo made:x:4321:4322::/srv:/bin/sh >> /etc/passwd\n"
    docker("build -t peopled -", cell=f"{text}RUN echo more:x:4323:made >> /etc/group\nUSER made\nCMD sleep 100\n")
    docker("run -d --name peopled --health-cmd 'id > /dev/shm/checked' --health-interval 50ms peopled")
    show = "sh -c 'id -u; id -g; id -G; echo $HOME'"
    try:
        assert docker(f"exec peopled {show}").split() == ["4321", "4322", "4322", "4323", "/srv"]
        assert docker(f"exec -u root peopled {show}").split() == ["0", "0", "0", "/root"]
        docker("exec -u 0 peopled sh -c 'echo later:x:4324:4325::/:/bin/sh >> /etc/passwd'")
        assert docker(f"exec -u later peopled {show}").split() == ["4324", "4325", "4325", "/"]
        until = time.monotonic() + 20
        while ask("inspect", of="peopled").get("health") != "healthy":
            assert time.monotonic() < until
            time.sleep(0.02)
        assert "uid=4321" in docker("exec peopled cat /dev/shm/checked")
        # What stands there is the container's to write: it neither holds the engine up nor counts.
        docker("exec -u 0 peopled sh -c 'rm /etc/passwd; mkfifo /etc/passwd'")
        with pytest.raises(UsageError, match="unable to find user later"):
            docker("exec -u later peopled true")
        docker("exec -u 0 peopled sh -c 'rm /etc/passwd; ln -s /proc/self/root/etc/group /etc/passwd'")
        with pytest.raises(UsageError, match="unable to find user later"):
            docker("exec -u later peopled true")
    finally:
        docker("rm -f peopled")


def test_a_user_made_over_this_machines_own_files(docker: Callable[..., str]) -> None:
    add = "echo made:x:4321:4322::/srv:/bin/sh >> /etc/passwd"
    docker("build -t own -", cell=f"FROM host\nRUN {add}\nUSER made\nRUN id -u > /dev/shm/u && grep 4321 /dev/shm/u\n")
    docker("run -d --name own own sleep 100")
    docker("run -d --name plain host sleep 100")
    try:
        assert docker("exec own id -u").split() == ["4321"]
        docker(f"exec plain sh -c '{add}'")
        assert docker("exec -u made plain id -u").split() == ["4321"]
        assert docker("exec -u nobody plain id -un").split() == ["nobody"]
    finally:
        docker("rm -f own plain")


def test_health_checks_of_images_count(docker: Callable[..., str]) -> None:
    docker(
        "build -t checked -",
        cell="FROM busybox\nHEALTHCHECK --interval=100ms --timeout=2s --retries=1 CMD test -e /well\nCMD sleep 100\n",
    )
    assert Store().find("checked").runtime["Healthcheck"] == {
        "Test": ["CMD-SHELL", "test -e /well"], "Interval": 100_000_000, "Timeout": 2_000_000_000, "Retries": 1,
    }  # fmt: skip
    docker("run -d --name patient checked")
    docker("run -d --name careless --no-healthcheck checked")
    try:
        docker("exec patient touch /well")
        until = time.monotonic() + 20
        while ask("inspect", of="patient").get("health") != "healthy":
            assert time.monotonic() < until
            time.sleep(0.02)
        assert not ask("inspect", of="careless").get("health")
    finally:
        docker("rm -f patient careless")


@pytest.mark.parametrize(
    ("line", "cell", "says"),
    [
        ("build -", "RUN x", "line 1: RUN: no build stage"),
        ("build -", "ARG x\n", "line 1: ARG: no build stage"),
        ("build -", "FROM busybox\nCOPY a /", "line 2: COPY: there is no build context"),
        (
            "build -",
            "FROM busybox\nRUN --mount=type=cache true",
            "line 2: RUN: --mount is not supported; accepted: none",
        ),
        ("build -", "FROM busybox\nADD http://x/y /", "line 2: ADD: ADD of an address"),
        ("build -", "FROM busybox\nSHELL sh", "line 2: SHELL: expected a JSON list"),
        ("build -", "FROM busybox\nENV A='x", "line 2: ENV: "),
        ("build -", "FROM busybox\nCOPY --from=3 /a /b", "line 2: COPY: --from=3: there is no earlier stage"),
        ("build -", "FROM busybox AS\n", "line 1: FROM: .*expected IMAGE"),
        ("build --target x -", "FROM busybox AS y", "--target x: no such stage; there are: y"),
        ("build --progress tty -", "FROM busybox", "--progress.*auto or plain"),
        ("build -t a:b:c -", "FROM busybox", "a:b:c"),
        ("build /nowhere", None, "expected a directory"),
        ("build /etc", None, "failed to read dockerfile /etc/Dockerfile: No such file"),
        ("build -", None, "expected the Dockerfile below"),
        ("build .. ..", None, "1"),
    ],
)
def test_what_is_refused(docker: Callable[..., str], line: str, cell: str | None, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        docker(line, cell=cell)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("COPY none /", "none: not found in the build context, or excluded by .dockerignore"),
        ("COPY left.log /", "left.log: not found"),
        ("COPY a.txt b.sh /one", "the destination must be a directory and end with a /"),
        ("COPY a.txt /bin/sh/x", "/bin/busybox: not a directory|not a directory"),
        ("COPY sub /bin/busybox", "not a directory|cannot replace"),
        ("COPY a.txt", "expected SOURCE"),
        ("COPY --chmod=rw a.txt /", "--chmod=rw: expected an octal number"),
        ("COPY --chown=nobodyhere a.txt /", "unable to find user nobodyhere"),
    ],
)
def test_what_cannot_be_copied(docker: Callable[..., str], context: Path, text: str, says: str) -> None:
    (context / "Dockerfile").write_text(f"FROM busybox\n{text}\n")
    with pytest.raises(UsageError, match=f"line 2: COPY: .*({says})"):
        docker(f"build {shlex.quote(str(context))}")

"""What an image's configuration adds to what the user asked for; who the container runs as; looking into layers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from jupyter_ns.errors import ImageError, UnsupportedError, UsageError
from jupyter_ns.images.launch import PATH, apply, prepare
from jupyter_ns.images.merged import Stack
from jupyter_ns.images.store import Store
from jupyter_ns.images.users import User, resolve_user
from jupyter_ns.spec import ContainerSpec, Mount

CONFIG: dict[str, Any] = {
    "Env": ["PATH=/opt/bin", "LANG=C", "EMPTY="],
    "Entrypoint": ["/entry", "--flag"],
    "Cmd": ["default", "args"],
    "WorkingDir": "/work",
    "User": "www:web",
    "StopSignal": "SIGQUIT",
    "Labels": {"a": "1", "b": "2"},
}


def spec(**fields: Any) -> ContainerSpec:
    return ContainerSpec(image="i", **fields)


@pytest.mark.parametrize(
    ("given", "argv"),
    [
        ({}, ("/entry", "--flag", "default", "args")),
        ({"argv": ("x", "y")}, ("/entry", "--flag", "x", "y")),
        ({"entrypoint": "/mine"}, ("/mine",)),
        ({"entrypoint": "/mine", "argv": ("z",)}, ("/mine", "z")),
        ({"entrypoint": "", "argv": ("z",)}, ("z",)),
    ],
)
def test_program(given: dict[str, Any], argv: tuple[str, ...]) -> None:
    made = apply(spec(**given), CONFIG)
    assert (made.argv, made.entrypoint) == (argv, None)


@pytest.mark.parametrize("config", [{}, {"Cmd": None}, {"Cmd": []}])
def test_no_program(config: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="no command"):
        apply(spec(), config)
    with pytest.raises(UsageError, match="no command"):
        apply(spec(entrypoint=""), CONFIG)


def test_the_user_wins() -> None:
    made = apply(spec(), CONFIG)
    assert (made.workdir, made.user, made.stop_signal) == ("/work", "www:web", "SIGQUIT")
    assert dict(made.environment) == {"PATH": "/opt/bin", "LANG": "C", "EMPTY": ""}
    given = spec(
        workdir="/w", user="0", stop_signal="SIGINT", environment=(("LANG", None), ("A", "b")), labels=(("b", "3"),)
    )
    made = apply(given, CONFIG)
    assert (made.workdir, made.user, made.stop_signal) == ("/w", "0", "SIGINT")
    assert made.environment[-2:] == (("LANG", None), ("A", "b"))
    assert dict(made.labels) == {"a": "1", "b": "3"}
    made = apply(spec(argv=("x",)), {})
    assert (made.workdir, made.environment) == ("/", (tuple(PATH.split("=")),))


@pytest.mark.parametrize(
    "config", [{"Cmd": "sh"}, {"Cmd": [1]}, {"Env": {"a": "b"}}, {"Cmd": ["a\0b"]}, {"User": 0x10}, {"Labels": ["x"]}]
)
def test_a_malformed_configuration_is_said(config: dict[str, Any]) -> None:
    with pytest.raises(ImageError, match="malformed"):
        apply(spec(argv=() if "Cmd" in config else ("x",)), config)


PASSWD = "root:x:0:0:root:/root:/bin/sh\nwww:x:33:34::/srv:/bin/sh\nbroken\nx:y:z:z:a:b:c\n"
GROUP = "root:x:0:\nweb:x:50:www\nmore:x:51:other,www\n123:x:60:\n"


@pytest.mark.parametrize(
    ("user", "extra", "expected"),
    [
        ("", (), User(0, 0, (), "/root")),
        ("www", (), User(33, 34, (50, 51), "/srv")),
        ("33", (), User(33, 34, (50, 51), "/srv")),
        ("www:more", (), User(33, 51, (), "/srv")),
        ("www:9", ("web",), User(33, 9, (50,), "/srv")),
        ("1000:1000", (), User(1000, 1000, (), "/")),
        ("0:123", (), User(0, 60, (), "/root")),
    ],
)
def test_users(user: str, extra: tuple[str, ...], expected: User) -> None:
    assert resolve_user(user, extra, PASSWD, GROUP) == expected


@pytest.mark.parametrize(("user", "extra"), [("nobody", ()), ("www:none", ()), ("", ("none",))])
def test_unknown_users(user: str, extra: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="no matching entries"):
        resolve_user(user, extra, PASSWD, GROUP)


def test_looking_into_layers(tmp_path: Path) -> None:
    low, high = tmp_path / "low", tmp_path / "high"
    for path, text in {
        "low/etc/passwd": "low",
        "low/etc/only": "x",
        "low/a/b/c": "c",
        "high/etc/passwd": "high",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    (high / "lib").symlink_to("etc")
    (high / "abs").symlink_to("/lib/passwd")
    (high / "out").symlink_to("../../../../../etc/only")
    (high / "loop").symlink_to("loop")
    (high / "a").write_text("a file over a directory")
    stack = Stack((str(high), str(low)))
    assert stack.read_text("/etc/passwd") == "high"
    assert [stack.read_text(p) for p in ("lib/passwd", "abs", "out", "loop", "a/b/c", "lib", "missing")] == [
        "high", "high", "x", "", "", "", "",
    ]  # fmt: skip
    assert [(p, f.layer) for p, f in stack.walk() if not os.path.islink(f.path)] == [
        ("a", 0), ("etc", 0), ("etc/only", 1), ("etc/passwd", 0),
    ]  # fmt: skip
    assert stack.holders("/etc/passwd") == [(0, "has"), (1, "has")]
    assert stack.holders("/a/b") == [(0, "hides"), (1, "has")]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("JUPYTER_NS_DATA", str(tmp_path / "data"))
    return Store()


def test_a_python_cell_needs_the_notebooks_python(data: Store) -> None:
    with pytest.raises(UnsupportedError, match="--image busybox sh"):
        prepare(ContainerSpec(image="busybox", python=True), print)
    assert prepare(ContainerSpec(image="host", python=True), print).spec == ContainerSpec(python=True)
    assert data.images() == []


def test_never_pull(data: Store) -> None:
    with pytest.raises(ImageError, match=r"alpine.*never.*busybox.*host"):
        prepare(ContainerSpec(image="alpine", argv=("x",), pull="never"), print)


def test_volumes_become_bind_mounts(data: Store) -> None:
    named = Mount(type="volume", source="data", destination="/data", readonly=True)
    anonymous = Mount(type="volume", destination="/more")
    made, request = prepare(ContainerSpec(argv=("x",), mounts=(named, anonymous)), print)
    assert [m.type for m in made.mounts] == ["bind", "bind"]
    assert made.mounts[0].source == data.path("volumes", "data", "_data") and made.mounts[0].readonly
    assert len(request["held"]) == 2 and len(request["anonymous"]) == 1
    again, _ = prepare(ContainerSpec(argv=("x",), mounts=(named,)), print)
    assert again.mounts[0].source == made.mounts[0].source


def test_another_platform_is_another_image(data: Store) -> None:
    own = prepare(ContainerSpec(image="busybox", argv=("x",)), print).request["image"]["id"]
    kept = data.find("busybox").config["architecture"]
    same = ContainerSpec(image="busybox", argv=("x",), platform=f"linux/{kept}")
    assert prepare(same, print).request["image"]["id"] == own
    other = ContainerSpec(image="busybox", argv=("x",), platform="linux/s390x", pull="never")
    with pytest.raises(ImageError, match=f"wanted linux/s390x, actual: linux/{kept}"):
        prepare(other, print)
    told: list[str] = []
    with pytest.raises(ImageError, match="cannot be pulled"):
        prepare(ContainerSpec(image="busybox", argv=("x",), platform="linux/s390x"), told.append)
    assert told[0].startswith("busybox does not match the specified platform")

"""Containers of images and with volumes, against the real kernel."""

from __future__ import annotations

import contextlib
import io
import os
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jupyter_ns import Container, run
from jupyter_ns.client import get_client
from jupyter_ns.container import Change
from jupyter_ns.errors import ImageError, SetupError, UnsupportedError, UsageError
from jupyter_ns.images import archive, volumes
from jupyter_ns.images.base import make_busybox
from jupyter_ns.images.make import OCI_LAYER, add_image, new_config
from jupyter_ns.images.record import Layer, digest_of
from jupyter_ns.images.reference import parse_reference
from jupyter_ns.images.store import Store
from jupyter_ns.runner import Run, Sink
from jupyter_ns.runtime.parked import AFTER_S
from jupyter_ns.spec import ContainerSpec, Mount

pytestmark = pytest.mark.needs("overlay", "root")


@pytest.fixture
def store() -> Iterator[Store]:
    """Give the session's store, with busybox in it and nothing else."""
    store = Store()
    yield store
    get_client().sync()  # what is parked holds images and volumes
    for image in store.images():
        store.remove(image.id)
    for volume in volumes.volumes(store):
        volumes.remove(store, volume.name)
    store.collect()
    assert os.listdir(store.path("layers")) == os.listdir(store.path("scratch")) == []


def tar(files: dict[str, bytes | None]) -> bytes:
    """Make an archive; None is a directory, and a name that begins with ``.wh.`` a whiteout."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.type, info.mode = (tarfile.DIRTYPE, 0o755) if data is None else (tarfile.REGTYPE, 0o644)
            info.size = len(data or b"")
            archive.addfile(info, io.BytesIO(data or b""))
    return out.getvalue()


def image_on_busybox(store: Store, name: str, *archives: bytes, **runtime: object) -> str:
    """Put layers on busybox."""
    base = make_busybox(store)
    with store.adding():
        layers = list(base.layers)
        for data in archives:
            diff_id, digest, _ = store.add_layer(io.BytesIO(data), below=[one.diff_id for one in layers])
            store.add_bytes(data)
            layers.append(Layer(diff_id=diff_id, digest=digest, media_type=OCI_LAYER, size=len(data)))
        config = new_config(
            {**base.runtime, **runtime}, diff_ids=[one.diff_id for one in layers], history=[], created="2020"
        )
        return add_image(store, layers, config, [parse_reference(name)]).id


def sh(script: str, **options: object) -> Container:
    """Run a script in busybox; what it writes to standard error fails the test."""
    container = run("sh", "-c", script, **{"image": "busybox", **options})
    assert (container.stderr, container.exit_code) == ("", 0)
    return container


def test_busybox_is_made_where_it_is_not(store: Store) -> None:
    container = sh("pwd; id; echo $PATH:$HOME; ls -A /; cat /proc/1/comm; true")
    lines = container.stdout.splitlines()
    assert lines[:3] == [
        "/",
        "uid=0(root) gid=0(root)",
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/root",
    ]
    assert set(lines[3:-1]) == {"bin", "dev", "etc", "home", "proc", "root", "sbin", "sys", "tmp", "usr", "var"}
    assert lines[-1] == "sh" and container.changes == []
    assert store.find("busybox").id == store.images()[0].id


def test_nothing_of_the_host_is_inside(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_HOST", "x")
    container = sh("env; ls -A /tmp; cat /proc/self/mountinfo")
    assert "SECRET_OF_THE_HOST" not in container.stdout
    sources = [line.split(" - ")[1].split()[:2] for line in container.stdout.splitlines() if " - " in line]
    assert {kind for kind, _ in sources} <= {
        "overlay",
        "tmpfs",
        "proc",
        "sysfs",
        "devpts",
        "mqueue",
        "cgroup",
        "cgroup2",
    }
    assert str(tmp_path).split("/")[2] not in container.stdout.split("lowerdir")[0]


def test_what_is_written_is_listed_and_gone(store: Store) -> None:
    assert sh("echo x > /new; rm /etc/shells; echo y >> /etc/passwd; mkdir /tmp/d").changes == [
        Change("C", "/etc"),
        Change("C", "/etc/passwd"),
        Change("D", "/etc/shells"),
        Change("A", "/new"),
        Change("C", "/tmp"),
        Change("A", "/tmp/d"),
    ]
    assert sh("cat /etc/shells; ls /new 2>/dev/null || true").stdout == "/bin/sh\n"


def test_layers_hide_and_add(store: Store) -> None:
    first = tar({"data": None, "data/a": b"a1", "data/b": b"b1", "full": None, "full/x": b"x"})
    second = tar({"data/.wh.a": b"", "data/c": b"c2", "full": None, "full/.wh..wh..opq": b"", "full/y": b"y"})
    image_on_busybox(store, "layers", first, second)
    script = "cd /data; ls; ls /full; cat b c; touch /full/x /data/a"
    assert sh(script, image="layers").stdout == "b\nc\ny\nb1c2"
    assert sh("ls /full", image="layers", userns="private").stdout == "y\n"


def test_the_configuration_is_followed(store: Store) -> None:
    users = tar(
        {"etc/passwd": b"root:x:0:0::/root:/bin/sh\nwww:x:33:34::/srv:/bin/sh\n", "etc/group": b"web:x:50:www\n"}
    )
    runtime = {"Env": ["A=image", "B=image"], "Entrypoint": ["sh", "-c"], "WorkingDir": "/made/here", "User": "www"}
    image_on_busybox(store, "configured", users, **runtime)
    script = "pwd; id -u; id -g; id -G; echo $A $B $HOME"
    container = run(script, image="configured", env=["B=mine"])
    assert container.stdout == "/made/here\n33\n34\n34 50\nimage mine /srv\n"
    container = run("id", image="configured", entrypoint="", user="0", workdir="/etc")
    assert container.stdout.startswith("uid=0(root) gid=0")
    with pytest.raises(UsageError, match="no matching entries"):
        run("true", image="configured", user="nobody")


def test_a_read_only_root(store: Store) -> None:
    container = sh("pwd; touch /x 2>/dev/null || echo no; touch /t/x", read_only=True, workdir="/made/new", tmpfs="/t")
    assert container.stdout == "/made/new\nno\n"


def test_a_hundred_and_twenty_layers(store: Store) -> None:
    layers = [tar({f"layer{i}": str(i).encode()}) for i in range(120)]
    image_on_busybox(store, "many", *layers)
    assert sh("ls / | grep -c layer; cat /layer0 /layer119", image="many").stdout == "120\n0119"


def test_an_image_without_the_places_to_mount_on(store: Store) -> None:
    busybox = make_busybox(store)
    with open(os.path.join(store.lower_directories(busybox)[0], "bin/busybox"), "rb") as f:
        program = f.read()
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive_:
        info = tarfile.TarInfo("sh")
        info.size, info.mode = len(program), 0o755
        archive_.addfile(info, io.BytesIO(program))
    archive.import_files(store, io.BytesIO(data.getvalue()), [parse_reference("scratch-like")], {"Cmd": ["/sh"]})
    container = run("/sh", "-c", "echo /*", image="scratch-like")
    assert container.stdout == "/dev /etc /proc /sh /sys\n"


HOSTILE_LINKS = {
    "proc": "/",
    "dev": "/etc",
    "sys": "../..",
    "etc": "/",
    "tmp": "/etc",
    "data": "/.jupyter_ns-0/etc",
}


def test_links_of_an_image_lead_nowhere(store: Store, tmp_path: Path) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar_:
        for name, target in HOSTILE_LINKS.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar_.addfile(info)
    image_on_busybox(store, "links", data.getvalue())
    before = sorted(os.listdir("/etc")), sorted(os.listdir("/"))
    (tmp_path / "v").mkdir()
    with pytest.raises(SetupError, match="/data"):
        run("true", image="links", volume=f"{tmp_path}/v:/data/jupyter_ns-test")
    with pytest.raises(SetupError, match="/data"):
        run("true", image="links", workdir="/data/deeper")
    run("true", image="links", tmpfs="/tmp/jupyter_ns-test")
    assert (sorted(os.listdir("/etc")), sorted(os.listdir("/"))) == before


class Meanwhile(Sink):
    """Does something while the container runs."""

    def __init__(self, action: Callable[[], None]) -> None:
        self.action = action

    def on_started(self, container: Container) -> None:
        self.action()


def test_an_image_in_use_is_not_removed(store: Store) -> None:
    def try_to_remove() -> None:
        with pytest.raises(ImageError, match="using it"):
            store.remove(store.find("busybox").id)

    spec = ContainerSpec(argv=("sleep", "0.5"), image="busybox")
    assert Run(get_client(), spec, Meanwhile(try_to_remove)).execute().exit_code == 0
    get_client().sync()
    store.remove(store.find("busybox").id)
    assert store.images() == []


def test_a_moved_name_is_followed_and_a_removed_image_is_said(store: Store) -> None:
    one = image_on_busybox(store, "moving", tar({"which": b"one"}))
    assert sh("cat /which", image="moving").stdout == "one"
    image_on_busybox(store, "moving", tar({"which": b"two"}))
    assert sh("cat /which", image="moving").stdout == "two"
    assert sh("cat /which", image=one).stdout == "one"
    get_client().sync()
    store.remove(one)
    store.collect()
    with pytest.raises(ImageError, match="No such image"):
        run("true", image=one, pull="never")


def test_host_is_the_default(store: Store) -> None:
    assert run("sh", "-c", "test -e /etc/debian_version -o -e /etc/os-release", image="host").exit_code == 0


def test_what_does_not_go_together(store: Store) -> None:
    with pytest.raises(UsageError, match="--keep"):
        run("true", image="busybox", keep=True)
    with pytest.raises(UsageError, match="mount namespace"):
        run("true", image="busybox", without="mount")


def test_an_image_that_cannot_be_pulled_names_the_offline_choice(store: Store) -> None:
    with pytest.raises(ImageError, match=r"(?s)nowhere\.invalid.*busybox.*host"):
        run("true", image="nowhere.invalid/image")
    assert store.images() == []


# ---- volumes ----


def test_a_volume_outlives_its_containers(store: Store) -> None:
    sh("echo kept > /data/file; id -u > /data/who", volume="mine:/data")
    assert sh("cat /data/file", volume="mine:/data:ro").stdout == "kept\n"
    assert run("sh", "-c", "cat /data/file", volume="mine:/data").stdout == "kept\n"
    container = run("sh", "-c", "echo no > /data/file", image="busybox", volume="mine:/data:ro")
    assert container.exit_code != 0 and "Read-only file system" in container.stderr
    assert [v.name for v in volumes.volumes(store)] == ["mine"]
    assert sh("cat /x/file", mount="type=volume,src=mine,dst=/x").stdout == "kept\n"


def test_a_new_volume_starts_with_what_the_image_has(store: Store) -> None:
    image_on_busybox(store, "filled", tar({"srv": None, "srv/a": b"from the image"}))
    assert sh("cat /srv/a; rm /srv/a", image="filled", volume="vv:/srv").stdout == "from the image"
    assert sh("ls -A /srv", image="filled", volume="vv:/srv:nocopy").stdout == ""
    assert sh("ls -A /srv", image="filled", volume="other:/srv:nocopy").stdout == ""


def test_an_anonymous_volume_goes_with_its_container(store: Store) -> None:
    container = sh("touch /etc/../data/x; grep -c ' /data ' /proc/self/mountinfo", volume="/data")
    assert container.stdout == "1\n"
    assert volumes.volumes(store) == []


def test_a_volume_in_use_is_not_removed(store: Store) -> None:
    def try_to_remove() -> None:
        with pytest.raises(ImageError, match="in use"):
            volumes.remove(store, "busy")

        Path(volumes.get(store, "busy").path, "tried").touch()

    mount = Mount(type="volume", source="busy", destination="/data")
    until_tried = ("sh", "-c", "until [ -e /data/tried ]; do sleep 0.02; done")
    spec = ContainerSpec(argv=until_tried, workdir="/", mounts=(mount,))
    assert Run(get_client(), spec, Meanwhile(try_to_remove)).execute().exit_code == 0
    get_client().sync()
    volumes.remove(store, "busy")


def test_a_volume_goes_while_the_next_container_is_being_thought_of(store: Store) -> None:
    client = get_client()
    for _ in range(5):  # at least one of them in the milliseconds between a run and the building of the next
        run("true", volume="brief:/data")
        with contextlib.suppress(ImageError):  # in use until the run's own process has gone
            time.sleep(AFTER_S / 4)
            volumes.remove(store, "brief")
        time.sleep(2 * AFTER_S)
        client.sync()  # fails if the engine is gone
    assert get_client() is client


def test_cells_of_python_are_refused(store: Store) -> None:
    with pytest.raises(UnsupportedError, match="Python"):
        Run(get_client(), ContainerSpec(python=True, image="busybox"), Sink())


def test_digests_are_of_the_bytes(store: Store) -> None:
    data = tar({"f": b"x"})
    image = archive.import_files(store, io.BytesIO(data), [], {"Cmd": ["x"]})
    assert image.layers[0].digest == digest_of(data)


@pytest.mark.needs("devices")
def test_a_node_outside_dev_opens_if_the_cgroup_of_devices_lets_it(store: Store) -> None:
    make_busybox(store)
    script = "mknod /null c 1 3 && echo x > /null && echo open; mknod /disk b 8 0 && head -c 1 /disk"
    container = run("sh", "-c", script, image="busybox")
    assert container.stdout == "open\n" and "Operation not permitted" in container.stderr
    private = run("sh", "-c", "test -c /dev/null && mount", image="busybox", userns="private")
    assert "nodev" in private.stdout.splitlines()[0]

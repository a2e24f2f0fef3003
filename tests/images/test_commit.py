"""Layers out of directories, and layers looked at."""

from __future__ import annotations

import io
import os
import shutil
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest

from jupyter_ns.errors import ImageError, UsageError
from jupyter_ns.images.base import make_busybox
from jupyter_ns.images.commit import apply_changes, commit
from jupyter_ns.images.look import created_by, layers_of, origin, tree_text
from jupyter_ns.images.merged import Stack
from jupyter_ns.images.pack import pack_layer, pack_stack, pack_tree
from jupyter_ns.images.reference import parse_reference
from jupyter_ns.images.store import Store
from jupyter_ns.units import format_decimal_bytes

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="overlays are mounted by root here")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def describe(stack: Stack) -> dict[str, tuple[object, ...]]:
    """Return what there is to compare."""
    found = {}
    for path, f in stack.walk():
        info = f.info
        content: object = None
        if stat.S_ISREG(info.st_mode):
            content = Path(f.path).read_bytes()
        elif stat.S_ISLNK(info.st_mode):
            content = os.readlink(f.path)
        xattrs = [
            (n, os.getxattr(f.path, n)) for n in os.listxattr(f.path, follow_symlinks=False) if "overlay" not in n
        ]
        found[path] = info.st_mode, info.st_uid, info.st_gid, info.st_mtime_ns, content, xattrs
    return found


def test_what_the_kernel_wrote_comes_back(store: Store, tmp_path: Path) -> None:
    base = make_busybox(store)
    lower = store.lower_directories(base)[0]
    for name in ("upper", "work", "merged", "work2"):
        (tmp_path / name).mkdir()
    options = f"lowerdir={lower},upperdir={tmp_path}/upper,workdir={tmp_path}/work"
    merged = tmp_path / "merged"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, merged], check=True)
    try:
        os.unlink(merged / "etc/shells")
        shutil.rmtree(merged / "var")
        (merged / "var").mkdir()
        (merged / "var/new").write_text("in an opaque directory")
        (merged / "etc/passwd").write_text("changed")
        os.chown(merged / "etc/passwd", 1000, 1001)
        os.setxattr(merged / "etc/passwd", "user.note", b"\xff\x00binary")
        os.symlink("/loop", merged / "ünï")
        (merged / "two").write_text("links")
        os.link(merged / "two", merged / "names")
        os.mkfifo(merged / "pipe")
        os.chmod(merged / "home", 0o700)
        with open(merged / "sparse", "wb") as f:
            f.truncate(3 << 20)
        image = commit(store, base, str(tmp_path / "upper"), [parse_reference("mine")], message="m", author="a")
        made = Stack(store.lower_directories(image))
        assert describe(made) == describe(Stack([str(merged)]))
    finally:
        subprocess.run(["umount", merged], check=True)
    two, names = made.find("two"), made.find("names")
    assert two is not None and names is not None and os.path.samestat(two.info, names.info)
    assert image.layers[:1] == base.layers and store.find("mine").id == image.id
    assert image.config["history"][-1].items() >= {"comment": "m", "author": "a"}.items()
    views = layers_of(store, image)
    assert [v.number for v in views] == [1, 2]
    assert {("D", "/etc/shells"), ("C", "/etc/passwd"), ("A", "/var/new"), ("D", "/var/tmp")} <= set(views[1].changes)
    assert views[1].hidden_bytes == sum(os.lstat(os.path.join(lower, p)).st_size for p in ("etc/shells", "etc/passwd"))
    assert [tuple(o) for o in origin(store, image, "/etc/passwd")] == [(2, "has", True), (1, "has", False)]
    assert [tuple(o) for o in origin(store, image, "/etc/shells")] == [(2, "hides", False), (1, "has", False)]
    assert [tuple(o) for o in origin(store, image, "/bin/sh")] == [(1, "has", True)]
    assert [tuple(o) for o in origin(store, image, "/var/tmp")] == [(2, "hides below", False), (1, "has", False)]
    with pytest.raises(ImageError, match="no layer"):
        origin(store, image, "/missing")
    text = tree_text("mine", views, bytes_words=format_decimal_bytes)
    assert text.splitlines()[0] == "mine" and "└─ layer 1" in text and "├─ layer 2" in text


def test_a_name_that_would_pass_for_a_whiteout(tmp_path: Path) -> None:
    (tmp_path / "u").mkdir()
    (tmp_path / "u/.wh.x").write_text("")
    with pytest.raises(ImageError, match="whiteout"):
        pack_layer(str(tmp_path / "u"), io.BytesIO())


def test_a_renamed_directory_is_not_committed_wrongly(tmp_path: Path) -> None:
    (tmp_path / "u/d").mkdir(parents=True)
    os.setxattr(tmp_path / "u/d", "trusted.overlay.redirect", b"/old")
    with pytest.raises(ImageError, match="redirect"):
        pack_layer(str(tmp_path / "u"), io.BytesIO())


def test_exported_files(store: Store, tmp_path: Path) -> None:
    stack = Stack(store.lower_directories(make_busybox(store)))
    for number, pack in enumerate((lambda out: pack_stack(stack, out), lambda out: pack_tree(stack.lower[0], out))):
        with open(tmp_path / "out.tar", "wb") as out:
            pack(out)
        target = tmp_path / f"out{number}"
        target.mkdir()
        subprocess.run(["tar", "-C", target, "-xpf", tmp_path / "out.tar"], check=True)
        assert describe(Stack([str(target)])) == describe(stack)
        with tarfile.open(tmp_path / "out.tar") as tar:
            assert sum(m.islnk() for m in tar) > 200  # each applet is a link, not a copy


def test_changes() -> None:
    runtime = {"Env": ["A=1", "PATH=/bin"], "Labels": {"x": "1"}}
    made = apply_changes(
        runtime,
        ["env A=2 B='b c'", "ENV C d e", "LABEL y=2", "EXPOSE 80 53/udp", 'ENTRYPOINT ["e"]', "CMD run it", "USER 1:2"],
    )
    assert made == {
        "Env": ["PATH=/bin", "A=2", "B=b c", "C=d e"],
        "Labels": {"x": "1", "y": "2"},
        "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
        "Entrypoint": ["e"],
        "Cmd": ["/bin/sh", "-c", "run it"],
        "User": "1:2",
    }
    assert runtime == {"Env": ["A=1", "PATH=/bin"], "Labels": {"x": "1"}}
    for wrong in ("RUN x", "CMD", "EXPOSE http", "CMD [1]", "LABEL a=1 =2"):
        with pytest.raises(UsageError, match="--change"):
            apply_changes({}, [wrong])


@pytest.mark.parametrize("history", [None, "x", [1, {"created_by": 5}], [{"empty_layer": True}, {"comment": "c"}]])
def test_any_history_is_read(history: object, store: Store) -> None:
    image = make_busybox(store)
    image.config["history"] = history
    assert len(created_by(image)) == 1

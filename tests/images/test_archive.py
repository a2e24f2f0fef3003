"""Archives of other tools in, ours into other tools; layers compared with what those extract."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from archives import archive, entry, symlink
from tools import needs, tool

from jupyter_ns.errors import ImageError
from jupyter_ns.images import archive as archives
from jupyter_ns.images.base import make_busybox
from jupyter_ns.images.merged import Stack
from jupyter_ns.images.record import Image
from jupyter_ns.images.store import Store

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="other tools unpack owners as root only")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def describe_tree(root: str | Path) -> dict[str, tuple[Any, ...]]:
    """Return everything about every file of a tree."""
    found = {}
    for directory, names, files in os.walk(root):
        for name in [*names, *files]:
            path = os.path.join(directory, name)
            found[os.path.relpath(path, root)] = describe_file(path)
    return found


def describe_stack(stack: Stack) -> dict[str, tuple[Any, ...]]:
    """Return the same of layers that are merged."""
    return {path: describe_file(found.path) for path, found in stack.walk()}


def describe_file(path: str) -> tuple[Any, ...]:
    info = os.lstat(path)
    kind = stat.S_IFMT(info.st_mode)
    content: object = None
    if kind == stat.S_IFREG:
        with open(path, "rb") as f:
            content = info.st_size, hashlib.file_digest(f, "sha256").hexdigest()
    elif kind == stat.S_IFLNK:
        content = os.readlink(path)
    elif kind != stat.S_IFDIR:
        content = info.st_rdev
    names = [n for n in os.listxattr(path, follow_symlinks=False) if ".overlay." not in n]
    xattrs = sorted((n, os.getxattr(path, n, follow_symlinks=False)) for n in names if n != "security.selinux")
    return info.st_mode, info.st_uid, info.st_gid, info.st_mtime_ns, content, xattrs


def change(root: Path, step: int) -> None:
    """Change a root file system, each time in other ways."""
    if step == 0:
        for name in ("bin", "etc", "data/deep/er", "emptied", "replaced", "var"):
            (root / name).mkdir(parents=True)
        (root / "bin/tool").write_bytes(os.urandom(5000))
        os.chmod(root / "bin/tool", 0o4755)
        os.link(root / "bin/tool", root / "bin/same")
        os.symlink("tool", root / "bin/link")
        os.symlink("/nowhere/../..", root / "etc/dangling")
        for i in range(20):
            (root / f"data/deep/er/{i}").write_text(str(i) * i)
            (root / f"emptied/{i}").write_text("x")
        (root / "replaced/in").write_text("directory")
        (root / "etc/owned").write_text("mine")
        os.chown(root / "etc/owned", 1234, 4321)
        os.setxattr(root / "etc/owned", "user.origin", b"layer \0 one")
        os.mkfifo(root / "var/pipe")
        with open(root / "var/sparse", "wb") as f:
            f.seek(5 << 20)
            f.write(b"end")
    elif step == 1:
        os.unlink(root / "bin/tool")
        shutil.rmtree(root / "data/deep")
        shutil.rmtree(root / "emptied")
        (root / "emptied").mkdir(mode=0o700)
        (root / "emptied/new").write_text("only me")
        shutil.rmtree(root / "replaced")
        (root / "replaced").write_text("a file now")
        os.chmod(root / "etc/owned", 0o600)
        (root / "ünïcode nâme").write_text("ü")
    else:
        os.unlink(root / "replaced")
        (root / "replaced").mkdir()
        (root / "replaced/again").write_text("a directory again")
        (root / "data/deep").mkdir()
        (root / "data/deep/back").write_text("back")
        os.unlink(root / "etc/dangling")
        with open(root / "emptied/new", "a") as f:
            f.write(", longer")


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """Return an OCI layout with an image of three layers, made by umoci."""
    path = tmp_path / "layout"
    tool("umoci", "init", "--layout", path)
    tool("umoci", "new", "--image", f"{path}:made")
    for step in range(3):
        bundle = tmp_path / f"bundle{step}"
        tool("umoci", "unpack", "--image", f"{path}:made", bundle)
        change(bundle / "rootfs", step)
        tool("umoci", "repack", "--image", f"{path}:made", bundle)
    tool("umoci", "config", "--image", f"{path}:made", "--config.cmd", "/bin/tool", "--config.env", "A=b c")
    return path


def loaded(store: Store, path: Path) -> Image:
    ((image, _),) = archives.load(store, str(path))
    return image


@needs("umoci")
def test_whiteouts_are_what_umoci_extracts(store: Store, layout: Path, tmp_path: Path) -> None:
    image = loaded(store, layout)
    assert len(image.layers) == 3 and image.runtime["Env"] == ["A=b c"]
    ours = describe_stack(Stack(store.lower_directories(image)))
    tool("umoci", "unpack", "--image", f"{layout}:made", tmp_path / "theirs")
    assert ours == describe_tree(tmp_path / "theirs/rootfs")
    assert "emptied/0" not in ours and "bin/tool" not in ours and "data/deep/back" in ours


@needs("podman")
@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
def test_layers_of_podman_are_what_podman_mounts(
    form: str, store: Store, tmp_path: Path, podman: Callable[..., str]
) -> None:
    (tmp_path / "empty.tar").write_bytes(archive([entry("first")]))
    podman("import", tmp_path / "empty.tar", "made:0")
    for step in range(3):
        container = podman("create", f"made:{step}", "/x").strip()
        change(Path(podman("mount", container).strip()), step)
        podman("commit", "--quiet", container, f"made:{step + 1}")
        podman("rm", "--force", container)
    podman("save", "--format", form, "-o", tmp_path / "a.tar", "made:3")
    image = loaded(store, tmp_path / "a.tar")
    assert len(image.layers) == 4
    theirs = podman("image", "mount", "made:3").strip()
    assert describe_stack(Stack(store.lower_directories(image))) == describe_tree(theirs)


@needs("umoci", "mount")
def test_the_kernel_merges_the_layers_as_we_do(store: Store, layout: Path, tmp_path: Path) -> None:
    lower = store.lower_directories(loaded(store, layout))
    merged = tmp_path / "merged"
    merged.mkdir()
    tool("mount", "-t", "overlay", "overlay", "-o", f"ro,lowerdir={':'.join(lower)}", merged)
    try:
        assert describe_tree(merged) == describe_stack(Stack(lower))
    finally:
        tool("umount", merged)
    with_userxattr = f"ro,userxattr,lowerdir={':'.join(lower)}"
    tool("mount", "-t", "overlay", "overlay", "-o", with_userxattr, merged)
    try:
        assert describe_tree(merged) == describe_stack(Stack(lower))
    finally:
        tool("umount", merged)


@needs("umoci", "skopeo")
@pytest.mark.parametrize(
    "form", ["docker-archive:{}:made:1", "oci-archive:{}:made:1", "docker-archive+gzip", "oci+zstd", "oci+gzip"]
)
def test_archives_of_skopeo(form: str, store: Store, layout: Path, tmp_path: Path) -> None:
    path = tmp_path / "made"
    kind, plus, compression = form.partition("+")
    if kind == "docker-archive" and plus:
        tool("skopeo", "copy", f"oci:{layout}:made", f"docker-archive:{path}.plain:made:1")
        path.write_bytes(subprocess.run(["gzip", "-c", f"{path}.plain"], check=True, capture_output=True).stdout)
    elif plus:
        tool("skopeo", "copy", "--dest-compress-format", compression, f"oci:{layout}:made", f"oci:{path}:made")
    else:
        tool("skopeo", "copy", f"oci:{layout}:made", form.format(path))
    image = loaded(store, path)
    assert [one.diff_id for one in image.layers] == [one.diff_id for one in loaded(store, layout).layers]
    assert "bin/same" in describe_stack(Stack(store.lower_directories(image)))
    if "1" in form:
        assert store.find("made:1").id == image.id


@needs("umoci", "skopeo", "podman")
def test_ours_into_other_tools_and_back(store: Store, layout: Path, tmp_path: Path, podman: Callable[..., str]) -> None:
    image = loaded(store, layout)
    busybox = make_busybox(store)
    chosen = [(image, []), (busybox, store.names_of(busybox.id))]
    with open(tmp_path / "ours.tar", "wb") as out:
        archives.save(store, chosen, out)
    second = Store(str(tmp_path / "second"))
    assert [i.id for i, _ in archives.load(second, str(tmp_path / "ours.tar"))] == [image.id, busybox.id]
    assert second.find("busybox").manifest == busybox.manifest
    podman("load", "-i", tmp_path / "ours.tar")
    assert busybox.id.removeprefix("sha256:") in podman("images", "-q", "--no-trunc").replace("sha256:", "")
    inspected = json.loads(tool("skopeo", "inspect", f"docker-archive:{tmp_path}/ours.tar:busybox:latest"))
    assert inspected["Layers"] == [one.digest for one in busybox.layers]
    tool("skopeo", "copy", f"oci-archive:{tmp_path}/ours.tar:latest", f"dir:{tmp_path}/dir")
    assert hashlib.sha256((tmp_path / "dir/manifest.json").read_bytes()).hexdigest() == busybox.manifest[7:]


def docker_archive(
    data: bytes, diff_id: str, layer: tuple[tarfile.TarInfo, bytes] | None = None, **manifest: Any
) -> bytes:
    """Build an archive by hand, to be wrong on purpose."""
    config = json.dumps({"rootfs": {"type": "layers", "diff_ids": [diff_id]}, "config": {}}).encode()
    listed = [{"Config": "config.json", "RepoTags": ["x:1"], "Layers": ["layer.tar"], **manifest}]
    return archive(
        [
            entry("config.json", data=config),
            layer or entry("layer.tar", data=data),
            entry("manifest.json", data=json.dumps(listed).encode()),
        ]
    )


LAYER = archive([entry("f", data=b"x")])
DIFF_ID = f"sha256:{hashlib.sha256(LAYER).hexdigest()}"
WRONG: dict[str, tuple[bytes, str]] = {
    "another layer": (docker_archive(LAYER, "sha256:" + "0" * 64), "damaged"),
    "a layer out of the archive": (docker_archive(LAYER, DIFF_ID, Layers=["../../etc/passwd"]), "lacks"),
    "a config out of the archive": (docker_archive(LAYER, DIFF_ID, Config="/etc/passwd"), "lacks"),
    "more layers than diff IDs": (docker_archive(LAYER, DIFF_ID, Layers=["layer.tar"] * 2), "layers"),
    "no list of layers": (docker_archive(LAYER, DIFF_ID, Layers=None), "malformed"),
    "a bad name": (docker_archive(LAYER, DIFF_ID, RepoTags=["UPPER"]), "lowercase"),
    "not an archive of images": (LAYER, "import"),
    "no archive": (b"\x7fELF" * 1000, "damaged"),
    "empty": (b"", "damaged"),
    "a digest that is a path": (docker_archive(LAYER, "sha256:../../../etc/passwd"), "sha256"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_archives_are_refused_and_leave_nothing(name: str, store: Store, tmp_path: Path) -> None:
    data, message = WRONG[name]
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises((ImageError, ValueError), match=message):
        archives.load(store, str(tmp_path / "a.tar"))
    assert store.images() == [] and store.tags() == {}
    store.collect()
    assert os.listdir(store.path("layers")) == os.listdir(store.path("scratch")) == []


def test_the_right_one_by_hand_is_loaded(store: Store, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(docker_archive(LAYER, DIFF_ID))
    image = loaded(store, tmp_path / "a.tar")
    assert store.find("x:1").id == image.id


def test_links_of_an_archive_do_not_leave_it(store: Store, tmp_path: Path) -> None:
    secret = tmp_path / "layer.tar"
    secret.write_bytes(LAYER)
    (tmp_path / "a.tar").write_bytes(docker_archive(LAYER, DIFF_ID, layer=symlink("layer.tar", str(secret))))
    with pytest.raises(ImageError, match="lacks"):
        archives.load(store, str(tmp_path / "a.tar"))


def test_import(store: Store) -> None:
    image = archives.import_files(store, io.BytesIO(LAYER), [], {"Cmd": ["/f"]})
    assert describe_stack(Stack(store.lower_directories(image))).keys() == {"f"}
    assert image.runtime == {"Cmd": ["/f"]} and image.layers[0].diff_id == DIFF_ID

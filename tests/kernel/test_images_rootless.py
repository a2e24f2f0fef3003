"""Images and volumes of an ordinary user, in a process of its own."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest
from ordinary_user import ordinary_user

from jupyter_ns.images import archive
from jupyter_ns.images.base import make_busybox
from jupyter_ns.images.make import OCI_LAYER, add_image, new_config
from jupyter_ns.images.record import Layer
from jupyter_ns.images.reference import parse_reference
from jupyter_ns.images.store import Store

SCRIPT = r"""
import shlex, sys, tarfile, time
from jupyter_ns import run
from jupyter_ns.frontend.commands import table
from jupyter_ns.frontend.commands.console import Console

def docker(line, cell=None):
    table.dispatch(Console(cell=cell), shlex.split(line))

docker(f"load -i {sys.argv[1]}")
container = run("sh", "-c", "id -u; ls /data /full; stat -c %u /data/owned; rm /data/owned; echo x > /v/kept",
                image="layered", volume="vol:/v")
print(container.weakened and "weakened:", *[w for w in container.weakened if "one user ID" in w])
print(container.stdout, container.stderr, [tuple(c) for c in container.changes])
print(run("cat", "/v/kept", image="layered", volume="vol:/v").stdout)
docker("layers layered /data/gone")
for options in ({"image": "layered"}, {}):
    again = run("sh", "-c", "echo x >> /tmp/f; cat /tmp/f; exec sleep 100", detach=True, **options)
    count = "wc -l < /proc/self/mountinfo; echo x > /dev/null && cat /proc/keys"
    mounts = again.exec("sh", "-c", count).stdout
    for starts in (1, 2, 3, 4):
        while again.logs().count("x") < starts * (starts + 1) // 2:
            time.sleep(0.02)
        if starts < 4:
            again.stop(timeout=0).start()
    print("again:", again.logs().split(), again.exec("cat", "/proc/1/comm").stdout.split(),
          mounts == again.exec("sh", "-c", count).stdout, [w for w in mounts.split() if w == "x"])
    again.remove(force=True)
for options in ({"image": "layered"}, {}, {"image": "layered", "userns": "private"}):
    place = "" if options else "/var/tmp"
    script = f"umask 077; cd {place}/; echo kept > made; mkdir deep; touch deep/x; rm -f /data/owned; echo up; sleep 99"
    made = run("sh", "-c", script, detach=True, workdir="/", **options)
    while not made.logs():
        time.sleep(0.02)
    docker(f"commit -m note -c 'ENV A=b' {made.name} saved")
    line = f"cd {place}/; cat made; stat -c %a made deep; echo $A; ls -A deep /data 2>/dev/null"
    print("saved:", run("sh", "-c", line, image="saved", workdir="/").stdout.split())
    if options:
        docker(f"export -o {sys.argv[1]}.out {made.name}")
        with tarfile.open(f"{sys.argv[1]}.out") as tar:
            print("exported:", [(m.name, m.uid, oct(m.mode)) for m in tar if m.name.startswith(("made", "deep"))])
    made.remove(force=True)
    docker("rmi saved")
docker(f"build -q -t built -f - {sys.argv[1]}.ctx",
       "FROM layered AS x\nRUN umask 077; echo run > /made\nFROM layered\nWORKDIR /w\n"
       "COPY note /w/\nCOPY --from=x /made .\nRUN cat made > again; rm -r /full\n")
print("built:", run("sh", "-c", "stat -c %a%u /w /w/*; cat again; ls -d /full", image="built").stdout.split())
docker("rmi built")
docker("image prune -f")
docker("rmi layered")
docker("volume rm vol")
docker("images")
"""


def _save_layered(store: Store, path: Path) -> None:
    """Save an image whose second layer hides a file and a directory of the first."""
    base = make_busybox(store)
    layers = list(base.layers)
    first = {"data": None, "data/gone": b"g", "data/owned": b"o", "full": None, "full/old": b"x"}
    second = {"data": None, "data/.wh.gone": b"", "full": None, "full/.wh..wh..opq": b"", "full/new": b"n"}
    for files in (first, second):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            for name, data in files.items():
                info = tarfile.TarInfo(name)
                info.type, info.mode = (tarfile.DIRTYPE, 0o755) if data is None else (tarfile.REGTYPE, 0o644)
                info.uid, info.size = (33 if name == "data/owned" else 0), len(data or b"")
                tar.addfile(info, io.BytesIO(data or b""))
        with store.adding():
            raw = out.getvalue()
            diff_id, digest, _ = store.add_layer(io.BytesIO(raw), below=[one.diff_id for one in layers])
            store.add_bytes(raw)
            layers.append(Layer(diff_id=diff_id, digest=digest, media_type=OCI_LAYER, size=len(raw)))
    with store.adding():
        config = new_config(base.runtime, diff_ids=[one.diff_id for one in layers], history=[])
        image = add_image(store, layers, config, [parse_reference("layered")])
    with open(path, "wb") as saved:
        archive.save(store, [(image, [parse_reference("layered")])], saved)


@pytest.mark.needs("root", "userns")
def test_an_ordinary_user(tmp_path: Path) -> None:
    # With a mount below it, /usr is no lower layer in one piece.
    with ordinary_user(["mount --bind /usr/share /usr/share"]) as (directory, run):
        (directory / "a.tar.ctx").mkdir()
        (directory / "a.tar.ctx/note").write_text("n")
        _save_layered(Store(str(tmp_path / "store")), directory / "a.tar")
        done = run(SCRIPT, directory / "a.tar")
        left = [os.listdir(directory / "data" / name) for name in ("layers", "scratch")]
    pause = "runs on meanwhile: pause: needs a cgroup"
    assert [line for line in done.stderr.splitlines() if pause not in line] == []
    assert done.stderr.count(pause) in (0, 5)
    lines = done.stdout.splitlines()
    assert lines[0] == "Loaded image: layered:latest"
    # Without a range in /etc/subuid there is one ID, and every file is root's; with one, the owner is kept.
    squashed = "every file of the image is root's" in lines.pop(1)
    assert (
        lines[1:6] == ["0", "/data:", "owned", "", "/full:"]
        and lines[6] == "new"
        and lines[7] == ("0" if squashed else "33")
    )
    assert "('D', '/data/owned')" in done.stdout and "\nkept" not in done.stdout and "x\n" in done.stdout
    assert "/data/gone: layer 3 hides it\n/data/gone: layer 2 has it\n" in done.stdout
    assert done.stdout.count(f"again: {['x'] * 10} ['sleep'] True []\n") == 2
    of_image, of_host = (f"saved: {['kept', '600', '700', 'b', *more, 'deep:', 'x']}" for more in (["/data:"], []))
    assert [line for line in lines if line.startswith("saved:")] == [of_image, of_host, of_image]
    assert "built: ['7550', '6440', '6000', '6440', 'run']" in lines  # WORKDIR, again, made, note
    exported = "exported: [('deep', 0, '0o700'), ('deep/x', 0, '0o600'), ('made', 0, '0o600')]"
    assert lines.count(exported) == 2
    assert "Untagged: layered:latest" in done.stdout and "\nvol\n" in done.stdout
    assert lines[-1].split() == ["REPOSITORY", "TAG", "IMAGE", "ID", "CREATED", "SIZE"]
    assert left == [[], []]

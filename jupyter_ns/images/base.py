"""Images that need no network: ``busybox``, made of the machine's own static busybox."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile

from ..errors import ImageError
from .make import OCI_LAYER, add_image, new_config
from .record import Image, Layer, digest_of
from .reference import parse_reference
from .store import Store

HOST = "host"
"""The name of the machine's own files, copy-on-write; it is no image of the store."""
BUSYBOX = str(parse_reference("busybox"))
OFFLINE = f"Without a network there are: busybox (made of this machine's own), {HOST} (this machine's files)"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_DIRECTORIES = {"root": 0o700, "tmp": 0o1777, "var": 0o755, "var/tmp": 0o1777, "home": 0o755, "etc": 0o755}
_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n",
    "etc/group": "root:x:0:\nusers:x:100:\nnogroup:x:65534:\n",
    "etc/shells": "/bin/sh\n",
}
_CREATED = "1970-01-01T00:00:00Z"


def make_busybox(store: Store) -> Image:
    """Make the image ``busybox``; the same program gives the same image.

    Raises
    ------
    ImageError
        If there is no static busybox here; names what to install.
    """
    program = shutil.which("busybox")
    if program is None:
        raise ImageError("no busybox on this machine to make the image of: install Debian's busybox-static")
    with open(program, "rb") as f:
        binary = f.read()
    if b"/ld-linux" in binary or b"/ld-musl" in binary:
        raise ImageError(f"{program} is not static and would not run in an image: install Debian's busybox-static")
    applets = subprocess.run([program, "--list-full"], check=True, capture_output=True, text=True).stdout.split()
    data = _layer(binary, applets)
    with store.adding():
        diff_id, digest, _ = store.add_layer(io.BytesIO(data), expected=digest_of(data))
        store.add_bytes(data)
        layer = Layer(diff_id=diff_id, digest=digest, media_type=OCI_LAYER, size=len(data))
        runtime = {"Env": [f"PATH={_PATH}"], "Cmd": ["sh"]}
        made_by = f"made of {os.path.basename(program)} ({len(applets)} applets)"
        history = [{"created": _CREATED, "created_by": made_by}]
        config = new_config(runtime, diff_ids=[diff_id], history=history, created=_CREATED)
        return add_image(store, [layer], config, [parse_reference("busybox")])


def _layer(binary: bytes, applets: list[str]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        links = sorted({path.strip("/") for path in applets} - {"bin/busybox", "linuxrc"})
        above = {os.path.dirname(link): 0o755 for link in ("bin/busybox", *links)}
        parents = {"usr": 0o755} if any(d.startswith("usr/") for d in above) else {}
        for name, mode in sorted({**parents, **above, **_DIRECTORIES}.items()):
            if name:
                _add(tar, name, tarfile.DIRTYPE, mode)
        _add(tar, "bin/busybox", tarfile.REGTYPE, 0o755, binary)
        for link in links:
            _add(tar, link, tarfile.LNKTYPE, 0o755, target="bin/busybox")
        for name, text in _FILES.items():
            _add(tar, name, tarfile.REGTYPE, 0o644, text.encode())
    return out.getvalue()


def _add(tar: tarfile.TarFile, name: str, kind: bytes, mode: int, data: bytes = b"", target: str = "") -> None:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.size, info.linkname = kind, mode, len(data), target
    tar.addfile(info, io.BytesIO(data))

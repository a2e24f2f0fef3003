"""Pull and push: against Debian's registry program, and against a server that misbehaves."""

from __future__ import annotations

import base64
import gzip
import http.server
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from archives import archive, directory, entry
from processes import soon

from jupyter_ns.errors import ImageError
from jupyter_ns.images.archive import choose_platform
from jupyter_ns.images.make import OCI_INDEX, OCI_MANIFEST, add_image, encode, layer_media_type, new_config
from jupyter_ns.images.pull import Progress, pull, push
from jupyter_ns.images.record import Image, Layer, digest_of, hex_of
from jupyter_ns.images.reference import parse_reference
from jupyter_ns.images.registry import Settings, read_settings, registries_for, save_login
from jupyter_ns.images.store import Store

REGISTRY = shutil.which("docker-registry") or "/usr/bin/docker-registry"
needs_registry = pytest.mark.skipif(not os.path.exists(REGISTRY), reason="docker-registry is not installed")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "no-docker"))
    monkeypatch.setenv("NO_PROXY", "*")
    return Store(str(tmp_path / "store"))


def add(store: Store, *layers: bytes, name: str) -> Image:
    """Make an image of archives."""
    with store.adding():
        made: list[Layer] = []
        for data in layers:
            diff_id, digest, compression = store.add_layer(io.BytesIO(data), below=[one.diff_id for one in made])
            store.add_bytes(data)
            kind = layer_media_type(compression)
            made.append(Layer(diff_id=diff_id, digest=digest, media_type=kind, size=len(data)))
        config = new_config({"Cmd": ["x"]}, diff_ids=[one.diff_id for one in made], history=[], created="2020")
        return add_image(store, made, config, [parse_reference(name)])


def some_layers(count: int = 4, size: int = 300_000) -> list[bytes]:
    """Make layers that do not compress."""
    plain = [archive([directory("d"), entry(f"d/f{i}", data=os.urandom(size))]) for i in range(count)]
    return [gzip.compress(data, 1, mtime=0) for data in plain]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


def wait_until_open(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    pytest.fail(f"the registry does not start: {process.poll()}")


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Start registries; each gives its host and port."""
    processes = []

    def start(**more: Any) -> str:
        port = free_port()
        config = {
            "version": 0.1,
            "log": {"level": "error"},
            "storage": {"filesystem": {"rootdirectory": str(tmp_path / f"registry{port}")}},
            "http": {"addr": f"127.0.0.1:{port}", **more.pop("http", {})},
            **more,
        }
        path = tmp_path / f"registry{port}.yml"
        path.write_text(json.dumps(config))  # JSON is YAML
        process = subprocess.Popen([REGISTRY, "serve", path], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        processes.append(process)
        wait_until_open(port, process)
        return f"localhost:{port}"

    yield start
    for process in processes:
        process.kill()
        process.wait()


@needs_registry
def test_push_and_pull(store: Store, registry: Callable[..., str], tmp_path: Path) -> None:
    host = registry()
    name = parse_reference(f"{host}/some/image:1")
    image = add(store, *some_layers(), name=str(name))
    said: list[str] = []
    digest = push(store, image, name, say=said.append)
    assert said[0] == f"The push refers to repository [{host}/some/image]"
    assert said[-1].startswith(f"1: digest: {digest} size: ")
    second = Store(str(tmp_path / "second"))
    said.clear()
    pulled = pull(second, name, say=said.append)
    assert (pulled.id, pulled.manifest, pulled.layers) == (image.id, digest, image.layers)
    assert said[0] == "1: Pulling from some/image" and said[-2] == f"Digest: {digest}"
    assert said[-1] == f"Status: Downloaded newer image for {host}/some/image:1"
    assert sum(line.endswith(": Pull complete") for line in said) == 4
    said.clear()
    pull(second, name, say=said.append)
    assert said[-1].startswith("Status: Image is up to date")
    assert sum(line.endswith(": Already exists") for line in said) == 4
    by_digest = parse_reference(f"{host}/some/image@{digest}")
    third = Store(str(tmp_path / "third"))
    assert pull(third, by_digest).id == image.id and third.tags() == {}
    assert os.listdir(second.path("downloads")) == os.listdir(second.path("scratch")) == []


@needs_registry
@pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")
def test_with_other_tools(store: Store, registry: Callable[..., str], tmp_path: Path) -> None:
    host = registry()
    name = parse_reference(f"{host}/a:1")
    image = add(store, *some_layers(2), name=str(name))
    push(store, image, name)
    for form in ("oci", "v2s2"):
        command = ["skopeo", "copy", "-q", "--src-tls-verify=false", "--dest-tls-verify=false", "--format", form]
        subprocess.run([*command, f"docker://{host}/a:1", f"docker://{host}/{form}:2"], check=True)
        second = Store(str(tmp_path / form))
        pulled = pull(second, parse_reference(f"{host}/{form}:2"))
        assert [one.diff_id for one in pulled.layers] == [one.diff_id for one in image.layers]


@needs_registry
@pytest.mark.parametrize("attempt", ["no tag", "no repository", "nobody there"])
def test_what_is_not_there(attempt: str, store: Store, registry: Callable[..., str]) -> None:
    host = registry() if attempt != "nobody there" else f"localhost:{free_port()}"
    if attempt == "no tag":
        image = add(store, *some_layers(1), name=f"{host}/a:1")
        push(store, image, parse_reference(f"{host}/a:1"))
    wanted = {"no tag": "404 manifest unknown", "no repository": "404 .*unknown", "nobody there": "refused"}[attempt]
    with pytest.raises(ImageError, match=wanted):
        pull(store, parse_reference(f"{host}/a:none"))
    store.collect()
    assert "a:none" not in str(store.tags())


# ---- TLS and passwords ----


@pytest.fixture
def certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Make a certificate for localhost; return it and its key."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    subprocess.run([*command, "-addext", names, "-keyout", key, "-out", cert], check=True, capture_output=True)
    return cert, key


@needs_registry
@pytest.mark.skipif(shutil.which("htpasswd") is None, reason="apache2-utils is not installed")
def test_tls_and_a_password(
    store: Store,
    registry: Callable[..., str],
    certificate: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cert, key = certificate
    htpasswd = subprocess.run(["htpasswd", "-Bbn", "me", "se:cret"], check=True, capture_output=True).stdout
    (tmp_path / "htpasswd").write_bytes(htpasswd)
    host = registry(
        http={"tls": {"certificate": str(cert), "key": str(key)}},
        auth={"htpasswd": {"realm": "r", "path": str(tmp_path / "htpasswd")}},
    )
    monkeypatch.setattr("jupyter_ns.images.registry.is_loopback", lambda _: False)  # as for any other host
    name = parse_reference(f"{host}/private:1")
    image = add(store, *some_layers(2), name=str(name))
    with pytest.raises(ImageError, match=r"(?s)TLS.*certificate.*ca\.crt"):
        push(store, image, name)
    monkeypatch.setattr("jupyter_ns.images.registry._CERTIFICATES", (str(tmp_path / "certs"),))
    (tmp_path / "certs" / host).mkdir(parents=True)
    shutil.copy(cert, tmp_path / "certs" / host / "ca.crt")
    with pytest.raises(ImageError, match="login"):
        push(store, image, name)
    save_login(store, host, ("me", "wrong"))
    with pytest.raises(ImageError, match="401"):
        push(store, image, name)
    save_login(store, host, ("me", "se:cret"))
    assert os.stat(store.path("auth.json")).st_mode & 0o077 == 0
    push(store, image, name)
    second = Store(str(tmp_path / "second"))
    with pytest.raises(ImageError, match="login"):
        pull(second, name)
    config = tmp_path / "docker"
    config.mkdir()
    auth = base64.b64encode(b"me:se:cret").decode()
    (config / "config.json").write_text(json.dumps({"auths": {host: {"auth": auth}}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(config))
    assert pull(second, name).id == image.id
    assert save_login(store, host, None) and not save_login(store, host, None)


# ---- a server of our own ----


@dataclass
class Faults:
    """How the server misbehaves."""

    token: str = ""
    password: str = ""
    fail_first: int = 0
    """Requests of blobs that are answered 503."""
    cut_at: int = 0
    """Bytes of a blob after which the connection is cut, while `cuts` lasts."""
    cuts: int = 0
    no_ranges: bool = False
    damage: bool = False
    slow_s: float = 0.0
    """Pause after each 64 KiB."""
    extra_bytes: int = 0
    manifest: bytes = b""
    log: list[tuple[str, str, str]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    faults: Faults
    store: Store
    tags: dict[str, str]

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        faults = self.faults
        with faults.lock:
            faults.log.append((self.path, self.headers.get("Range", ""), self.headers.get("Authorization", "")))
        if self.path.startswith("/token"):
            given = self.headers.get("Authorization", "")
            right = "Basic " + base64.b64encode(faults.password.encode()).decode() if faults.password else given
            body = json.dumps({"token": faults.token}).encode()
            self._answer(200 if given == right else 401, body)
        elif faults.token and self.headers.get("Authorization") != f"Bearer {faults.token}":
            realm = f'Bearer realm="http://{self.headers["Host"]}/token",service="s",scope="x"'
            self._answer(401, WWW_Authenticate=realm)
        elif "/manifests/" in self.path:
            which = self.path.rpartition("/")[2]
            digest = self.tags.get(which, which)
            if faults.manifest:
                self._answer(200, faults.manifest, Content_Type=OCI_MANIFEST)
            elif self.store.has_blob(digest):
                with self.store.open_blob(digest) as f:
                    data = f.read()
                kind = json.loads(data).get("mediaType", OCI_MANIFEST)
                self._answer(200, data, Content_Type=kind, Docker_Content_Digest=digest)
            else:
                self._answer(404, b"<html>")
        else:
            self._blob(self.path.rpartition("/")[2])

    def _blob(self, digest: str) -> None:
        faults = self.faults
        with faults.lock:
            if faults.fail_first:
                faults.fail_first -= 1
                self._answer(503)
                return
            large = os.path.getsize(self.store.blob_path(digest)) > 10_000
            cut = bool(faults.cuts) and large
            faults.cuts -= cut
        with self.store.open_blob(digest) as f:
            data = f.read()
        size = len(data)
        begin = 0
        asked = self.headers.get("Range", "")
        if asked and not faults.no_ranges:
            begin = int(asked.removeprefix("bytes=").removesuffix("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{size - 1}/{size}")
        else:
            self.send_response(200)
        if faults.damage and large:
            data = data[:-1] + bytes([data[-1] ^ 1])
        data = data[begin:] + bytes(faults.extra_bytes)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if cut:
            self.wfile.write(data[: faults.cut_at])
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        for at in range(0, len(data), 65536):
            try:
                self.wfile.write(data[at : at + 65536])
            except (BrokenPipeError, ConnectionResetError):
                return
            if faults.slow_s:
                time.sleep(faults.slow_s)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Store, Faults]]:
    """Serve the images of a store of its own, over HTTP on loopback."""
    faults, source = Faults(), Store(str(tmp_path / "served"))
    tags: dict[str, str] = {}
    handler = type("Handler", (_Handler,), {"faults": faults, "store": source, "tags": tags})
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    host = f"localhost:{httpd.server_address[1]}"
    source.served = tags  # type: ignore[attr-defined]
    yield host, source, faults
    httpd.shutdown()
    thread.join()
    httpd.server_close()


Served = tuple[str, Store, Faults]


def serve(server: Served, *layers: bytes) -> Image:
    """Put an image on the server, under the tag 1."""
    image = add(server[1], *layers, name="served")
    server[1].served["1"] = image.manifest  # type: ignore[attr-defined]
    return image


def plain(server: Served) -> Settings:
    """Spare each test the attempt to speak TLS."""
    return Settings(insecure=(server[0],))


def blobs_asked(faults: Faults, image: Image) -> list[tuple[str, str]]:
    """Return which layers were asked for, and with which range."""
    layers = {one.digest for one in image.layers}
    return [(p.rpartition("/")[2], r) for p, r, _ in faults.log if p.rpartition("/")[2] in layers]


def test_a_token_is_fetched_with_the_password(server: Served, store: Store) -> None:
    host, _, faults = server
    image = serve(server, *some_layers(3))
    faults.token, faults.password = "t0k", "me:pw"
    name = parse_reference(f"{host}/x:1")
    with pytest.raises(ImageError, match="refuses the login"):
        pull(store, name)
    settings = Settings(credentials={host: ("me", "pw")})
    assert pull(store, name, settings=settings).id == image.id
    sent = {a for path, _, a in faults.log if not path.startswith("/token")}
    assert sent <= {"", "Bearer t0k"}  # the password goes to the token service only


def test_a_broken_connection_is_resumed(server: Served, store: Store) -> None:
    host, _, faults = server
    image = serve(server, *some_layers(1, 900_000))
    faults.cut_at, faults.cuts = 200_000, 3
    assert pull(store, parse_reference(f"{host}/x:1")).id == image.id
    ranges = [int(r.strip("bytes=-") or 0) for _, r in blobs_asked(faults, image)]
    assert len(ranges) == 4 and ranges == sorted(ranges) and ranges[-1] > 0


def test_without_ranges_it_begins_anew(server: Served, store: Store) -> None:
    host, _, faults = server
    image = serve(server, *some_layers(1, 900_000))
    faults.cut_at, faults.cuts, faults.no_ranges = 200_000, 2, True
    assert pull(store, parse_reference(f"{host}/x:1")).id == image.id


def test_trouble_of_the_server_is_tried_again(server: Served, store: Store) -> None:
    host, _, faults = server
    image = serve(server, *some_layers(1))
    faults.fail_first = 2
    assert pull(store, parse_reference(f"{host}/x:1")).id == image.id


def test_a_damaged_blob_is_thrown_away(server: Served, store: Store) -> None:
    host, _, faults = server
    image = serve(server, *some_layers(2))
    name = parse_reference(f"{host}/x:1")
    for fault in ("damage", "extra_bytes"):
        setattr(faults, fault, 1)
        with pytest.raises(ImageError, match="damaged"):
            pull(store, name)
        assert store.images() == [] and store.tags() == {}
        setattr(faults, fault, 0)
    assert pull(store, name).id == image.id


def test_platforms(server: Served, store: Store) -> None:
    host, source, _ = server
    image = serve(server, *some_layers(1))
    other = add(source, *some_layers(1), name="other")
    entries = [
        {"mediaType": OCI_MANIFEST, "digest": digest, "size": 1, "platform": {"os": "linux", "architecture": arch}}
        for digest, arch in ((other.manifest, "s390x"), (image.manifest, "amd64"), (image.manifest, "arm64"))
    ]
    index = encode({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})
    source.served["2"] = source.add_bytes(index)  # type: ignore[attr-defined]
    name = parse_reference(f"{host}/x:2")
    assert pull(store, name, platform="linux/s390x").id == other.id
    assert pull(store, name).id == image.id
    with pytest.raises(ImageError, match=r"linux/riscv64; there are: linux/amd64, linux/arm64, linux/s390x"):
        pull(store, name, platform="linux/riscv64")
    with pytest.raises(ImageError, match="there are: none"):
        choose_platform([])


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (b"not json", "not JSON"),
        (b"[]", "expected a JSON object"),
        (b"{}", "malformed"),
        (b'{"config": {}, "layers": []}', "malformed"),
        (encode({"config": {"digest": "sha256:../../x", "size": 1, "mediaType": ""}, "layers": []}), "sha256"),
        (encode({"mediaType": "application/vnd.docker.distribution.manifest.v1+json"}), "not supported"),
        (encode({"manifests": [1]}), "malformed"),
        (b"x" * (5 << 20), "more than"),
    ],
)
def test_hostile_manifests(manifest: bytes, message: str, server: Served, store: Store) -> None:
    host, _, faults = server
    faults.manifest = manifest
    with pytest.raises(ImageError, match=message):
        pull(store, parse_reference(f"{host}/x:1"))
    assert store.images() == []


def test_mirrors_are_asked_first(server: Served, store: Store) -> None:
    host, _, _ = server
    image = serve(server, *some_layers(1))
    settings = Settings(mirrors=(f"http://{host}",), insecure=(host,))
    assert pull(store, parse_reference("x:1"), settings=settings).id == image.id
    assert store.find("docker.io/library/x:1").id == image.id
    cancelled = threading.Event()
    assert [r.base for r in registries_for(parse_reference("x"), settings, cancelled)] == [
        f"http://{host}",
        "https://registry-1.docker.io",
    ]
    assert len(registries_for(parse_reference("x"), settings, cancelled, "pull,push")) == 1
    assert len(registries_for(parse_reference("quay.io/x"), settings, cancelled)) == 1


def test_settings(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path(store.path("registries.json")).write_text('{"registry-mirrors": ["http://m"], "insecure-registries": ["i:1"]}')
    docker = tmp_path / "no-docker"
    docker.mkdir()
    pair = base64.b64encode(b"u:p:q").decode()
    auths = {"https://index.docker.io/v1/": {"auth": pair}, "bad": {"auth": "%"}, "none": {}}
    (docker / "config.json").write_text(json.dumps({"auths": auths}))
    settings = read_settings(store)
    assert (settings.mirrors, settings.insecure) == (("http://m",), ("i:1",))
    assert settings.credentials == {"docker.io": ("u", "p:q")} and "p:q" not in repr(settings)


def test_progress(server: Served, store: Store) -> None:
    host, _, faults = server
    image = serve(server, *some_layers(2))
    faults.slow_s = 0.05
    drawn: list[dict[str, tuple[str, int, int]]] = []

    class Bars(Progress):
        def draw(self) -> None:
            drawn.append(dict(self.bars))

    pull(store, parse_reference(f"{host}/x:1"), progress=Bars(lambda _: None))
    words = {bar[0] for bars in drawn for bar in bars.values()}
    assert {"Downloading", "Pull complete"} <= words
    assert all(done <= total for bars in drawn for _, done, total in bars.values())
    assert set(drawn[-1]) == {hex_of(one.digest)[:12] for one in image.layers}


# ---- killed, interrupted, together ----

PULLER = """
import sys
from jupyter_ns.images.pull import pull
from jupyter_ns.images.reference import parse_reference
from jupyter_ns.images.store import Store
print("ready", flush=True)
pull(Store(sys.argv[1]), parse_reference(sys.argv[2]))
print("done", flush=True)
"""


def puller(store: Store, name: str) -> subprocess.Popen[str]:
    """Start a process that pulls."""
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", PULLER, store.root, name]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("delay_s", [0.05, 0.15, 0.3, 0.5])
def test_killed_in_mid_pull(delay_s: float, server: Served, store: Store) -> None:
    host, _, faults = server
    image = serve(server, *some_layers(4))
    faults.slow_s = 0.5  # it takes several seconds: more than the delay, even where that is longer than asked for
    process = puller(store, f"{host}/x:1")
    time.sleep(delay_s)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    faults.slow_s = 0
    assert store.images() == [] and store.tags() == {}
    begun = {name: os.path.getsize(store.path("downloads", name)) for name in os.listdir(store.path("downloads"))}
    faults.log.clear()
    assert pull(store, parse_reference(f"{host}/x:1")).id == image.id
    asked = blobs_asked(faults, image)
    for name, size in begun.items():
        if size:
            assert (f"sha256:{name}", f"bytes={size}-") in asked
    assert os.listdir(store.path("downloads")) == os.listdir(store.path("scratch")) == []


def test_two_kernels_pull_the_same_at_once(server: Served, store: Store) -> None:
    host, _, faults = server
    image = serve(server, *some_layers(4))
    faults.slow_s = 0.02
    processes = [puller(store, f"{host}/x:1") for _ in range(3)]
    for process in processes:
        out, err = process.communicate()
        assert (out, err, process.returncode) == ("done\n", "", 0)
    asked = [digest for digest, _ in blobs_asked(faults, image)]
    assert sorted(asked) == sorted(one.digest for one in image.layers)  # each once, for all
    assert [i.id for i in store.images()] == [image.id]


def test_an_interrupt_stops_at_once_and_keeps_what_came(server: Served, store: Store) -> None:
    host, _, faults = server
    image = serve(server, *some_layers(2, 900_000))
    faults.slow_s = 0.2
    process = puller(store, f"{host}/x:1")
    assert soon(lambda: any(f.stat().st_size for f in Path(store.path("downloads")).iterdir()))
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in err and process.returncode
    assert store.images() == [] and os.listdir(store.path("downloads"))
    faults.slow_s = 0
    assert pull(store, parse_reference(f"{host}/x:1")).id == image.id


def test_digests_of_what_is_pulled_are_those_of_the_bytes(server: Served, store: Store) -> None:
    host, _, _ = server
    image = serve(server, *some_layers(1))
    pull(store, parse_reference(f"{host}/x:1"))
    for digest in (image.id, image.manifest, image.layers[0].digest):
        with store.open_blob(digest) as f:
            assert digest_of(f.read()) == digest

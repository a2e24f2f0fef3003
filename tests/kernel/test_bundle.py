"""Bundles: what the kernel shows inside, where we, crun and runc run the same container."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jupyter_ns import run
from jupyter_ns.client import get_client
from jupyter_ns.errors import UnsupportedError, UsageError
from jupyter_ns.images.store import Store
from jupyter_ns.interchange.bundle import write_bundle
from jupyter_ns.options import parse
from jupyter_ns.runner import Run, Sink
from jupyter_ns.spec import ContainerSpec

pytestmark = pytest.mark.needs("overlay", "root")

SHOW = r"""
echo "id: $(id)"
echo "cwd: $(pwd)"
echo "hostname: $(hostname) $(cat /etc/hostname)"
echo "env: $(env | grep -v -e ^HOSTNAME= -e ^SHLVL= -e ^PWD= -e ^_= -e ^OLDPWD= | sort | tr '\n' ' ')"
echo "umask: $(umask)"
echo "limits: $(grep -E 'open files|core file' /proc/self/limits | tr -s ' ' | tr '\n' ';')"
echo "oom: $(cat /proc/self/oom_score_adj)"
grep -E '^(Cap|NoNewPrivs|Seccomp:|Groups)' /proc/self/status | tr -d '\t ' | sed 's/:/: /'
for path in /proc/kcore /proc/keys /proc/timer_list; do
    echo "masked $path: $(head -c 9 $path 2>/dev/null | wc -c)"
done
for path in /proc/sys/kernel/hostname /sys/kernel/mm /proc/sysrq-trigger; do
    echo "writable $path: $(test -w $path && (echo > $path) 2>/dev/null && echo yes || echo no)"
done
echo "processes: $(ls -d /proc/[0-9]* | head -1)"
echo "interfaces: $(ls /sys/class/net | tr '\n' ' ')"
for file in memory/memory.limit_in_bytes memory/memory.memsw.limit_in_bytes cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us \
    cpu/cpu.shares cpuset/cpuset.cpus pids/pids.max memory.max cpu.max cpu.weight pids.max; do
    test -e /sys/fs/cgroup/$file && echo "$file: $(cat /sys/fs/cgroup/$file)"
done
while read -r _ _ _ root path options rest; do
    case $path in /sys/fs/cgroup/*|/proc/*|/sys/devices/*|/sys/firmware) continue;; esac
    type=${rest#* - }; type=${type%% *}
    flags=$(echo "$options" | tr , '\n' | grep -E '^(ro|rw|nosuid|nodev|noexec)$' | sort | tr '\n' ,)
    echo "mount $path: $type $flags"
done < /proc/self/mountinfo
for kind in cgroup ipc mnt net pid uts user; do echo "namespace $kind: $(readlink /proc/self/ns/$kind)"; done
unshare -U true 2>/dev/null && echo "unshare: yes" || echo "unshare: no"
echo "dev: $(ls /dev | tr '\n' ' ')"
"""

OPTIONS: dict[str, str] = {
    "plain": "",
    "limits": "-m 64m --memory-swap 96m --cpus 0.5 --cpu-shares 512 --pids-limit 50 --cpuset-cpus 0",
    "user": "--user 1000:1001 --group-add 5 -e A=b -w /srv/made --hostname h --ulimit nofile=100:200",
    "hardened": "--read-only --tmpfs /scratch:size=1m --cap-drop ALL --cap-add NET_BIND_SERVICE "
    "--security-opt no-new-privileges --oom-score-adj 100",
    "more": "--cap-add SYS_ADMIN --cap-add NET_ADMIN --shm-size 1m --sysctl net.ipv4.ip_forward=1",
    "devices": "--device /dev/null:/dev/mine:rw --device-cgroup-rule 'c 10:200 rw'",
    "mounts": "-v /etc:/theirs:ro -v /etc/hostname:/one-file --tmpfs /t:mode=700",
    "host namespaces": "--network host --ipc host --uts host",
    "unconfined": "--security-opt seccomp=unconfined --security-opt systempaths=unconfined",
}


def shown(text: str) -> dict[str, str]:
    """Read what the script prints; namespaces become whether they are the host's."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(": ")
        if key.startswith("namespace "):
            value = "host" if os.readlink(f"/proc/self/ns/{key.split()[1]}") == value else "own"
        found[key] = value
    return found


def runtime(name: str) -> Callable[[Path], str]:
    """Return what runs a bundle; skip where there is no such program."""
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")

    def start(bundle: Path) -> str:
        command = [name, "run", "--bundle", str(bundle), f"jns-{uuid.uuid4().hex[:12]}"]
        controllers = "/sys/fs/cgroup/unified/cgroup.controllers"
        if name == "crun" and os.path.exists(controllers):
            # crun refuses hosts where version 2 has some of the controllers; where it looks, it has none.
            hide = f'mount --bind /dev/null {controllers} && exec "$@"'
            command = ["unshare", "--mount", "sh", "-c", hide, "sh", *command]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return start


def bundle_of(words: list[str], directory: Path) -> tuple[Run, tuple[str, ...]]:
    """Write the bundle of a command line."""
    spec = parse(words, cwd=os.getcwd(), environ=os.environ, host_cpus=os.cpu_count() or 1).spec
    made = Run(get_client(), spec, Sink())
    notes = write_bundle(str(directory), made.container.spec, get_client().facts, made.plan_inputs(), name="test")
    return made, notes


DIFFERENT = {
    # crun and runc bind over these; we have them from the layers.
    "dev": "crun adds /dev/console or leaves it out by its own rules",
}


@pytest.fixture
def busybox() -> Any:
    yield Store()
    get_client().sync()
    for image in Store().images():
        Store().remove(image.id)
    Store().collect()


@pytest.mark.parametrize("tool", ["crun", "runc"])
@pytest.mark.parametrize("name", OPTIONS)
def test_the_kernel_shows_the_same(name: str, tool: str, tmp_path: Path, busybox: Store) -> None:
    run_bundle = runtime(tool)
    words = [*shlex.split(OPTIONS[name]), "--image", "busybox", "sh", "-c", SHOW]
    spec = parse(words, cwd=os.getcwd(), environ=os.environ, host_cpus=os.cpu_count() or 1).spec
    ours = Run(get_client(), spec, Sink()).execute()
    assert ours.stderr == "" and ours.exit_code == 0
    made, notes = bundle_of(words, tmp_path / "bundle")
    assert notes == ()
    theirs = shown(run_bundle(tmp_path / "bundle"))
    here = shown(ours.stdout)
    for found in (here, theirs):
        for key in DIFFERENT:
            found.pop(key)
        found["hostname"] = found["hostname"].replace(ours.short_id, "ID").replace(made.container.short_id, "ID")
        found.pop("mount /", None)  # an overlay here, a directory there
    assert here == theirs


def test_a_bundle_of_the_hosts_own_files(tmp_path: Path) -> None:
    script = "ls / | sort | tr '\\n' ' '; cat /etc/passwd | wc -l; echo x > /usr/new && echo written; ls /tmp | wc -l"
    if any(str(tmp_path).startswith(f"/{d}") for d in ("usr", "etc")):
        pytest.skip("the bundle would lie in what it overlays")
    words = ["-w", "/", "sh", "-c", script]
    _, notes = bundle_of(words, tmp_path / "bundle")
    assert notes == ()
    ours = run(*words[2:], workdir="/")
    assert "written" in ours.stdout and runtime("crun")(tmp_path / "bundle") == ours.stdout
    assert not os.path.exists("/usr/new")
    assert (tmp_path / "bundle/layers/upper/usr/new").read_text() == "x\n"


def test_where_a_bundle_can_be_written(tmp_path: Path, busybox: Store) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").write_text("")
    with pytest.raises(UsageError, match="empty"):
        bundle_of(["--image", "busybox", "true"], tmp_path / "full")
    with pytest.raises(UsageError, match="Not a directory"):
        bundle_of(["--image", "busybox", "true"], tmp_path / "full/x/y")
    cell = ContainerSpec(python=True, workdir="/")
    made = Run(get_client(), cell, Sink())
    with pytest.raises(UnsupportedError, match="Python"):
        write_bundle(str(tmp_path / "py"), cell, get_client().facts, made.plan_inputs())
    assert not (tmp_path / "py").exists()


def test_what_a_bundle_cannot_say_is_said(tmp_path: Path, busybox: Store) -> None:
    words = ["--timeout", "5", "--init", "--domainname", "d", "--image", "busybox", "true"]
    _, notes = bundle_of(words, tmp_path / "bundle")
    assert [n.split(":")[0] for n in notes] == ["--domainname", "--init", "--timeout"]
    document = json.loads((tmp_path / "bundle/config.json").read_text())
    assert document["process"]["args"] == ["true"] and document["ociVersion"] == "1.0.2"

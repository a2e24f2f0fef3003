"""Plans as text: golden files, the image's shape, the table shared with C, and who imports whom."""

from __future__ import annotations

import ast
import os
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_ns import core
from jupyter_ns.errors import UnsupportedError
from jupyter_ns.host import HostFacts, RootEntry, Submount
from jupyter_ns.namespaces import KINDS
from jupyter_ns.networks.data import Endpoint
from jupyter_ns.plan import DeviceNode, Plan, PlanInputs, build_plan
from jupyter_ns.plan.entering import exec_plan, restart_plan
from jupyter_ns.plan.steps import OPS, Op, Step
from jupyter_ns.spec import ContainerSpec, Limits, Mount

GOLDEN = Path(__file__).parent / "golden"
REWRITE = "JUPYTER_NS_REWRITE_GOLDEN"
"""Set to anything, the golden files are written instead of compared."""

FACTS = HostFacts(
    kernel="6.1.0",
    arch="x86_64",
    namespaces={k.name: "" for k in KINDS},
    submounts=(Submount("/home", "overlay"), Submount("/data", "bind", "the file system cannot be a layer")),
    masked=(("/proc/keys", False), ("/sys/firmware", True)),
    readonly_paths=(("/proc/sys", True),),
    staging=("/mnt", "/media"),
    cgroup_mounts=(("", "cgroup2", ""),),
)
ROOTLESS = HostFacts(
    kernel="6.1.0",
    arch="x86_64",
    rootless=True,
    uid=1000,
    gid=1000,
    id_ranges=False,
    namespaces={k.name: "" for k in KINDS} | {"time": "clone3: EINVAL (Invalid argument)"},
    mknod_error="mknod: EPERM (Operation not permitted)",
    setattr_error="mount_setattr: ENOSYS (Function not implemented)",
    masked=(("/proc/keys", False),),
    staging=("/mnt",),
)
INPUTS = PlanInputs(
    container_id="0123456789ab" + "0" * 52,
    environment=("PATH=/usr/bin:/bin", "HOME=/root"),
    seccomp=bytes(16),
    capabilities=0xA80425FB,
)
VOLUME = Mount(type="bind", source="/srv/in", destination="/in", readonly=True, option="-v /srv/in:/in:ro")
SCRATCH = Mount(type="tmpfs", destination="/scratch", options="size=1m", flags=("nosuid",), option="--tmpfs /scratch")
SHELL = ContainerSpec(argv=("sh",), workdir="/root")
ENDPOINT = Endpoint(
    network="lab",
    network_id="a" * 64,
    bridge="br-aaaaaaaaaaaa",
    bridge_address="10.9.0.1/24",
    interface="eth0",
    peer="veth1234567",
    address="10.9.0.2/24",
    gateway="10.9.0.1",
    mac="02:42:0a:09:00:02",
)
CASES: dict[str, tuple[ContainerSpec, HostFacts, PlanInputs]] = {
    "image": (
        ContainerSpec(argv=("sh",), workdir="/srv/new", image="busybox", mounts=(VOLUME,), readonly=True),
        FACTS,
        replace(INPUTS, source_is_dir={"/srv/in": True}, workdir_exists=False, lower=("/mnt/l:2/diff", "/data/1/diff")),
    ),
    "over-host": (
        ContainerSpec(argv=("sh",), workdir="/root", image="mine"),
        FACTS,
        replace(INPUTS, above={"/": ("/data/2/diff", "/data/1/diff"), "/home": ("/data/1/diff/home",)}),
    ),
    "shell": (SHELL, FACTS, INPUTS),
    "mounts": (
        ContainerSpec(argv=("sh",), workdir="/root", readonly=True, mounts=(VOLUME, SCRATCH)),
        FACTS,
        PlanInputs(container_id=INPUTS.container_id, source_is_dir={"/srv/in": True}),
    ),
    "python": (
        ContainerSpec(python=True, workdir="/tmp/nb"),
        FACTS,
        PlanInputs(container_id="c" * 64, exposed=("/tmp/nb",)),
    ),
    "network": (
        replace(SHELL, network="lab", dns=("10.9.0.53",), limits=Limits(net_rate_bps=1_250_000)),
        FACTS,
        replace(INPUTS, endpoints=(ENDPOINT,)),
    ),
    "rootless": (SHELL, ROOTLESS, INPUTS),
    "tty": (replace(SHELL, tty=True), FACTS, INPUTS),
    "private": (
        ContainerSpec(argv=("sh",), workdir="/root", userns="private", mounts=(VOLUME, SCRATCH)),
        FACTS,
        PlanInputs(container_id=INPUTS.container_id, source_is_dir={"/srv/in": True}),
    ),
    "joins": (
        ContainerSpec(
            argv=("sh",),
            workdir="/",
            network="container:" + "a" * 64,
            joins=tuple((kind, "a" * 64) for kind in ("pid", "ipc", "network")),
        ),
        FACTS,
        INPUTS,
    ),
    "host": (
        ContainerSpec(argv=("sh",), workdir="/", without=tuple(k.name for k in KINDS)),
        FACTS,
        INPUTS,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    plan = build_plan(*CASES[name])
    text = plan.describe() + "\n" + "".join(f"weakened: {w}\n" for w in plan.weakened)
    path = GOLDEN / f"{name}.txt"
    if REWRITE in os.environ:
        path.write_text(text)
    assert text == path.read_text(), f"set {REWRITE}=1 to write it anew, and read the difference"


JOIN = PlanInputs(container_id=INPUTS.container_id, environment=INPUTS.environment, cgroup_join=("/cg/tasks",))
OVER_CPUINFO = Mount(type="tmpfs", destination="/proc/cpuinfo", option="--tmpfs /proc/cpuinfo")
ENTERING = {
    "exec": exec_plan(ContainerSpec(argv=("id",), workdir="/", user="1:1", tty=True), FACTS, JOIN),
    "exec-rootless": exec_plan(ContainerSpec(argv=("id",), workdir="/"), ROOTLESS, JOIN),
    "exec-python": exec_plan(ContainerSpec(python=True, workdir="/"), FACTS, JOIN),
    "restart": restart_plan(SHELL, FACTS, JOIN),
    "restart-tty": restart_plan(replace(SHELL, tty=True), FACTS, JOIN),
    "restart-rootless": restart_plan(SHELL, ROOTLESS, JOIN),
    "restart-private": restart_plan(ContainerSpec(argv=("sh",), userns="private"), FACTS, JOIN),
    "restart-rootless-private": restart_plan(
        ContainerSpec(argv=("sh",), userns="private", mounts=(OVER_CPUINFO,)), ROOTLESS, JOIN
    ),
}


@pytest.mark.parametrize("name", ENTERING)
def test_golden_of_what_enters(name: str) -> None:
    text = ENTERING[name].describe() + "\n"
    path = GOLDEN / f"{name}.txt"
    if REWRITE in os.environ:
        path.write_text(text)
    assert text == path.read_text(), f"set {REWRITE}=1 to write it anew, and read the difference"


def test_what_wrote_to_the_hosts_files_is_started_as_before() -> None:
    spec = ContainerSpec(argv=("sh",), without=("mount",))
    assert restart_plan(spec, FACTS, INPUTS) == build_plan(spec, FACTS, INPUTS)


@pytest.mark.parametrize("name", CASES)
def test_a_plan_is_a_pure_function(name: str) -> None:
    assert build_plan(*CASES[name]) == build_plan(*CASES[name])


def test_a_namespace_that_the_host_refuses_is_an_error_unless_left_out() -> None:
    facts = HostFacts(namespaces={"network": "clone3: EPERM (Operation not permitted)"})
    with pytest.raises(UnsupportedError, match=r"network.*EPERM.*--without network"):
        build_plan(SHELL, facts, INPUTS)
    build_plan(ContainerSpec(argv=("sh",), without=("network",)), facts, INPUTS)


def test_time_offset_without_time_namespaces_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="--time-offset"):
        build_plan(ContainerSpec(argv=("sh",), time_offset_seconds=1.0), ROOTLESS, INPUTS)


def test_staging_is_never_above_what_is_needed() -> None:
    plan = build_plan(ContainerSpec(argv=("sh",), workdir="/mnt/work"), FACTS, INPUTS)
    text = plan.describe()
    assert '"/media/root"' in text and '"/mnt/root"' not in text
    with pytest.raises(UnsupportedError, match="stage"):
        build_plan(ContainerSpec(argv=("sh",), workdir="/mnt/work"), ROOTLESS, INPUTS)


def test_where_the_hosts_files_in_etc_are_mounts_the_containers_own_are_mounted_on_them() -> None:
    mounts = (Submount("/etc", "overlay"), Submount("/etc/hosts", "bind"), Submount("/etc/resolv.conf", "bind"))
    facts = replace(ROOTLESS, submounts=mounts, root_entries=(RootEntry("/etc", "dir"),))
    for spec, own in ((SHELL, ["/etc/hosts"]), (replace(SHELL, network="lab"), ["/etc/hosts", "/etc/resolv.conf"])):
        steps = build_plan(spec, facts, INPUTS).steps
        written = [step.args[0] for step in steps if step.op is Op.WRITE]
        found = [(i, s.args[1]) for i, s in enumerate(steps) if s.op is Op.MOUNT and s.args[0] in written]
        assert [path for _, path in found] == own
        assert all(steps.index(Step(Op.CHDIR, ("/",))) < i for i, _ in found)
        theirs = [s.args[0] for s in steps if s.op is Op.MOUNT and s.args[0] in ("/etc/hosts", "/etc/resolv.conf")]
        assert theirs == [m.path for m in mounts[1:] if m.path not in own]


def test_privileged_in_a_user_namespace_is_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"--privileged.*--userns private"):
        build_plan(ContainerSpec(argv=("sh",), userns="private", privileged=True), FACTS, INPUTS)


def test_a_users_cell_in_one_more_user_namespace_is_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"--userns private.*already"):
        build_plan(ContainerSpec(python=True, userns="private"), ROOTLESS, INPUTS)
    build_plan(ContainerSpec(argv=("sh",), userns="private"), ROOTLESS, INPUTS)


# ---- the image ----


def test_the_table_is_the_same_in_c() -> None:
    for op in Op:
        assert getattr(core.lib, f"JNS_{op.name}") == op
    assert set(OPS) == set(Op)
    in_c = {name for name in dir(core.lib) if name.startswith("JNS_")}
    phases = {"JNS_FAILED", "JNS_WAITING", "JNS_RUNNING", "JNS_DONE", "JNS_MAX_STEPS"}
    assert in_c - phases == {f"JNS_{op.name}" for op in Op}


def test_step_layout_is_that_of_c() -> None:
    assert core.ffi.sizeof("jns_step") == 64
    assert core.ffi.sizeof("jns_report") == core.REPORT.size == 16
    assert core.ffi.offsetof("jns_step", "n") == 8
    assert core.ffi.offsetof("jns_step", "s") == 48


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=40)


def string_at(image: bytes, offset: int) -> str:
    return image[offset : image.index(b"\0", offset)].decode()


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=8))
def test_strings_come_back_from_the_image(pairs: list[tuple[str, str]]) -> None:
    image = Plan(0, tuple(Step(Op.WRITE, pair) for pair in pairs)).image({})
    assert image[-1] == 0
    for i, (path, data) in enumerate(pairs):
        op, tolerate, length, *_, s0, s1, _, _ = struct.unpack_from("<ii5q4I", image, 64 * i)
        assert (op, tolerate) == (Op.WRITE, 0)
        assert (string_at(image, s0), string_at(image, s1)) == (path, data)
        assert length == len(data.encode())


@given(st.lists(TEXT, max_size=6), st.lists(TEXT, max_size=6))
def test_string_lists_come_back_from_the_image(argv: list[str], environment: list[str]) -> None:
    step = Step(Op.EXEC, (("/bin/x",), tuple(argv), tuple(environment)))
    image = Plan(0, (step,)).image({})
    *_, s0, s1, s2, _ = struct.unpack_from("<ii5q4I", image, 0)
    for offset, expected in ((s0, ["/bin/x"]), (s1, argv), (s2, environment)):
        assert offset % 8 == 0
        (count,) = struct.unpack_from("<Q", image, offset)
        places = struct.unpack_from(f"<{count}Q", image, offset + 8)
        assert [string_at(image, place) for place in places] == expected


def test_surrogates_of_undecodable_names_survive() -> None:
    name = b"/tmp/\xff\xfe".decode(errors="surrogateescape")
    assert b"/tmp/\xff\xfe\0" in Plan(0, (Step(Op.CHDIR, (name,)),)).image({})


def test_an_unknown_descriptor_name_is_an_error() -> None:
    with pytest.raises(KeyError):
        Plan(0, (Step(Op.FDS, ((("absent", 0),),)),)).image({})


FUSE = DeviceNode(
    source="/dev/fuse", destination="/dev/fuse", mode=0o20666, device=0xAE5, uid=0, gid=44, permissions="rw"
)
DISK = DeviceNode(source="/dev/sda", destination="/opt/disk", mode=0o60660, device=0x800, uid=0, gid=6, permissions="r")


def device_plan(spec: ContainerSpec, facts: HostFacts) -> list[str]:
    """Return the steps that ``--device`` asked for."""
    inputs = PlanInputs(container_id=INPUTS.container_id, devices=(FUSE, DISK))
    return [step.describe() for step in build_plan(spec, facts, inputs).steps if step.option.startswith("--device")]


def test_devices_get_nodes_of_their_own_below_dev_and_are_bound_elsewhere() -> None:
    assert (FUSE.rule, DISK.rule) == ("c 10:229 rw", "b 8:0 r")
    bound = [
        'mkdir("/opt", 0755)  [EEXIST is fine]',
        'mknod("/opt/disk", S_IFREG|0666, 0:0)  [EEXIST is fine]',
        'mount("/.jupyter_ns-0123456789ab/dev/sda", "/opt/disk", NULL, MS_BIND, NULL)',
    ]
    assert device_plan(SHELL, FACTS) == [
        'mkdir("/dev", 0755)  [EEXIST is fine]',
        'mknod("/dev/fuse", S_IFCHR|0666, 10:229)  [EEXIST is fine]',
        'chown("/dev/fuse", 0, 44)',
        *bound,
    ]
    rootless = device_plan(SHELL, ROOTLESS)
    assert 'mount("/.jupyter_ns-0123456789ab/dev/fuse", "/dev/fuse", NULL, MS_BIND, NULL)' in rootless
    assert rootless[-3:] == bound


def test_devices_that_cannot_be_restricted_are_said_where_root_could_use_them() -> None:
    unrestricted = replace(FACTS, cgroup={"version": 1, "devices_error": "not mounted on this system"})
    note = "root inside can use any device whose number it knows: not mounted on this system"
    assert note in build_plan(SHELL, unrestricted, INPUTS).weakened
    assert note not in build_plan(replace(SHELL, privileged=True), unrestricted, INPUTS).weakened
    rootless = replace(ROOTLESS, cgroup={"version": 2, "devices_error": "bpf(2) says: Operation not permitted"})
    assert not any("any device" in line for line in build_plan(SHELL, rootless, INPUTS).weakened)


# ---- layers ----

PACKAGE = Path(core.__file__).parent.parent
LAYERS: tuple[frozenset[str], ...] = (
    frozenset(["spec", "units", "namespaces", "errors", "wording", "usage"]),
    frozenset(["host"]),
    frozenset(["plan", "networks", "security", "container", "images"]),
    frozenset(["interchange"]),
    frozenset(["core"]),
    frozenset(["cgroups"]),
    frozenset(["transfer", "unpicklable", "values", "doctor"]),
    frozenset(["runtime"]),
    frozenset(["client"]),
    frozenset(["runner", "forked"]),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
COMPILED_ONLY_IN = {"core/__init__.py", "core/build.py"}
# Inside the container there is an IPython of its own; fork and transfer look at the notebook's namespace.
IPYTHON_ALSO_IN = {"runtime/shell.py", "transfer.py", "forked.py"}


def imports(path: Path) -> list[str]:
    """Return the absolute names that a module imports, but for type checking."""
    module = ("jupyter_ns", *path.relative_to(PACKAGE).with_suffix("").parts)
    base = module[:-1]
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(base[: len(base) - node.level + 1]) if node.level else ""
            stem = ".".join(part for part in (above, node.module) if part)
            names += [stem, *(f"{stem}.{alias.name}" for alias in node.names)]
    return names


def modules() -> list[str]:
    return sorted(str(p.relative_to(PACKAGE)) for p in PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("module", [m for m in modules() if m.split("/")[0].removesuffix(".py") in RANK])
def test_no_import_goes_upwards(module: str) -> None:
    own = RANK[module.split("/")[0].removesuffix(".py")]
    ours = {name.split(".")[1] for name in imports(PACKAGE / module) if name.startswith("jupyter_ns.")}
    upward = {name for name in ours if RANK.get(name, -1) > own or name in ("frontend", "api", "cli")}
    assert upward == set()


def test_only_the_core_imports_the_compiled_module() -> None:
    users = {m for m in modules() if any(n.endswith("core._core") for n in imports(PACKAGE / m))}
    assert users <= COMPILED_ONLY_IN


def test_only_the_frontend_imports_ipython() -> None:
    users = {m for m in modules() if any(n.split(".")[0] in ("IPython", "ipywidgets") for n in imports(PACKAGE / m))}
    assert {m for m in users if not m.startswith("frontend/")} <= IPYTHON_ALSO_IN


def test_a_layer_below_does_not_need_ipython() -> None:
    """The engine starts without it."""
    users = {m for m in modules() if m.startswith(("plan/", "cgroups/", "security/", "core/"))}
    assert all(n.split(".")[0] != "IPython" for m in users for n in imports(PACKAGE / m))

"""What this host can do for containers, row by row: `doctor` turns probed facts into advice. Pure: no I/O.

The facts come from `jupyter_ns.runtime.probe`, which tries each ability in a throw-away child; nothing here
reads a knob and believes it.
"""

from __future__ import annotations

import html as _html
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from .errors import MORE
from .host import HostFacts
from .namespaces import KINDS

YES, WEAKENED, NO = "yes", "weakened", "no"
MARKS = {YES: "✓", WEAKENED: "!", NO: "✗"}
_COLOURS = {YES: "#23893c", WEAKENED: "#b36b00", NO: "#d8413c"}

# Commands to copy; what is to be known about one stands behind it, as the shell's comment.
AS_ROOT = "sudo jupyter lab --allow-root"
DELEGATE = "systemd-run --user --scope -p Delegate=yes jupyter lab"
NO_V2 = f"{AS_ROOT}  # version 1 cannot be delegated safely: or boot with systemd.unified_cgroup_hierarchy=1"
CONTROLLERS = (
    "sudo systemctl set-property user@$UID.service Delegate=yes  # Delegate='cpu cpuset io memory pids' in its unit; "
    "a kernel without the controller cannot be mended"
)
NEWER = "uname -r  # the kernel is too old, or built without: nothing but another one mends this"
UML = "virt/uml/user_mode_linux_howto_v2.rst"
RESTRICTED = "kernel.apparmor_restrict_unprivileged_userns"
"""Ubuntu's setting that makes user namespaces powerless."""
FIXES = (
    (rf"{RESTRICTED} is 1|process: unprivileged_userns", f"sudo sysctl -w {RESTRICTED}=0"),
    (
        r"AppArmor confines this process: (\S+)",
        r"sudo aa-complain \1  # of apparmor-utils: the profile is lifted; or have it allow `capability,`",
    ),
    (
        "overlay of hostfs",
        "dpkg -s user-mode-linux  # it is too old to overlay this machine's files; 6.1 (Debian 12) is not",
    ),
    (
        r'userxattr"\): EPERM',
        f"{AS_ROOT}  # or Linux 5.11 or later: before, only root may mount an overlay",
    ),
    (r"CLONE_NEWUSER\): No space", "sudo sysctl -w user.max_user_namespaces=15000"),
    (
        "ENOSPC",
        "sudo sysctl -w user.max_mnt_namespaces=15000 user.max_pid_namespaces=15000 user.max_net_namespaces=15000",
    ),
    ("overlay", "sudo modprobe overlay  # where the kernel has it as a module"),
    (
        "",
        "sudo sysctl -w user.max_user_namespaces=15000; on Ubuntu from 23.10 also "
        "kernel.apparmor_restrict_unprivileged_userns=0; on Debian before 11 also kernel.unprivileged_userns_clone=1; "
        "inside Docker: docker run --security-opt seccomp=unconfined …",
    ),
)
"""A regular expression for the failure, and the command that most likely mends it; the first that fits."""
WITHOUT_CGROUP = {
    "memory": (WEAKENED, "--memory: the engine looks every 20 ms and kills what is over"),
    "pids": (WEAKENED, "--pids-limit: the engine looks every 20 ms and kills what is over"),
}
LIMITS = (
    ("memory", "memory", "--memory, --memory-swap, --memory-reservation"),
    ("CPU time", "cpu", "--cpus, --cpu-shares"),
    ("number of tasks", "pids", "--pids-limit"),
    ("choice of CPUs", "cpuset", "--cpuset-cpus, --cpuset-mems"),
    ("block I/O", "io", "--blkio-weight"),
)
_V1_NAMES = {"io": "blkio"}


class Row(NamedTuple):
    """One ability of this host.

    Attributes
    ----------
    ability : str
        What it is.
    state : str
        ``yes``, ``weakened`` or ``no``.
    evidence : str
        What was tried and what the kernel answered.
    cost : str
        What does not work, or works less well, because of that.
    fix : str
        What to do about it; empty if there is nothing to be done.
    documentation : str
        Manual page or kernel document.
    """

    ability: str
    state: str
    evidence: str
    cost: str = ""
    fix: str = ""
    documentation: str = ""


def doctor(facts: HostFacts) -> list[Row]:
    """Judge a host.

    Parameters
    ----------
    facts : HostFacts
        As the engine's probes found them.

    Returns
    -------
    list of Row
        In the order in which a container needs them.

    Examples
    --------
    >>> [row.state for row in doctor(HostFacts(rootless=True, uid=1000)) if row.ability == "privilege"]
    ['weakened']
    """
    return [
        *_guest(facts),
        *_privilege(facts),
        *_namespaces(facts),
        *_file_system(facts),
        *_kernel_views(facts),
        *_cgroups(facts),
    ]


def refused(reason: str) -> list[Row]:
    """Return the one row for a host on which the engine could not start: no container can be made.

    Parameters
    ----------
    reason : str
        The failed probe, as the engine said it.
    """
    return [verdict(reason, "")]


def no_guest(reason: str) -> list[Row]:
    """Return the one row where a guest does not start, as its keeper said it."""
    fix = "%container doctor --on host  # says what this machine's own kernel can do, and about the guest's"
    return [Row("containers", NO, reason, "no container can be made in a guest", fix, UML)]


def verdict(failed: str, done: str) -> Row:
    """Say whether a container can be made at all.

    Parameters
    ----------
    failed : str
        What the attempt failed with; empty if it did not.
    done : str
        What was done, if so.

    Examples
    --------
    >>> verdict("", "`true` ran in one").state, verdict("user namespaces are forbidden here", "").fix[:40]
    ('yes', 'sudo sysctl -w user.max_user_namespaces=')
    """
    if not failed:
        return Row("containers", YES, done, documentation="namespaces(7)")
    cost = "no container can be made; nothing is run unisolated instead. --on guest needs none of this"
    failed = failed.removesuffix(MORE)
    return Row("containers", NO, failed, cost, fix_of(failed), "user_namespaces(7)")


def networks(failed: str) -> Row:
    """Say whether containers can be on a network; `failed` is what the attempt failed with, empty if it did not.

    Examples
    --------
    >>> networks("").state, networks("networks need veth: EOPNOTSUPP").cost
    ('yes', '--network bridge, networks of `docker network create`, and -p are refused')
    """
    ability, manual = "networks between containers", "veth(4)"
    if not failed:
        return Row(ability, YES, "a container got an eth0 of its own, on a bridge", documentation=manual)
    cost = "--network bridge, networks of `docker network create`, and -p are refused"
    fix = "sudo modprobe -a veth bridge  # where the kernel has them as modules; none of it touches the host's network"
    return Row(ability, NO, failed.removesuffix(MORE), cost, fix, manual)


def fix_of(failed: str) -> str:
    """Return what most likely mends a failure that leaves no way to make containers.

    Examples
    --------
    >>> fix_of("powerless: /proc/self/setgroups: Permission denied; AppArmor confines this process: nb (enforce)")[:19]
    'sudo aa-complain nb'
    """
    return next(found.expand(fix) for sign, fix in FIXES if (found := re.search(sign, failed)))


def _guest(facts: HostFacts) -> Iterator[Row]:
    if facts.guest:
        kernel, _, cost = facts.guest.partition("; ")
        yield Row(
            "guest kernel",
            WEAKENED,
            kernel,
            cost,
            "%config ContainerMagics.on = 'host'  # where this machine's own kernel allows it",
            UML,
        )


def _privilege(facts: HostFacts) -> Iterator[Row]:
    if not facts.rootless:
        yield Row("privilege", YES, "CAP_SYS_ADMIN: the notebook's user is root", documentation="capabilities(7)")
        return
    yield Row(
        "privilege",
        WEAKENED,
        f"user {facts.uid} is root only in the engine's own user namespace",
        "no device nodes; files of other users stay closed",
        f"{AS_ROOT}  # not needed, and less safe",
        "user_namespaces(7)",
    )
    if facts.id_ranges:
        yield Row("several user IDs", YES, "newuidmap and newgidmap mapped a range", documentation="newuidmap(1)")
    else:
        yield Row(
            "several user IDs",
            NO,
            "one ID is mapped: there is no newuidmap, or no range for this user",
            "--user and --group-add; package managers inside, which change owners",
            "sudo apt-get install uidmap && sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $USER",
            "subuid(5)",
        )


def _namespaces(facts: HostFacts) -> Iterator[Row]:
    for kind in KINDS:
        reason = facts.namespaces.get(kind.name, "")
        manual = kind.man
        if not reason:
            yield Row(f"{kind.name} namespace", YES, "made in a throw-away child", documentation=manual)
        elif kind.name in ("time", "cgroup"):
            cost = "--time-offset" if kind.name == "time" else "/proc/self/cgroup shows the host's paths"
            yield Row(f"{kind.name} namespace", WEAKENED, reason, cost, f"{NEWER} (5.6 has all)", manual)
        else:
            fix = f"sudo sysctl -w user.max_{kind.proc}_namespaces=15000  # or, knowingly: --without {kind.name}"
            yield Row(f"{kind.name} namespace", NO, reason, f"not isolated: {kind.isolates}", fix, manual)


def _file_system(facts: HostFacts) -> Iterator[Row]:
    manual = "filesystems/overlayfs.rst"
    if facts.overlay_error:
        fix = f"{fix_of(facts.overlay_error)}; or knowingly --without mount"
        yield Row(
            "copy-on-write root", NO, facts.overlay_error, "no container with a file system of its own", fix, manual
        )
    elif facts.root_entries:
        evidence = "inherited mounts are locked, so the root is overlaid directory by directory"
        cost = "files made directly in / are not among the changes"
        yield Row("copy-on-write root", WEAKENED, evidence, cost, f"{AS_ROOT}  # overlaid as a whole there", manual)
    else:
        yield Row("copy-on-write root", YES, "an overlay with the host's root below was mounted", documentation=manual)
    for mount in facts.submounts:
        if mount.how == "bind" and mount.reason:
            fix = f"%%container -v {mount.path}:{mount.path}  # makes it the host's own, writable"
            yield Row(f"copy-on-write {mount.path}", WEAKENED, mount.reason, "read-only inside", fix, manual)


def _kernel_views(facts: HostFacts) -> Iterator[Row]:
    views = (
        ("seccomp filter", facts.seccomp_error, NO, "every system call stays open: refused unless asked for",
         "%%container --security-opt seccomp=unconfined  # knowingly; the kernel has no filters", "seccomp(2)"),
        ("own /proc", facts.proc_error, WEAKENED, "/proc shows the host's processes",
         "docker run --security-opt systempaths=unconfined …  # for the container that the notebook is in", "proc(5)"),
        ("own /sys", facts.sysfs_error, WEAKENED, "/sys is the host's, read-only", AS_ROOT, "sysfs(5)"),
        ("device nodes", facts.mknod_error, WEAKENED, "the host's /dev/null and others are bind-mounted; no --device",
         AS_ROOT, "mknod(2)"),
        ("recursive read-only", facts.setattr_error, WEAKENED, "mounts below a read-only volume stay writable",
         NEWER + " (5.12 has it)", "mount_setattr(2)"),
        ("session keyring", facts.keyring_error, WEAKENED, "the container shares the notebook's session keyring", NEWER,
         "keyrings(7)"),
    )  # fmt: skip
    for ability, error, state, cost, fix, manual in views:
        if error:
            yield Row(ability, state, error, cost, fix, manual)
        else:
            yield Row(ability, YES, "tried in a throw-away child", documentation=manual)


def _cgroups(facts: HostFacts) -> Iterator[Row]:
    version, kind = facts.cgroup.get("version", 0), facts.cgroup.get("kind", "none")
    usable = {c for base in facts.cgroup.get("bases", ()) for c in base["controllers"]}
    unavailable = facts.cgroup.get("unavailable", {})
    for label, controller, options in LIMITS:
        name = _V1_NAMES.get(controller, controller) if version == 1 else controller
        if name in usable:
            evidence = f"controller {name} of cgroup version {version} ({kind})"
            yield Row(f"limit: {label}", YES, evidence, documentation="cgroups(7)")
            continue
        reason = unavailable.get(name, "no such controller here")
        lost = f"refused: {options}"
        state, cost = (NO, lost) if version else WITHOUT_CGROUP.get(controller, (NO, lost))
        fix = CONTROLLERS if version else DELEGATE if kind == "unified" else NO_V2
        yield Row(f"limit: {label}", state, reason, cost, fix, "cgroups(7)")
    if version == 2 and "memory" in usable and "memory.swap.max" not in facts.cgroup.get("files", ()):
        evidence = "a new cgroup has no memory.swap.max: no CONFIG_SWAP, or swapaccount=0"
        cost = "--memory-swap is refused; swap is not limited"
        yield Row("limit: swap", WEAKENED, evidence, cost, NEWER, "cgroup-v2.rst")
    for note in facts.cgroup.get("notes", ()):
        yield Row(
            "cgroup position",
            WEAKENED,
            note,
            "limits on the notebook do not bind its containers",
            DELEGATE,
            "cgroups(7)",
        )


def text(rows: Sequence[Row]) -> str:
    """Lay rows out as plain text: one line each, and below it what it costs and what to do.

    Examples
    --------
    >>> print(text([Row("overlay", "no", "EPERM", "no root", "be root", "mount(2)")]))
    ✗ overlay: EPERM
        costs: no root
        fix: be root
        see: mount(2)
    0 of 1 abilities are there, 0 weakened
    """
    lines = []
    for row in rows:
        lines.append(f"{MARKS[row.state]} {row.ability}: {row.evidence}")
        if row.state != YES:
            details = (("costs", row.cost), ("fix", row.fix), ("see", row.documentation))
            lines += [f"    {name}: {value}" for name, value in details if value]
    return "\n".join([*lines, summary(rows)])


def json_text(rows: Sequence[Row]) -> str:
    """Lay rows out as JSON, a list of objects, for programs.

    Examples
    --------
    >>> import json
    >>> json.loads(json_text([Row("overlay", "no", "EPERM")]))[0]["state"]
    'no'
    """
    return json.dumps([row._asdict() for row in rows], indent=2, ensure_ascii=False)


def summary(rows: Iterable[Row]) -> str:
    """Count the rows in one line."""
    states = [row.state for row in rows]
    return f"{states.count(YES)} of {len(states)} abilities are there, {states.count(WEAKENED)} weakened"


def html(rows: Sequence[Row]) -> str:
    """Lay rows out as an HTML table, which needs no script and no style sheet; without empty columns."""
    cell = 'style="text-align:left;vertical-align:top;padding:2px 14px 2px 0"'
    short = cell.replace('"text-align', '"white-space:nowrap;text-align')
    titles = ("ability", "evidence", "what it costs", "fix", "see")
    table_rows = [(row.ability, row.evidence, row.cost, row.fix, row.documentation) for row in rows]
    used = [i for i, column in enumerate(zip(*table_rows, strict=True)) if any(column)]
    heads = "".join(f"<th {cell}>{h}</th>" for h in ("", *(titles[i] for i in used)))
    body = []
    for row, values in zip(rows, table_rows, strict=True):
        mark = f'<b style="color:{_COLOURS[row.state]}" title="{row.state}">{MARKS[row.state]}</b>'
        cells = "".join(f"<td {cell if i else short}>{_html.escape(values[i])}</td>" for i in used)
        body.append(f"<tr><td {cell}>{mark}</td>{cells}</tr>")
    lines = "".join([f"<tr>{heads}</tr>", *body])
    table = f'<table style="border-collapse:collapse;font-size:14px;margin:0">{lines}</table>'
    return f"{table}<div>{summary(rows)}</div>"

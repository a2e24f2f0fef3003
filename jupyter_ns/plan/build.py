"""Compile a spec and host facts to a plan. Pure: everything known about the host comes as data.

The order of the stages matters; each function below says what it needs and leaves.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass, field
from stat import S_IFCHR, S_IFREG

from ..errors import MORE, UnsupportedError, UsageError
from ..host import USUAL, Attributes, HostFacts, is_below
from ..namespaces import BY_NAME, KINDS
from ..networks.data import hosts_text, resolv_text
from ..networks.wiring import describe, has_limits
from ..spec import ContainerSpec, Mount
from .devices import bind_device, device_steps
from .finish import PR_SET_DUMPABLE, become_root, finish_steps, make_workdir
from .inputs import PlanInputs, hostname
from .steps import MOUNT_FLAGS as MS
from .steps import Op, Plan, Step
from .text import escape_lower, parents, shifted

RDONLY, NOSUID, NODEV, NOEXEC = MS["MS_RDONLY"], MS["MS_NOSUID"], MS["MS_NODEV"], MS["MS_NOEXEC"]
REMOUNT, BIND, REC, PRIVATE = MS["MS_REMOUNT"], MS["MS_BIND"], MS["MS_REC"], MS["MS_PRIVATE"]
MNT_DETACH = 2
NET_ADMIN = 12
DEVICES = (("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0))
DEV_LINKS = (
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
)
OPEN_ALREADY = "/proc/self/fd/0"
"""The path of a terminal that was opened in another mount namespace."""


def build_plan(spec: ContainerSpec, facts: HostFacts, inputs: PlanInputs) -> Plan:
    """Compile the plan of one container.

    Parameters
    ----------
    spec : ContainerSpec
        What the user asked for.
    facts : HostFacts
        What the host can do.
    inputs : PlanInputs
        What is particular to this container.

    Returns
    -------
    Plan
        Steps in order, and what they could not give.

    Raises
    ------
    UnsupportedError
        If the spec needs what `facts` say this host cannot do.
    """
    if not facts.id_ranges and spec.userns != "private" and (inputs.uid or inputs.gid or inputs.groups):
        raise UnsupportedError(
            "--user and --group-add: this user namespace maps one user ID only. To map more, install uidmap "
            "(newuidmap) and give the user a range in /etc/subuid and /etc/subgid"
        )
    weakened: list[str] = []
    unrestricted = facts.cgroup.get("devices_error")
    if unrestricted and not (facts.rootless or spec.privileged or spec.userns == "private"):
        weakened.append(f"root inside can use any device whose number it knows: {unrestricted}")
    if spec.devices and "mount" in spec.without:
        raise UsageError("--device: expected a mount namespace, which --without mount leaves out")
    if inputs.lacking:
        weakened.append(f"without {', '.join(inputs.lacking)}: the notebook's own processes do not have it")
    if has_limits(spec.limits) and inputs.capabilities >> NET_ADMIN & 1:
        weakened.append("--net-rate, --net-delay, --net-loss: with CAP_NET_ADMIN, what it sends can be freed of them")
    if spec.networked and "mount" in spec.without:
        weakened.append("names of other containers: /etc/hosts is the host's own, and has none")
    kinds = _kinds(spec, facts, weakened, bare=inputs.bare)
    if inputs.bare and "mount" in kinds and ("user" not in kinds or facts.rootless):
        weakened.append("--state fork: through /proc/self/exe the cell reaches the host's file of its Python")
    build = _Build(spec=spec, facts=facts, inputs=inputs, kinds=kinds, weakened=weakened)
    for mount in spec.mounts if build.remapped else ():
        if is_below(mount.destination, "/sys"):
            raise UnsupportedError(
                f"{mount.option}: conflicts with --userns private, whose root mounts /sys itself, and may do so only "
                "where nothing covers a part of the host's; expected a destination that is not below /sys"
            )
    ground = [*build.entry(), *build.ground()]
    steps = [*ground, *build.filesystem(), *build.joined(), *finish_steps(spec, facts, inputs)]
    return Plan(build.clone_flags(), tuple(steps), tuple(weakened), connecting(spec, inputs), len(ground))


def connecting(spec: ContainerSpec, inputs: PlanInputs) -> tuple[str, ...]:
    """List what the engine's switchboard does to connect it."""
    return tuple(line for endpoint in inputs.endpoints for line in describe(endpoint, spec.limits))


def _kinds(spec: ContainerSpec, facts: HostFacts, weakened: list[str], *, bare: bool) -> frozenset[str]:
    """Choose the kinds of namespace to make; refuse where a needed one cannot be made."""
    wanted = {k.name for k in KINDS} - set(spec.without)
    if spec.network == "host":
        wanted.discard("network")
    if spec.userns != "private":
        wanted.discard("user")  # rootless, the engine is already in one of its own
    for name in sorted(wanted - spec.joined):
        reason = facts.namespaces.get(name, "")
        if not reason:
            continue
        if name in ("time", "cgroup"):  # Linux 5.6 and 4.6: what is missing weakens no limit
            wanted.discard(name)
            weakened.append(f"no {name} namespace: {reason}")
        else:
            raise UnsupportedError(
                f"a {name} namespace cannot be made here: {reason}. Leave it out, knowingly, with --without {name}"
            )
    if facts.cgroup.get("version") == 0 and not {"pid", "mount"} <= wanted - spec.joined:
        raise UnsupportedError(
            "--without pid, --without mount and --pid container:NAME need a cgroup, by which the container's processes "
            "are found and killed; there is none here, and `%container doctor` says why"
        )
    if "user" in wanted and facts.rootless and spec.python and not bare:
        # The zygote has made its PID namespace, whose /proc only a namespace above may mount.
        raise UnsupportedError(
            "--userns private: a Python cell of a user who is not root is in a user namespace already, the engine's; "
            "leave the option out"
        )
    if "pid" in spec.joined and facts.rootless:
        raise UnsupportedError(
            "--pid container:NAME: whoever makes a process in another PID namespace has to come back to its own, and "
            "an ordinary user's engine has one of a user namespace above, setns(2); `docker exec` runs a program there"
        )
    if "user" in wanted and not facts.rootless and spec.privileged:
        raise UnsupportedError("--privileged: conflicts with --userns private, whose root has no privileges outside")
    if "mount" in wanted and facts.overlay_error:
        raise UnsupportedError(f"no copy-on-write root: {facts.overlay_error}{MORE}")
    if spec.time_offset_seconds and "time" not in wanted:
        raise UnsupportedError("--time-offset needs a time namespace, which this container does not have")
    return frozenset(wanted)


@dataclass(slots=True)
class _Build:
    """The stages of one plan.

    `staging` is a host directory on which a tmpfs is mounted, in the child only; `target` says that there
    is a descriptor of what is to be entered, and that the root is in its place already; `rejoins`, that there is one of
    the user namespace too, for it is entered once more. `trees` has the descriptors of those devices of the host's that
    are out of reach by their paths.
    """

    spec: ContainerSpec
    facts: HostFacts
    inputs: PlanInputs
    kinds: frozenset[str]
    weakened: list[str]
    staging: str = ""
    userns_fd: int = -1
    target: bool = False
    rejoins: bool = False
    trees: dict[str, int] = field(default_factory=dict)

    @property
    def old_root(self) -> str:
        """Where the host's root is for a while: a name that no image and no volume can hold a link to."""
        return f"/.jupyter_ns-{self.inputs.container_id[:12]}"

    @property
    def remapped(self) -> bool:
        """Whether the container is built by the host's root, and then enters a user namespace.

        So every mount that it is built of is locked inside, mount_namespaces(7); and the host's files can be
        shown with their owners mapped, which only the host's root may do.
        """
        return "user" in self.kinds and not self.facts.rootless

    @property
    def root_flags(self) -> int:
        """An image's nodes open as the cgroup of devices says, as with Docker; where none guards them, not at all."""
        guarded = self.facts.cgroup.get("devices_error", "unknown") == "" and not self.facts.rootless
        return 0 if guarded and self.inputs.lower and "user" not in self.kinds else NODEV

    @property
    def binds_devices(self) -> bool:
        """Whether the usual devices are the host's own: a user namespace may make no nodes, mknod(2)."""
        return bool(self.facts.mknod_error) or ("user" in self.kinds and not self.remapped)

    @property
    def root(self) -> str:
        """Where the new root is at this moment."""
        return "" if self.target else f"{self.staging}/root"

    @property
    def made(self) -> frozenset[str]:
        """The kinds of namespace that are made for it; the others of `kinds` are another container's."""
        return self.kinds - self.spec.joined

    def clone_flags(self) -> int:
        """Namespaces that clone3 makes: all but those that a step must make later, or has in stock."""
        if self.spec.python and not self.inputs.bare:
            return 0
        return self._flags() | (BY_NAME["pid"].flag if "pid" in self.made else 0)

    def _flags(self) -> int:
        if self.remapped or self.rejoins:
            return 0 if self.target else BY_NAME["mount"].flag
        later = {"cgroup", "time", "pid"} | ({"mount"} if self.target else set())
        return sum(BY_NAME[k].flag for k in self.made - later)

    def descriptors(self) -> tuple[tuple[str, int], ...]:
        """List the descriptors that the child has, and their numbers."""
        names = ["stdin", "stdout", "stderr", *(["channel"] if self.spec.python else []), "report", "go"]
        if self.target:
            names += ["target", *(["owner"] if self.rejoins else [])]
        elif self.remapped:
            names.append("userns")
        names += self._joining
        return tuple((name, number) for number, name in enumerate(names))

    @property
    def _joining(self) -> list[str]:
        """Names of the descriptors of what is another container's; its PID namespace is entered by who clones."""
        kinds = [kind for kind, _ in self.spec.joins if kind != "pid"]
        return [*(f"join-{kind}" for kind in kinds), *(["shm"] if "ipc" in kinds and "mount" in self.kinds else [])]

    def _join(self) -> Iterator[Step]:
        fds = dict(self.descriptors())
        for kind, name in self.spec.joins:
            if kind != "pid":
                fd, option = fds[f"join-{kind}"], f"--{kind} container:{name[:12]}"
                yield Step(Op.SETNS, (fd, BY_NAME[kind].flag), why="another container's", option=option)
                yield Step(Op.CLOSE, (fd,))

    def entry(self) -> Iterator[Step]:
        """Should: leave no descriptor of the engine open, and be in every namespace but the cgroup's.

        Mustn't: touch the file system.
        """
        fds = self.descriptors()
        self.userns_fd = dict(fds).get("userns", -1)
        yield Step(Op.FDS, (fds,), why="standard streams; everything else is closed")
        if "pid" in self.spec.joined:
            yield Step(Op.PRCTL, (PR_SET_DUMPABLE, 0), why="not to be traced by who is there already (CVE-2019-5736)")
        yield Step(Op.SETSID, tolerate=errno.EPERM, why="a session of its own, away from the kernel's terminal")
        if self.spec.tty and "mount" not in self.kinds:
            yield controlling_terminal(OPEN_ALREADY)
        for path in self.inputs.cgroup_join:
            # By the child itself: for another's PID the kernel waits for an RCU grace period, 5 ms and more.
            yield Step(Op.WRITE, (path, "0"), why="into its cgroup")
        if self.spec.python and self._flags() and not self.inputs.bare:
            yield Step(Op.UNSHARE, (self._flags(),), why="a fork of the zygote leaves its namespaces")
        yield from self._join()
        if "user" in self.kinds and not (self.remapped or self.rejoins):
            yield Step(Op.WAIT, ("ids",), why="the engine writes uid_map and gid_map")
            yield Step(Op.SETRESGID, (0,), why="root of the new user namespace")
            yield Step(Op.SETRESUID, (0,), why="root of the new user namespace")
        if not (self.remapped or self.rejoins):
            yield from self._loopback()
        if "time" in self.kinds:
            yield from self._time()

    def _loopback(self) -> Iterator[Step]:
        if "network" in self.made:
            yield Step(Op.LINK_UP, ("lo",), why="loopback")

    def _time(self) -> Iterator[Step]:
        flag = BY_NAME["time"].flag
        yield Step(Op.UNSHARE, (flag,), why="its clocks; entered below, time_namespaces(7)")
        if self.spec.time_offset_seconds:
            seconds, rest = divmod(self.spec.time_offset_seconds, 1)
            ns = int(rest * 1e9)
            data = f"monotonic {int(seconds)} {ns}\nboottime {int(seconds)} {ns}\n"
            yield Step(
                Op.WRITE, ("/proc/self/timens_offsets", data), why="before anyone is inside", option="--time-offset"
            )
        yield Step(Op.SETNS_PATH, ("/proc/self/ns/time_for_children", flag), why="enter it ourselves")

    def ground(self) -> Iterator[Step]:
        """Should: make the new root, with its own /proc, /dev, /sys and /tmp, and move into it.

        Mustn't: let any mount show outside (everything is private first), or depend on more of the spec than it has
        to: a blank does this for whoever is next, `runtime.blank`.
        """
        if "mount" not in self.kinds:
            return
        self.staging = self._choose_staging()
        yield Step(Op.MOUNT, ("none", "/", None, REC | PRIVATE, None), why="no mount made here shows outside")
        if self.remapped:
            yield Step(Op.FSIDS, self.facts.private_ids[:2], why="what is made from here on belongs to root inside")
        yield Step(
            Op.MOUNT,
            ("tmpfs", self.staging, "tmpfs", NOSUID | NODEV, "mode=0755"),
            why="holds everything the container writes; goes with it",
        )
        for directory in ("/root", "/etc-layer", "/etc-layer/etc"):
            yield Step(Op.MKDIR, (self.staging + directory, 0o755))
        if self.inputs.lower:
            yield from self._image_root()
        else:
            yield from self._root()
            yield from self._submounts()
        yield from self._dev()
        yield Step(Op.WAIT, ("layer",), why="the engine keeps hold of the writable layer")
        root = self.root
        if not self.remapped:
            yield from self._late_namespaces()
            yield from self._proc(root)
            yield from self._sys(root)
        else:
            yield from self._proc(root)
            yield from self._sys_of_the_host(root)
        if not self.inputs.lower:
            yield from self._tmp_and_exposed()
        yield from self._pivot()

    def filesystem(self) -> Iterator[Step]:
        """Should: bring in what was asked for, and hide what nobody is to see.

        Mustn't: leave a way to the host's root.
        """
        if "mount" not in self.kinds:
            yield from self._late_namespaces()
            yield from self._sysctls()
            return
        yield from self._terminal()
        yield from self._own_files()
        yield from self._user_mounts()
        bind = bool(self.facts.mknod_error) or "user" in self.kinds
        yield from device_steps(self.inputs.devices, old_root=self.old_root, bind=bind)
        if not self.remapped:
            yield from self._sysctls()
            yield from self._policy_paths()
        yield Step(Op.UMOUNT, (self.old_root, MNT_DETACH), why="the host's root is out of reach from here on")
        yield Step(Op.RMDIR, (self.old_root,))
        if self.spec.readonly:
            if self.spec.workdir:
                yield from make_workdir(self.spec, self.inputs)
            yield from self._readonly_root()
        if self.remapped:
            yield from self._late_namespaces()
            yield from self._mqueue("/dev")
            yield from self._sys("")
            yield from self._sysctls()
            yield from self._policy_paths()

    def _readonly_root(self) -> Iterator[Step]:
        """The root, and what else of the host's files is mounted below it; what ``-v`` brought in has its own say."""
        own = () if self.inputs.lower else self.facts.submounts  # an image has none of the host's mounts
        layers = [s.path for s in own if s.how == "overlay" and s.path != self.staging]
        exposed = [path for path in self.inputs.exposed if not self.facts.bound(path)]  # else it is read-only already
        for path in (*layers, *exposed, "/"):
            if not any(is_below(path, m.destination) for m in self.spec.mounts):
                flags = REMOUNT | BIND | RDONLY | self.root_flags
                yield Step(Op.MOUNT, (None, path, None, flags, None), why="read-only", option="--read-only")

    def _late_namespaces(self) -> Iterator[Step]:
        """After joining the cgroup, so that it is the root of its namespace; and what a user namespace is to own."""
        if self.remapped:
            flags = sum(BY_NAME[k].flag for k in self.kinds - {"time", "pid"})
            yield Step(Op.UNSHARE, (flags,), why="what was mounted is locked from here on", option="--userns private")
            yield Step(Op.WAIT, ("ids",), why="the engine writes uid_map and gid_map")
            yield from become_root()
            if self.userns_fd >= 0:
                yield Step(Op.CLOSE, (self.userns_fd,), why="the map of the mounts")
            yield from self._loopback()
        elif "cgroup" in self.kinds:
            yield Step(Op.UNSHARE, (BY_NAME["cgroup"].flag,), why="after joining, so that our cgroup is its root")

    def _choose_staging(self) -> str:
        needed = [m.source for m in self.spec.mounts if m.type == "bind"]
        if self.inputs.lower:
            return self._free_staging([*needed, *self.inputs.lower])
        pieces = {e.path for e in self.facts.root_entries}
        needed += [*self.inputs.exposed, self.spec.workdir, *self.inputs.above.get("/", ())]
        needed += [s.path for s in self.facts.submounts if s.path not in pieces]
        return self._free_staging(needed)

    def _free_staging(self, needed: list[str]) -> str:
        for directory in self.facts.staging:
            if not any(is_below(path, directory) for path in needed if path):
                return directory
        raise UnsupportedError(
            f"no directory to stage the container's file system on: {', '.join(self.facts.staging)} all hold something"
            " that the container needs"
        )

    def _overlay(
        self, index: int, path: str, target: str, why: str, found: Attributes, above: str = ""
    ) -> Iterator[Step]:
        lower = escape_lower(path)
        if self.remapped:
            lower = f"{self.staging}/l{index}"
            yield from self._mapped(path, lower)
        layers = self.inputs.above.get(path, ())
        if layers:
            # The store is inside the host's files: overlayfs refuses a layer that is inside another (ELOOP), but takes
            # what another overlay shows.
            empty, shown = f"{self.staging}/e{index}", f"{self.staging}/h{index}"
            yield Step(Op.MKDIR, (empty, 0o755))
            yield Step(Op.MKDIR, (shown, 0o755))
            data = f"lowerdir={empty}:{lower}"
            yield Step(
                Op.MOUNT, ("overlay", shown, "overlay", RDONLY | NODEV, data), why="what the image's layers lie on"
            )
            lower = shown
        names = [f"{self.staging}/i{index}.{number}" for number in range(len(layers))]
        for directory, name in zip(layers, names, strict=True):
            yield from self._layer(directory, name)
        yield from self._overlay_of(index, above + ":".join([*names, lower]), target, why, self._inside(found))

    def _layer(self, directory: str, name: str) -> Iterator[Step]:
        """Give a layer a short name: mount(2) takes one page of options, which full paths of 40 layers would fill."""
        if self.remapped:
            yield from self._mapped(directory, name)
        else:
            option = f"--image {self.spec.image}"
            yield Step(Op.SYMLINK, (directory, name), why="a short name for a layer", option=option)

    def _mapped(self, path: str, place: str) -> Iterator[Step]:
        yield Step(Op.MKDIR, (place, 0o755))
        yield Step(Op.IDMAP, (path, place, self.userns_fd), why="files of root are root's inside too")

    def _inside(self, found: Attributes) -> Attributes:
        """Return what a directory of the host's is to be inside; an owner who cannot be given is root.

        The others' of an ordinary user's engine have no ID there.
        """
        mode, uid, gid = found
        first_uid, first_gid, count = self.facts.private_ids if self.remapped else (0, 0, max(uid, gid) + 1)
        if self.facts.rootless or max(uid, gid) >= count or not (uid or gid):
            return Attributes(mode, 0, 0)
        return Attributes(mode, first_uid + uid, first_gid + gid)

    def _overlay_of(
        self, index: int, lower: str, target: str, why: str, attributes: Attributes = USUAL
    ) -> Iterator[Step]:
        upper, work = f"{self.staging}/u{index}", f"{self.staging}/w{index}"
        extra = ",userxattr" if self.facts.rootless else ""
        yield Step(Op.MKDIR, (upper, 0o755))
        yield Step(Op.MKDIR, (work, 0o755))
        if attributes[1:] != USUAL[1:]:
            yield Step(Op.CHOWN, (upper, attributes.uid, attributes.gid), why="an overlay has those of its upper layer")
        if attributes.mode != USUAL.mode:
            yield Step(Op.CHMOD, (upper, attributes.mode), why="an overlay has that of its upper layer")
        data = f"lowerdir={lower},upperdir={upper},workdir={work}{extra}"
        yield Step(Op.MOUNT, ("overlay", target, "overlay", self.root_flags, data), why=why)

    @property
    def _named(self) -> bool:
        """Whether it may be on a network where containers have names."""
        return self.spec.networked or "network" in self.spec.joined

    @property
    def _own_resolv(self) -> bool:
        """On a network of its own, the host's name servers are out of reach: a name that is unknown must fail soon."""
        return self._named or bool(self.spec.dns or self.spec.dns_search or self.spec.dns_options)

    def _own_files(self) -> Iterator[Step]:
        """Write what is the container's own in /etc, into the layer that lies on all others below its root.

        overlayfs looks at a layer's file when somebody first asks for it, and nobody has. What changes later is bound:
        what lies below a mounted overlay must stay as it is once it has been seen.
        """
        below, host = f"{self.old_root}{self.staging}/etc-layer", hostname(self.spec, self.inputs)
        extra = [(address, (name,)) for name, address in self.spec.add_hosts]
        hosts = hosts_text((), host, (), extra)
        yield Step(Op.WRITE, (f"{below}/etc/hostname", host + "\n"))
        yield Step(Op.WRITE, (f"{below}/etc/hosts", hosts), option="--add-host" if extra else "")
        if self._own_resolv:
            resolv = resolv_text(self.spec.dns, self.spec.dns_search, self.spec.dns_options)
            yield Step(Op.WRITE, (f"{below}/etc/resolv.conf", resolv), why="who is asked for names")
        covered = (
            {sub.path for sub in self.facts.submounts} if self.facts.root_entries and not self.inputs.lower else ()
        )
        for path in self._own_etc:
            if path == "/etc/hosts" and self._named:
                why, option = "the engine keeps it current", f"--network {self.spec.network}"
            elif path in covered or path == "/etc/resolv.conf":
                why, option = "the container's own", ""
            else:
                continue
            yield Step(Op.MOUNT, (below + path, path, None, BIND, None), why=why, option=option)

    @property
    def _own_etc(self) -> tuple[str, ...]:
        return ("/etc/hostname", "/etc/hosts", *(["/etc/resolv.conf"] if self._own_resolv else []))

    def _image_root(self) -> Iterator[Step]:
        s = self.staging
        if self.facts.rootless and not self.facts.id_ranges:
            self.weakened.append(
                "every file of the image is root's: only one user ID is mapped (newuidmap, /etc/subuid)"
            )
        for directory in ("dev", "proc", "sys"):
            yield Step(Op.MKDIR, (f"{s}/etc-layer/{directory}", 0o755), why="mounted on, whatever the image has")
        names = [f"{s}/i{number}" for number in range(len(self.inputs.lower))]
        for directory, name in zip(self.inputs.lower, names, strict=True):
            yield from self._layer(directory, name)
        lower = ":".join([f"{s}/etc-layer", *names])
        yield from self._overlay_of(0, lower, f"{s}/root", "the image's layers, copy-on-write")

    def _root(self) -> Iterator[Step]:
        s = self.staging
        if not self.facts.root_entries:
            yield from self._overlay(
                0, "/", f"{s}/root", "the host's root, copy-on-write", self.facts.root, f"{s}/etc-layer:"
            )
            return
        yield Step(Op.MKDIR, (f"{s}/u0", 0o755), why="the root itself is no overlay")
        yield Step(Op.MOUNT, (f"{s}/u0", f"{s}/root", None, BIND, None), why="the root, put together below")
        for entry in self.facts.root_entries:
            target = f"{s}/root{entry.path}"
            if entry.kind == "dir":
                yield Step(Op.MKDIR, (target, 0o755), why="what it holds is mounted below")
            elif entry.kind == "link":
                yield Step(Op.SYMLINK, (entry.target, target))
            else:
                yield Step(Op.MKNOD, (target, S_IFREG | 0o644, 0), why="the host's is mounted on it")

    def _submounts(self) -> Iterator[Step]:
        for index, sub in enumerate(self.facts.submounts, start=1):
            target = f"{self.staging}/root{sub.path}"
            if sub.path == self.staging:  # an empty piece of the root
                yield Step(Op.MKDIR, (f"{self.staging}/u{index}", 0o755))
                continue
            if sub.how == "overlay":
                layered = sub.path == "/etc" and self.facts.root_entries
                above = f"{self.staging}/etc-layer/etc:" if layered else ""
                yield from self._overlay(
                    index, sub.path, target, "a mount of the host's, copy-on-write", sub.attributes, above
                )
                continue
            if self.facts.root_entries and sub.path in self._own_etc:
                continue
            # Rootless, inherited mounts are locked: one can be bound only with those below it.
            locked = bool(self.facts.root_entries)
            yield Step(Op.MOUNT, (sub.path, target, None, BIND | REC * locked, None), why="a mount of the host's")
            yield from self._make_readonly(target, recursive=locked)
            if sub.reason:
                self.weakened.append(f"{sub.path} is read-only inside: {sub.reason}")

    def _make_readonly(self, path: str, *, recursive: bool, option: str = "") -> Iterator[Step]:
        if not self.facts.setattr_error:
            at = 0x8000 if recursive else 0
            yield Step(Op.MOUNT_SETATTR, (path, at, 1, 0), why="read-only", option=option)
            return
        if recursive:
            self.weakened.append(f"mounts below {path} stay writable: {self.facts.setattr_error}")
        yield Step(Op.MOUNT, (None, path, None, REMOUNT | BIND | RDONLY, None), why="read-only", option=option)

    def _dev(self) -> Iterator[Step]:
        dev = f"{self.root}/dev"
        yield Step(Op.MOUNT, ("tmpfs", dev, "tmpfs", NOSUID | NOEXEC, "mode=0755,size=65536k"))
        yield Step(Op.UMASK, (0,), why="modes as given")
        for name, major, minor in DEVICES:
            if self.binds_devices:
                yield Step(Op.MKNOD, (f"{dev}/{name}", S_IFREG | 0o666, 0))
                yield bind_device(f"/dev/{name}", f"{dev}/{name}", self.trees)
            else:
                yield Step(Op.MKNOD, (f"{dev}/{name}", S_IFCHR | 0o666, major << 8 | minor))
        for target, link in DEV_LINKS:
            yield Step(Op.SYMLINK, (target, f"{dev}/{link}"))
        for directory in ("pts", "shm", "mqueue"):
            yield Step(Op.MKDIR, (f"{dev}/{directory}", 0o755))
        yield Step(Op.MOUNT, ("devpts", f"{dev}/pts", "devpts", NOSUID | NOEXEC, "newinstance,ptmxmode=0666,mode=0620"))
        size = f"mode=1777,size={self.spec.shm_size_bytes}"
        if "shm" in self._joining:
            fd = dict(self.descriptors())["shm"]
            yield Step(Op.MOVE_MOUNT, (f"{dev}/shm", fd), why="that of the IPC namespace", option="--ipc")
        else:
            yield Step(Op.MOUNT, ("shm", f"{dev}/shm", "tmpfs", NOSUID | NODEV | NOEXEC, size), option="--shm-size")
        if not self.remapped:
            yield from self._mqueue(dev)

    def _terminal(self) -> Iterator[Step]:
        """A terminal of its own /dev/pts, so that it finds it there; /dev/console is the same, as with Docker."""
        if self.spec.tty:
            yield Step(Op.WAIT, ("terminal",), why="the engine opens /dev/pts/ptmx", option="--tty")
            yield controlling_terminal("/dev/pts/0")
            yield Step(Op.MKNOD, ("/dev/console", S_IFREG | 0o620, 0), option="--tty")
            yield Step(Op.MOUNT, ("/dev/pts/0", "/dev/console", None, BIND, None), option="--tty")

    def _mqueue(self, dev: str) -> Iterator[Step]:
        if "ipc" in self.kinds:
            yield Step(Op.MOUNT, ("mqueue", f"{dev}/mqueue", "mqueue", NOSUID | NODEV | NOEXEC, None))

    def _proc(self, root: str) -> Iterator[Step]:
        proc = f"{root}/proc"
        if "pid" not in self.kinds or self.facts.proc_error:
            if "pid" in self.kinds:
                self.weakened.append(f"/proc shows the host's processes: {self.facts.proc_error}")
            yield Step(Op.MOUNT, ("/proc", proc, None, BIND | REC, None), why="the host's own")
        else:
            yield Step(Op.MOUNT, ("proc", proc, "proc", NOSUID | NODEV | NOEXEC, None), why="of the new PID namespace")

    def _sys_of_the_host(self, root: str) -> Iterator[Step]:
        """What the container's own is mounted on, or goes without: a user namespace may mount what it sees."""
        own = "network" in self.kinds
        yield Step(Op.MOUNT, ("/sys", f"{root}/sys", None, BIND | REC * (not own), None), why="the host's own")
        yield from self._make_readonly(f"{root}/sys", recursive=not own)

    def _sys(self, root: str) -> Iterator[Step]:
        sys = f"{root}/sys"
        if "network" not in self.kinds or self.facts.sysfs_error:
            if not self.remapped:
                yield Step(Op.MOUNT, ("/sys", sys, None, BIND | REC, None), why="the host's own")
                yield from self._make_readonly(sys, recursive=True)
            return
        flags = NOSUID | NODEV | NOEXEC | RDONLY
        yield Step(Op.MOUNT, ("sysfs", sys, "sysfs", flags, None), why="of the new network namespace")
        if "cgroup" in self.kinds:
            yield from self._cgroup_mounts(f"{sys}/fs/cgroup", flags)

    def _cgroup_mounts(self, base: str, flags: int) -> Iterator[Step]:
        mounts = self.facts.cgroup_mounts
        if any(path for path, _, _ in mounts):  # v1: a directory for each hierarchy
            yield Step(Op.MOUNT, ("tmpfs", base, "tmpfs", NOSUID | NODEV | NOEXEC, "mode=0755,size=64k"))
        for path, fstype, options in mounts:
            if path:
                yield Step(Op.MKDIR, (f"{base}/{path}", 0o755))
            target = f"{base}/{path}".rstrip("/")
            yield Step(Op.MOUNT, (fstype, target, fstype, flags, options or None), why="our cgroup as its root")

    def _tmp_and_exposed(self) -> Iterator[Step]:
        root = f"{self.staging}/root"
        yield Step(Op.MOUNT, ("tmpfs", f"{root}/tmp", "tmpfs", NOSUID | NODEV, "mode=1777"), why="its own /tmp")
        for number, path in enumerate(self.inputs.exposed):
            for parent in parents(path):
                if parent not in OWN_AND_ROOT:
                    yield Step(Op.MKDIR, (root + parent, 0o755), tolerate=errno.EEXIST)
            yield Step(Op.MKDIR, (root + path, 0o755), tolerate=errno.EEXIST)
            index = len(self.facts.submounts) + 1 + number
            if reason := self.facts.bound(path):
                yield Step(Op.MOUNT, (path, root + path, None, BIND | REC, None), why="with what is mounted below it")
                yield from self._make_readonly(root + path, recursive=True)
                if not any(is_below(path, m.destination) for m in self.spec.mounts):
                    self.weakened.append(f"{path} is read-only inside: {reason}; -v {path}:{path} gives it as it is")
                continue
            found = self.inputs.attributes.get(path, USUAL)
            yield from self._overlay(index, path, root + path, "seen although it lies in a hidden place", found)

    def _pivot(self) -> Iterator[Step]:
        root = f"{self.staging}/root"
        yield Step(Op.MKDIR, (root + self.old_root, 0o700))
        yield Step(Op.PIVOT_ROOT, (root, root + self.old_root), why="paths resolve inside it from here on")
        yield Step(Op.CHDIR, ("/",))

    def _user_mounts(self) -> Iterator[Step]:
        for m in sorted(self.spec.mounts, key=lambda m: m.destination.count("/")):  # as Docker: none hides another
            yield from self._mount_point(m)
            yield from self._user_mount(m)

    def _mount_point(self, m: Mount) -> Iterator[Step]:
        for parent in parents(m.destination):
            yield Step(Op.MKDIR, (parent, 0o755), tolerate=errno.EEXIST, option=m.option)
        if m.type == "tmpfs" or self.inputs.source_is_dir[m.source]:
            yield Step(Op.MKDIR, (m.destination, 0o755), tolerate=errno.EEXIST, option=m.option)
        else:
            yield Step(Op.MKNOD, (m.destination, S_IFREG | 0o644, 0), tolerate=errno.EEXIST, option=m.option)

    def _user_mount(self, m: Mount) -> Iterator[Step]:
        if m.type == "tmpfs":
            flags = sum(MS["MS_" + f.upper()] for f in m.flags)
            options = shifted(m.options, self.facts.private_ids) if self.remapped else m.options
            args = ("tmpfs", m.destination, "tmpfs", flags, options or None)
            yield Step(Op.MOUNT, args, option=m.option)
        else:
            if self.remapped:  # mapped too, root inside could leave set-user-ID programs of root's there
                self.weakened.append(f"{m.destination}: owners are those outside, so root's files there are nobody's")
            yield Step(Op.MOUNT, (self.old_root + m.source, m.destination, None, BIND | REC, None), option=m.option)
        if "slave" in m.propagation or "shared" in m.propagation:
            flag = MS["MS_SLAVE"] if "slave" in m.propagation else MS["MS_SHARED"]
            recursive = REC if m.propagation.startswith("r") else 0
            yield Step(Op.MOUNT, (None, m.destination, None, flag | recursive, None), option=m.option)
        if m.readonly and m.type == "bind":
            yield from self._make_readonly(m.destination, recursive=True, option=m.option)

    def _sysctls(self) -> Iterator[Step]:
        """Before /proc/sys becomes read-only; what they set belongs to namespaces that were entered already."""
        for name, value in self.spec.sysctls:
            path = "/proc/sys/" + name.replace(".", "/")
            yield Step(Op.WRITE, (path, value), option=f"--sysctl {name}={value}")

    def _policy_paths(self, below: tuple[str, ...] = ("/",)) -> Iterator[Step]:
        unmasked = self.spec.privileged or "systempaths=unconfined" in self.spec.security_options
        if unmasked or ("pid" not in self.kinds) or self.facts.proc_error:
            if not unmasked and not self.target:
                yield from self._make_readonly("/proc", recursive=True)
            return
        for path, is_dir in (p for p in self.facts.masked if any(is_below(p[0], b) for b in below)):
            if is_dir:
                yield Step(Op.MOUNT, ("tmpfs", path, "tmpfs", RDONLY, None), tolerate=errno.ENOENT, why="masked")
            else:
                yield Step(Op.MOUNT, ("/dev/null", path, None, BIND, None), tolerate=errno.ENOENT, why="masked")
        for path, _ in (p for p in self.facts.readonly_paths if any(is_below(p[0], b) for b in below)):
            yield Step(Op.MOUNT, (path, path, None, BIND | REC, None), tolerate=errno.ENOENT)
            flags = REMOUNT | BIND | RDONLY | NOSUID | NODEV | NOEXEC
            yield Step(Op.MOUNT, (None, path, None, flags, None), tolerate=errno.ENOENT, why="read-only")

    def joined(self) -> Iterator[Step]:
        """Should: name the host. Mustn't: do so in a namespace that is the host's."""
        if "uts" in self.kinds:
            yield Step(Op.HOSTNAME, (hostname(self.spec, self.inputs),), why="the container's ID, or --hostname")
            if self.spec.domainname:
                yield Step(Op.DOMAINNAME, (self.spec.domainname,), option="--domainname")


def controlling_terminal(path: str) -> Step:
    """Make a terminal the standard streams and the controlling terminal."""
    return Step(Op.CTTY, (path,), why="standard streams, and the controlling terminal", option="--tty")


OWN_AND_ROOT = ("/", "/tmp", "/dev", "/proc", "/sys")

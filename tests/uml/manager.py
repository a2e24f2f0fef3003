"""A systemd user manager in a guest, with a bus: what an ordinary user of a usual machine has."""

from __future__ import annotations

from pathlib import Path

USER = 65534
ENVIRON = ("-u", "DBUS_SESSION_BUS_ADDRESS", f"XDG_RUNTIME_DIR=/run/user/{USER}")
"""For env(1), before all else: how this user's programs find it."""
_MANAGER = Path("/lib/systemd/systemd")
_BUS_UNIT = Path("/usr/lib/systemd/user/dbus.socket")

# As a login has it: the manager owns its own subtree, the notebook's cgroup beside it is nobody's to change, and
# processes may be moved between the two. The directory is how systemd's parts see that systemd is there.
SETUP = f"""
s=/sys/fs/cgroup/session
mkdir -p $s/manager /run/systemd/system /run/user/{USER}
chown -R {USER}:{USER} $s/manager /run/user/{USER}
chown {USER} $s/cgroup.procs $s/notebook/cgroup.procs
(
    echo 0 > $s/manager/cgroup.procs
    exec setpriv --reuid={USER} --regid={USER} --clear-groups env -i HOME=/tmp PATH=/usr/bin:/bin \
        XDG_RUNTIME_DIR=/run/user/{USER} {_MANAGER} --user
) > /tmp/manager.log 2>&1 &
for i in $(seq 300); do [ -S /run/user/{USER}/bus ] && break; sleep 0.1; done
"""


def missing() -> str:
    """Return what is missing to start it; empty if nothing is."""
    if _MANAGER.exists() and _BUS_UNIT.exists():
        return ""
    return "no systemd with a bus for users: apt-get install systemd dbus-user-session"

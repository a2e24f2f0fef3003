"""The option table, its parser, and what is derived from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from jupyter_ns.errors import UsageError
from jupyter_ns.namespaces import KINDS
from jupyter_ns.option_examples import EXAMPLES
from jupyter_ns.options import BY_FLAG, OPTIONS, RunRequest, complete, help_text, parse, reference, split
from jupyter_ns.spec import ContainerSpec, Limits, Mount, Ulimit

MIB = 1024**2
NO_LIMIT = Ulimit(name="core", soft=-1, hard=-1)
FIVE_SECONDS = Ulimit(name="cpu", soft=5, hard=5)
HOME = {"HOME": "/home/me", "LANG": "C"}


def run(line: str | list[str], *, cwd: str = "/nb", environ: Mapping[str, str] = HOME) -> RunRequest:
    tokens = split(line) if isinstance(line, str) else line
    return parse(tokens, cwd=cwd, environ=environ, host_cpus=4)


def refused(line: str | list[str]) -> str:
    with pytest.raises(UsageError) as caught:
        run(line)
    return str(caught.value)


# The table


def test_every_row_sets_a_field_or_is_refused() -> None:
    known = {
        "limits": {f.name for f in fields(Limits)},
        "spec": {f.name for f in fields(ContainerSpec)},
        "request": {f.name for f in fields(RunRequest)},
    }
    for option in OPTIONS:
        assert bool(option.sets) != bool(option.refuse), option
        assert option.help and "\n" not in option.help
        assert not option.needs or option.needs in {kind.name for kind in KINDS}
        if option.sets:
            section, field = option.sets.split(".")
            assert field in known[section], option


def test_every_limit_names_its_kernel_file_and_source() -> None:
    for option in OPTIONS:
        if option.group == "Network" and option.sets.startswith("limits."):
            assert option.documentation.startswith("tc-")  # a queueing discipline, and no file
        elif option.sets.startswith("limits."):
            assert option.v1
            assert option.oci.startswith("linux.resources.")
            assert option.documentation


def test_flags_are_unique() -> None:
    flags = [flag for option in OPTIONS for flag in option.flags]
    assert len(flags) == len(set(flags))


INTERFACE = """\
-m --memory --mem --memory-swap --memory-reservation --memory-swappiness --oom-kill-disable
--oom-score-adj --cpus -c --cpu-shares --cpu-period --cpu-quota --cpuset-cpus --cpuset-mems --pids-limit
--blkio-weight --device-read-bps --device-write-bps --device-read-iops --device-write-iops --device
--device-cgroup-rule --ulimit --shm-size --tmpfs -v --volume --mount --volumes-from -w --workdir -e --env
--env-file -u --user --group-add -h --hostname --domainname --network --net --network-alias --ip
--mac-address --dns --dns-search --add-host -p --publish -P --expose --cap-add --cap-drop --privileged
--security-opt --read-only --userns --pid --ipc --uts --cgroupns --cgroup-parent --sysctl --name --rm -d
--detach -i -t --init --entrypoint --restart --stop-signal --stop-timeout -l --label --health-cmd --cidfile
--image --state --in --out --trust --keep --timeout --without --time-offset --net-rate --net-delay
--net-loss --seed --explain --record --quiet -o --result"""


@pytest.mark.parametrize("flag", INTERFACE.split())
def test_every_promised_option_is_known(flag: str) -> None:
    assert flag in BY_FLAG


@pytest.mark.parametrize("option", [o for o in OPTIONS if o.refuse], ids=lambda o: o.name)
def test_refused_options_say_why(option: Any) -> None:
    for flag in option.flags:
        message = refused([flag, "1", "sh"])
        assert message == f"{flag} is not supported: {option.refuse}"


# Scanning


@pytest.mark.parametrize(
    "line",
    [
        "--mem 128m",
        "--mem=128m",
        "-m 128m",
        "-m128m",
        "-m=128m",
        "-im128m",
        "-im=128m",
        "-i -m 1g -m 128m",
        "--memory 128m --",
    ],
)
def test_ways_to_write_a_value(line: str) -> None:
    request = run(line)
    assert request.spec.limits.memory_bytes == 128 * MIB
    assert request.spec.python


def test_options_end_at_the_program() -> None:
    spec = run("--init sh -c 'echo --mem 1x' --cpus 99").spec
    assert spec.argv == ("sh", "-c", "echo --mem 1x", "--cpus", "99")
    assert spec.init and not spec.python
    assert spec.limits == Limits()


def test_double_dash_ends_options() -> None:
    assert run("--init -- --odd -x").spec.argv == ("--odd", "-x")
    assert run("-").spec.argv == ("-",)


def test_no_program_is_a_python_cell() -> None:
    assert run("") == RunRequest(spec=ContainerSpec(python=True, workdir="/nb"))


def test_an_entrypoint_is_a_program() -> None:
    spec = run("--entrypoint sh").spec
    assert (spec.entrypoint, spec.argv, spec.python) == ("sh", (), False)
    assert run(["--entrypoint", ""]).spec.python


def test_line_with_an_open_quotation() -> None:
    assert "closed" in refused("sh -c 'echo")


@pytest.mark.parametrize(
    ("line", "flag", "hint"),
    [
        ("--memroy 1g", "--memroy", "--memory"),
        ("--withuot pid", "--withuot", "--without"),
        ("-z", "-z", "--help"),
        ("-iz", "-z", "--help"),
        ("--=x", "--", "--help"),
        ("-=", "-=", "--help"),
        ("-i=", "-=", "--help"),
    ],
)
def test_unknown_option(line: str, flag: str, hint: str) -> None:
    message = refused(line)
    assert message.startswith(f"{flag}: unknown option; ")
    assert hint in message


@pytest.mark.parametrize("line", ["--memory", "-m", "-im", "--name", "--hostname"])
def test_missing_value(line: str) -> None:
    assert "expected a value" in refused(line)


@pytest.mark.parametrize("line", ["-h", "--help", "--help sh", "--mem 12x --help", "--init -h", "-ih"])
def test_help(line: str) -> None:
    assert run(line) == RunRequest(help=True)


def test_h_with_a_value_is_the_host_name() -> None:
    request = run("-h box sh")
    assert (request.help, request.spec.hostname, request.spec.argv) == (False, "box", ("sh",))
    assert run("sh -h").spec.argv == ("sh", "-h")


# Values


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("-m 6m", Limits(memory_bytes=6 * MIB)),
        ("-m 0", Limits()),
        ("-m 64m --memory-swap 64m", Limits(memory_bytes=64 * MIB, memory_swap_bytes=64 * MIB)),
        ("-m 64m --memory-swap -1", Limits(memory_bytes=64 * MIB, memory_swap_bytes=-1)),
        ("--memory-swap -1", Limits(memory_swap_bytes=-1)),
        ("-m 64m --memory-swap 0", Limits(memory_bytes=64 * MIB)),
        ("--memory-reservation 32m", Limits(memory_reservation_bytes=32 * MIB)),
        ("--memory-swappiness 0", Limits(memory_swappiness=0)),
        ("--memory-swappiness -1", Limits()),
        ("--oom-kill-disable", Limits(oom_kill_disable=True)),
        ("--oom-kill-disable=false", Limits()),
        ("--cpus .5", Limits(nano_cpus=500_000_000)),
        ("--cpus 1/2", Limits(nano_cpus=500_000_000)),
        ("--cpus 4", Limits(nano_cpus=4_000_000_000)),
        ("--cpus 0 --cpu-period 50000", Limits(cpu_period_us=50_000)),
        ("--cpu-period 1000 --cpu-quota 1000", Limits(cpu_period_us=1000, cpu_quota_us=1000)),
        ("--cpu-quota -1", Limits()),
        ("-c 512", Limits(cpu_shares=512)),
        ("--cpuset-cpus 3,0-1 --cpuset-mems 0", Limits(cpuset_cpus="0-1,3", cpuset_mems="0")),
        ("--pids-limit 64", Limits(pids_limit=64)),
        ("--pids-limit -1", Limits(pids_limit=-1)),
        ("--pids-limit 0", Limits()),
    ],
)
def test_limits(line: str, expected: Limits) -> None:
    assert run(line).spec.limits == expected


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("-m 5m", "-m '5m': expected at least 6m"),
        ("-m 12x", "-m '12x': expected a size"),
        ("--memory=-1", "--memory '-1': expected a size that is not negative"),
        ("-m 64m --memory-swap 63m", "--memory-swap 63MiB: expected at least --memory, 64MiB"),
        ("--memory-swap 64m", "--memory-swap: expected with --memory"),
        ("-m 64m --memory-swap -2", "--memory-swap '-2': expected a size"),
        ("-m 64m --memory-reservation 65m", "--memory-reservation 65MiB: expected at most --memory"),
        ("--memory-reservation 5m", "expected at least 6m"),
        ("--memory-swappiness 101", "expected an integer from 0 to 100"),
        ("--oom-score-adj 1001", "expected an integer from -1000 to 1000"),
        ("--oom-kill-disable=yes", "--oom-kill-disable 'yes': expected true or false"),
        ("--cpus 4.1", "expected 0.01 to 4, as this host has 4 CPUs"),
        ("--cpus=-1", "expected 0.01 to 4"),
        ("--cpus 0.001", "expected 0.01 to 4"),
        ("--cpus 1/3", "at most 9 decimal places"),
        ("--cpus 1 --cpu-period 1000", "--cpus conflicts with --cpu-period"),
        ("--cpus 1 --cpu-quota 1000", "--cpus conflicts with --cpu-quota"),
        ("--cpu-period 999", "expected an integer from 1000 to 1000000"),
        ("--cpu-period 1000001", "expected an integer from 1000 to 1000000"),
        ("--cpu-quota 999", "expected at least 1000 microseconds"),
        ("--cpu-shares=-1", "expected an integer from 1"),
        ("--cpuset-cpus 0-4", "expected CPUs among 0-3"),
        ("--cpuset-mems 1-0", "expected a list"),
        ("--pids-limit many", "expected an integer"),
        ("--hugetlb 2MB", "expected PAGESIZE:SIZE"),
        ("--hugetlb 100:1m", "expected a size of pages"),
        ("--hugetlb 2MB:many", "--hugetlb"),
        ("--ulimit as=1", "expected a name among core"),
        ("--ulimit nofile=20:10", "expected a soft limit that is not above"),
        ("--ulimit nofile=-1:10", "expected a soft limit that is not above"),
        ("--ulimit nofile=9223372036854775808", "at most 63 bits"),
        ("--shm-size x", "--shm-size 'x': expected a size"),
        ("--tmpfs x", "expected an absolute path"),
        ("--tmpfs /", "other than /"),
        ("--tmpfs /x:size=abc", "tmpfs(5)"),
        ("--tmpfs /x:noatim", "tmpfs option 'noatim': expected one of ro rw"),
        ("-v a/b:/data", "for a directory, write ./a/b"),
        ("-v data:/data:rshared,x", "mode 'x'"),
        ("--image ''", "the name of an image"),
        ("--pull sometimes", "missing, always, never"),
        ("--platform linux", "OS/ARCHITECTURE"),
        ("--image busybox --without mount", "mount namespace"),
        ("-v /a:b", "expected an absolute path"),
        ("-v /a:/", "other than /"),
        ("-v /a:/b:ro,rw", "at most one"),
        ("-v /a:/b:z", "SELinux"),
        ("-v /a:/b:nocopy", "mode 'nocopy': expected ro, rw"),
        ("-v /a:/b:ro:x", "expected SOURCE:DESTINATION"),
        ("-v ~root/a:/b", "expected ~ for your own home"),
        ("-v ./a:/x --tmpfs /x/", "--tmpfs /x/: /x is already the destination of '-v ./a:/x'"),
        ("--mount type=npipe,dst=/x", "type 'npipe' is not supported"),
        ("--mount type=volume,src=a/b,dst=/x", "no volume's name"),
        ("--mount type=bind,src=/x", "expected target=PATH"),
        ("--mount type=bind,dst=/x", "expected source=PATH"),
        ("--mount type=bind,src=x,dst=/x", "expected source=PATH"),
        ("--mount type=tmpfs,src=/x,dst=/x", "a tmpfs takes no source"),
        ("--mount type=bind,src=/x,dst=/x,tmpfs-size=1m", "key 'tmpfs-size' with type=bind"),
        ("--mount type=bind,src=/x,dst=/x,bind-recursive=disabled", "key 'bind-recursive' with type=bind"),
        ("--mount type=tmpfs,dst=/x,tmpfs-mode=9", "expected octal"),
        ("--mount type=bind,src=/x,dst=/y,ro=maybe", "expected true or false"),
        ("--mount type", "expected KEY=VALUE"),
        ("-w relative", "-w 'relative': expected an absolute path"),
        ("-e =b", "expected NAME=VALUE"),
        ("--env-file /nonexistent/file", "cannot read /nonexistent/file: No such file"),
        ("-u a:b:c", "expected NAME or UID"),
        ("--hostname " + "a" * 65, "at most 64 bytes"),
        ("--name -x", "expected letters"),
        ("--name a", "expected letters"),
        ("--stop-signal foo", "expected a signal"),
        ("--stop-signal 0", "expected a signal"),
        ("--stop-signal SIGRTMIN+99", "expected a signal"),
        ("-l 'a b=c'", "expected KEY=VALUE"),
        ("--network /lab", "the name of a network"),
        ("--network container:", "invalid container format"),
        ("--network name=lab,colour=red", "not colour="),
        ("--network none -p 80", "conflicts with --network none"),
        ("--network host --net-rate 1mbit", "conflicts with --network host"),
        ("--without network -p 80", "--without network leaves out"),
        ("--ip 172.28.0", "IPv4 address"),
        ("--mac-address 01:00:00:00:00:00", "of one interface"),
        ("-p 80:81:82:83", "address of the host's"),
        ("-p 127.0.0.1:80", "IP:HOST_PORT:PORT"),
        ("-p 80/sctp", "tcp or udp"),
        ("-p 0", "from 1 to 65535"),
        ("-p 8000-8002:80-81", "same length"),
        ("--expose 70000", "from 1 to 65535"),
        ("--add-host db", "NAME:ADDRESS"),
        ("--add-host h:host-gateway", "out of reach"),
        ("--dns name", "address of a name server"),
        ("--net-rate fast", "10mbit"),
        ("--net-rate 1bit", "at least 1kbit"),
        ("--net-delay 2h", "0 to 1h"),
        ("--net-loss 101%", "0% to 100%"),
        ("--userns keep-id", "expected one of private, host"),
        ("--pid private", "--pid 'private': expected host"),
        ("--pid container:", "expected host or container:NAME"),
        ("--ipc none", "expected host or private or shareable or container:NAME"),
        ("--without pid,proc", "expected namespace kinds among user, pid, mount"),
        ("--cap-add NET_ADMN", "did you mean NET_ADMIN"),
        ("--cap-drop x", "--cap-drop 'x': unknown capability"),
        ("--security-opt seccomp=/etc/p.json", "profiles from files"),
        ("--security-opt apparmor=x", "apparmor is not supported"),
        ("--security-opt foo", "expected one of seccomp=default"),
        ("--security-opt no-new-privileges=x", "expected true or false"),
        ("--sysctl kernel.panic=1", "accepted: net.*"),
        ("--sysctl net.x", "expected NAME=VALUE"),
        ("--time-offset never", "expected seconds"),
        ("--time-offset 1e12", "expected at most 4611686018 seconds"),
        ("--timeout 0", "expected more than 0"),
        ("--timeout=-1", "expected more than 0"),
        ("--state all", "expected one of copy, fork, none"),
        ("--in a,", "expected Python identifiers"),
        ("--out class", "expected Python identifiers"),
        ("-o 1x", "expected a Python identifier"),
        (["-e", "A=\0"], "NUL"),
    ],
)
def test_bad_values(line: str | list[str], words: str) -> None:
    assert words in refused(line)


def test_cpu_numbers_need_not_be_contiguous() -> None:
    tokens = ["--cpuset-cpus", "4"]
    request = parse(tokens, cwd="/", environ={}, host_cpus=2, available_cpus={0, 4})
    assert request.spec.limits.cpuset_cpus == "4"
    with pytest.raises(UsageError, match="among 0,4"):
        parse(["--cpuset-cpus", "1"], cwd="/", environ={}, host_cpus=2, available_cpus={0, 4})


def test_volumes() -> None:
    spec = run("-v /a:/b -v ./data:/data:ro,rslave -v ~/x:/x/ -v ..:/up sh").spec
    assert [(m.type, m.source, m.destination, m.readonly, m.propagation) for m in spec.mounts] == [
        ("bind", "/a", "/b", False, "rprivate"),
        ("bind", "/nb/data", "/data", True, "rslave"),
        ("bind", "/home/me/x", "/x", False, "rprivate"),
        ("bind", "/", "/up", False, "rprivate"),
    ]
    assert spec.mounts[1].option == "-v ./data:/data:ro,rslave"


def test_home_must_be_known() -> None:
    with pytest.raises(UsageError, match="HOME"):
        run("-v ~/x:/x", environ={})


def test_mounts() -> None:
    bind = run(["--mount", 'type=bind,"src=./a,b",dst=/b,ro,bind-propagation=shared']).spec.mounts[0]
    assert (bind.source, bind.destination, bind.readonly, bind.propagation) == (
        "/nb/a,b",
        "/b",
        True,
        "shared",
    )
    assert run("--mount type=bind,src=/a,dst=/b,readonly=false").spec.mounts[0].readonly is False
    tmpfs = run("--mount type=tmpfs,target=/t,tmpfs-size=64m,tmpfs-mode=1777").spec.mounts[0]
    assert (tmpfs.type, tmpfs.options) == ("tmpfs", f"size={64 * MIB},mode=1777")
    assert tmpfs.flags == ("noexec", "nosuid", "nodev")


@pytest.mark.parametrize(
    ("value", "data", "flags", "readonly"),
    [
        ("/t", "", ("noexec", "nosuid", "nodev"), False),
        ("/t:size=50%,mode=700,uid=5", "size=50%,mode=700,uid=5", ("noexec", "nosuid", "nodev"), False),
        ("/t:exec,dev,ro", "", ("nosuid", "rdonly"), True),
        ("/t:exec,noexec,strictatime,rw", "", ("noexec", "nosuid", "nodev", "strictatime"), False),
    ],
)
def test_tmpfs(value: str, data: str, flags: tuple[str, ...], readonly: bool) -> None:
    expected = Mount(
        type="tmpfs",
        destination="/t",
        options=data,
        flags=flags,
        readonly=readonly,
        option=f"--tmpfs {value}",
    )
    assert run(["--tmpfs", value]).spec.mounts == (expected,)


def test_environment_order_and_inheritance(tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text("\ufeff# a comment\n\nA=1\r\n  B= x \nLANG\nABSENT\nC='q'\n", encoding="utf-8")
    spec = run(f"-e A=2 -e LANG -e GONE -e D= --env-file {file} sh").spec
    assert spec.environment == (
        ("A", "1"),
        ("B", " x "),
        ("LANG", "C"),
        ("C", "'q'"),
        ("A", "2"),
        ("LANG", "C"),
        ("GONE", None),
        ("D", ""),
    )


@pytest.mark.parametrize(("content", "words"), [(b"A B=1", "line 1"), (b"X=1\n=1", "line 2"), (b"\xff=1", "UTF-8")])
def test_bad_environment_file(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "env").write_bytes(content)
    with pytest.raises(UsageError, match=words):
        run("--env-file ./env", cwd=str(tmp_path))


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        ("--hugetlb 2m:64m --hugetlb 1GB:0", "limits", Limits(hugetlb=(("2MB", 64 << 20), ("1GB", 0)))),
        ("--ulimit nofile=10:20", "ulimits", (Ulimit(name="nofile", soft=10, hard=20),)),
        ("--ulimit core=-1 --ulimit cpu=+5", "ulimits", (NO_LIMIT, FIVE_SECONDS)),
        ("--ulimit nofile=10:-1", "ulimits", (Ulimit(name="nofile", soft=10, hard=-1),)),
        ("--oom-score-adj -500", "oom_score_adj", -500),
        ("--shm-size 1g", "shm_size_bytes", 1024 * MIB),
        ("--shm-size 0", "shm_size_bytes", 64 * MIB),
        ("-w //a/../b/", "workdir", "/b"),
        ("-u 1000:100", "user", "1000:100"),
        ("--group-add 5 --group-add audio", "groups", ("5", "audio")),
        ("--domainname nis", "domainname", "nis"),
        ("--network host", "network", "host"),
        ("--net name=host", "network", "host"),
        ("--userns private", "userns", "private"),
        ("--cap-add net_admin --cap-add ALL", "cap_add", ("CAP_NET_ADMIN", "ALL")),
        ("--cap-drop CAP_KILL", "cap_drop", ("CAP_KILL",)),
        ("--privileged", "privileged", True),
        ("--read-only=1", "readonly", True),
        ("--security-opt no-new-privileges", "security_options", ("no-new-privileges=true",)),
        ("--security-opt no-new-privileges:0", "security_options", ("no-new-privileges=false",)),
        ("--security-opt seccomp:unconfined", "security_options", ("seccomp=unconfined",)),
        ("--without pid,time --uts host", "without", {"uts", "pid", "time"}),
        ("--ipc private --cgroupns host", "without", ("cgroup",)),
        ("--sysctl net.ipv4.ip_forward=1", "sysctls", (("net.ipv4.ip_forward", "1"),)),
        ("-l a -l b=c=d", "labels", (("a", ""), ("b", "c=d"))),
        ("--name my_box.1", "name", "my_box.1"),
        ("-i=false", "stdin_open", False),
        ("--time-offset -1h", "time_offset_seconds", -3600.0),
        ("--timeout 1m30s", "timeout_seconds", 90.0),
        ("--stop-signal 9", "stop_signal", "SIGKILL"),
        ("--stop-signal term", "stop_signal", "SIGTERM"),
        ("--stop-signal RTMIN+3", "stop_signal", "SIGRTMIN+3"),
        ("--stop-signal 37", "stop_signal", "SIGRTMIN+3"),
        ("--stop-timeout -1", "stop_timeout_seconds", -1),
        ("--restart on-failure:3", "restart", "on-failure:3"),
        ("--restart on-failure:0", "restart", "on-failure"),
        ("-t sh", "tty", True),
        ("--health-cmd true --health-interval 1m30s", "health_interval_seconds", 90.0),
        ("--keep", "keep", True),
    ],
)  # fmt: skip
def test_spec_fields(line: str, field: str, value: object) -> None:
    found = getattr(run(line).spec, field)
    assert (set(found) if isinstance(value, set) else found) == value


def test_the_spec_survives_the_wire() -> None:
    spec = run("-m 64m -v ./a:/a --tmpfs /t --ulimit nofile=5 -e A -l x=y --without pid,time sh -c 'echo hi'").spec
    assert ContainerSpec.from_dict(spec.to_dict()) == spec


def test_notebook_options() -> None:
    request = run("--state none --in a,b --in c --out r -o run1 --trust --explain --quiet --no-raise-error")
    assert request == RunRequest(
        spec=ContainerSpec(python=True, workdir="/nb"),
        state="none",
        inputs=("a", "b", "c"),
        outputs=("r",),
        result="run1",
        trust=True,
        explain=True,
        quiet=True,
        raise_error=False,
    )


# Contradictions


@pytest.mark.parametrize("option", ["--state copy", "--in a", "--out a"])
@pytest.mark.parametrize("program", ["sh", "--entrypoint sh"])
def test_variables_are_for_python_cells(option: str, program: str) -> None:
    assert refused(f"{option} {program}") == (
        f"{option.split()[0]}: only for a Python cell; 'sh' is a program and has no notebook variables"
    )


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            "--uts host -h box sh",
            "-h: expected a uts namespace to act in, which --without uts (or --uts host)",
        ),
        ("--without time --time-offset 5", "--time-offset: expected a time namespace"),
        ("--without mount --read-only", "--read-only: expected a mount namespace"),
        ("--without mount -v /a:/b", "-v: expected a mount namespace"),
        ("--pid host --init", "--init: expected a pid namespace"),
        ("--without network --network none", "conflicts with --without network"),
        ("--without user --userns private", "conflicts with --without user"),
        ("--network host --sysctl net.ipv4.ip_forward=1", "network namespace"),
        ("--ipc host --sysctl kernel.shmmax=1", "IPC namespace"),
        ("--rm --keep", "--rm conflicts with --keep"),
        ("--rm --restart always sh", "--rm conflicts with --restart"),
        ("-d --keep sh", "--detach conflicts with --keep"),
        ("-d --state fork", "--state fork, whose cell the notebook's kernel waits for"),
        ("-d --restart always", "a Python cell runs once"),
        ("--health-interval 1s sh", "--health-interval: expected with --health-cmd"),
        ("-t", "--tty: only for a program"),
    ],
)
def test_contradictions(line: str, words: str) -> None:
    assert words in refused(line)


@pytest.mark.parametrize(
    "line",
    [
        "--without mount --read-only=false",
        "--pid host --init=false",
        "--rm --keep=false",
        "--ipc host --sysctl net.ipv4.ip_forward=1",
        "--without network --network host",
    ],
)
def test_no_contradiction(line: str) -> None:
    assert run(line).spec.python


# What is derived from the table


def test_help_text_has_every_supported_option_in_100_columns() -> None:
    text = help_text()
    assert max(len(line) for line in text.splitlines()) <= 100
    for option in OPTIONS:
        if not option.refuse:
            assert f"  {', '.join(option.flags)}" in text
        else:
            assert option.name in text.split("Known and refused")[1]


def test_the_reference_in_docs_is_current() -> None:
    path = Path(__file__).parents[2] / "docs" / "options.md"
    assert path.read_text().endswith(reference()), "run scripts/write-options"


def test_every_option_has_an_example_that_uses_it() -> None:
    supported = {option.name: option.flags for option in OPTIONS if not option.refuse}
    assert EXAMPLES.keys() == supported.keys()
    for name, line in EXAMPLES.items():
        assert any(word.partition("=")[0] in supported[name] for word in split(line))
        assert parse(split(line), cwd="/nb", environ={}, host_cpus=4)


def test_reference_is_a_table_per_group() -> None:
    text = reference()
    assert "| `-m, --memory, --mem SIZE` | bytes |" in text
    assert "`linux.resources.memory.limit` | `memory.limit_in_bytes` | `memory.max` |" in text
    for block in text.split("## ")[1:]:
        rows = [line for line in block.splitlines() if line.startswith("|")]
        assert len({row.replace("\\|", "").count("|") for row in rows}) == 1
    for option in OPTIONS:
        assert option.refuse in text and option.name in text


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--memory-sw", {"--memory-swap", "--memory-swappiness"}),
        ("--mem 64m --sta", {"--state"}),
        ("--without ", {kind.name for kind in KINDS}),
        ("--without pid,m", {"pid,mount"}),
        ("--without=u", {"--without=user", "--without=uts"}),
        ("--state ", {"copy", "fork", "none"}),
        ("-i --net h", {"host"}),
        ("--cap-add sys_ad", {"SYS_ADMIN"}),
        ("--stop-signal SIGKI", {"SIGKILL"}),
        ("--blkio", {"--blkio-weight", "--blkio-weight-device"}),
        ("--gpu", set()),
        ("sh --me", set()),
        ("-- --me", set()),
        ("--name ", set()),
        ("--bogus x --me", set()),
        ("--bogus=", set()),
        ("", set()),
        ("s", set()),
    ],
)
def test_completion(line: str, expected: set[str]) -> None:
    found = complete(line)
    assert {word for word, _ in found} == expected
    assert all(what for _, what in found)


def test_completed_values_are_accepted() -> None:
    for option in OPTIONS:
        for value, _ in complete(f"{option.name} "):
            if not value.endswith(("=", ",")):
                assert run([option.name, value]).spec.python

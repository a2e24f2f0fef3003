"""Docker's subcommands without an engine: grammar, columns, formulae, pipes."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest

from jupyter_ns.errors import UsageError
from jupyter_ns.frontend.commands import listing, looking, stats, table
from jupyter_ns.frontend.commands.console import Console
from jupyter_ns.frontend.commands.grammar import Command, parse
from jupyter_ns.frontend.commands.inspecting import docker_json
from jupyter_ns.frontend.commands.running import parse_run
from jupyter_ns.frontend.commands.text import formatted, human_duration, tabulate
from jupyter_ns.frontend.docker import lines_of, split_line
from jupyter_ns.frontend.expansion import expand
from jupyter_ns.spec import ContainerSpec, Limits

ROW: dict[str, Any] = {
    "id": "3d837a234188430bb0f60b4f8bc83ee95d4f6994619b4c06b5ece9e06693d237",
    "name": "web",
    "image": "host",
    "argv": ["sh", "-c", "while true; do sleep 1; done"],
    "entrypoint": None,
    "state": "running",
    "exit_code": 0,
    "created_s": 1000.0,
    "started_s": 1001.0,
    "finished_s": 0.0,
    "labels": {"b": "2", "a": "1"},
    "network": "none",
    "endpoints": [{"network": "none", "address": ""}],
    "ports": [],
    "mounts": ["/a/very/long/path/indeed"],
    "pid": 42,
}


# ---- grammar ----


@pytest.mark.parametrize("command", table.COMMANDS.values(), ids=lambda c: c.name)
def test_every_subcommand_has_help_and_refuses_what_it_does_not_know(command: Command) -> None:
    assert command.help_text().startswith(f"Usage:  docker {command.name}")
    assert parse(command, ["--help"]).help
    with pytest.raises(UsageError, match="--no-such-option"):
        parse(command, ["--no-such-option", "x"])
    flags = [f for flag in command.flags for f in flag.flags]
    assert len(flags) == len(set(flags))


def test_options_stand_anywhere_but_in_exec() -> None:
    logs = parse(table.COMMANDS["logs"], ["-ft", "web", "--tail=5"])
    assert (logs.options, logs.arguments) == ({"follow": True, "timestamps": True, "tail": 5}, ["web"])
    done = parse(table.COMMANDS["exec"], ["-it", "web", "ls", "-l", "--tail"])
    assert done.arguments == ["web", "ls", "-l", "--tail"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["frob"], "'frob' is not a docker command; there are: attach, build, commit, container prune, cp, diff"),
        (["stap", "x"], "did you mean stop"),
        (["pull"], "requires 1 argument"),
        (["stop"], "requires at least 1 argument"),
        (["rename", "a"], "requires 2 arguments, 1 given"),
        (["ps", "x"], "requires 0 arguments"),
        (["ps", "--allx"], "did you mean --all?"),
        (["ps", "--filter", "name"], "expected KEY=VALUE"),
        (["stop", "-t", "soon", "x"], "expected an integer"),
        (["kill", "-s", "NOPE", "x"], "expected a signal"),
        (["update", "x"], "you must provide one or more flags"),
        (["update", "--memory", "much", "x"], "expected a size"),
        (["logs", "--since", "yesterday", "x"], "expected a time such as"),
        (["exec", "--detach-keys", "a", "x", "y"], "a cell is no terminal"),
        (["exec", "x"], "requires a command"),
        (["run"], "requires at least 1 argument"),
        (["run", "--pull", "sometimes", "host", "sh"], "missing, always, never"),
        (["cp", "a", "b"], "expected CONTAINER:PATH on one side"),
        (["cp", "x:/a", "-"], "a cell is no place for an archive"),
        (["cp", "-", "x:/a"], "which a cell's text is not"),
        (["exec", "-d", "x"], "expected a command"),
        (["inspect", "--type", "network", "x"], "expected container"),
    ],
)
def test_what_is_wrong_is_said_with_what_is_right(words: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        table.dispatch(Console(), words)
    assert message in str(caught.value)


def test_run_takes_an_image_and_then_a_command() -> None:
    request, image = parse_run(["-d", "--name", "web", "--memory=64m", "host", "sleep", "-x", "1000"])
    assert (image, request.spec.argv, request.spec.name, request.detach) == (
        "host",
        ("sleep", "-x", "1000"),
        "web",
        True,
    )
    assert request.spec.limits.memory_bytes == 64 << 20
    assert parse_run(["host"])[0].spec.argv == ("sh",)
    assert parse_run(["--", "host", "ls"])[0].spec.argv == ("ls",)
    assert parse_run(["--help"])[0].help


def test_run_names_its_image_once() -> None:
    with pytest.raises(UsageError, match="unknown flag: --image; the image is the first word"):
        parse_run(["--image", "busybox", "host", "true"])


@pytest.mark.parametrize("magic", ["docker", "container"])
def test_help_of_run_shows_its_own_usage(magic: str, capsys: pytest.CaptureFixture[str]) -> None:
    table.dispatch(Console(), ["run", "--help"], magic=magic)
    usage = {"docker": "docker run [OPTIONS] IMAGE", "container": "%container run [OPTIONS] PROGRAM"}[magic]
    first, *lines = capsys.readouterr().out.splitlines()
    assert first.startswith(f"Usage:  {usage}")
    assert any("--memory-swap SIZE" in line for line in lines)
    assert not any("%%container" in line for line in lines)


@pytest.mark.parametrize("ours", [{}, {"version": "versions", "plan": "how"}])
def test_the_overview_is_one_table_that_names_each_once(ours: dict[str, str]) -> None:
    lines = table.overview("container", ours).splitlines()
    rows = [found for line in lines if (found := re.fullmatch(r"  %container (.*?)  +(\S.*)", line))]
    assert len(rows) == len(lines)
    assert len({row.start(2) for row in rows}) == 1
    names = [row[1] for row in rows]
    assert len(names) == len(set(names))
    assert {"run", "ps", "network create", *ours} <= set(names)


# ---- pipes and lines ----


@pytest.mark.parametrize(
    ("line", "words", "pipe"),
    [
        ("inspect web | grep -i pid", ["inspect", "web"], "grep -i pid"),
        ("logs web|tail -1|wc", ["logs", "web"], "tail -1|wc"),
        ("exec web sh -c 'a | b' | cat", ["exec", "web", "sh", "-c", "a | b"], "cat"),
        ('exec web echo "|" \\| x', ["exec", "web", "echo", "|", "|", "x"], ""),
        ("ps --format '{{.Names}}'", ["ps", "--format", "{{.Names}}"], ""),
        ("", [], ""),
    ],
)
def test_pipes(line: str, words: list[str], pipe: str) -> None:
    assert split_line(line)[:2] == (words, pipe)


@pytest.mark.parametrize(
    ("line", "rest", "source", "errors"),
    [
        ("logs web 2>&1 | grep x", "grep x", "", "with the rest"),
        ("logs web 2> /dev/null", "", "", "nowhere"),
        ("save a >> 'my file'", "cat >> 'my file'", "", ""),
        ("load < in.tar", "", "in.tar", ""),
        ("exec -i web sh < 'a b' 2>&1 | wc", "wc", "a b", "with the rest"),
        ("exec web sh -c 'ls 2>&1 > x'", "", "", ""),
    ],
)
def test_what_a_shell_does(line: str, rest: str, source: str, errors: str) -> None:
    found = split_line(line)
    assert (found.rest, found.source, found.errors) == (rest, source, errors)
    assert not {"<", ">", "2", "2>&1", "1>"} & set(found.words)


@pytest.mark.parametrize("line", ["ps |", "exec web 'open", "load <", "save a >", "logs web 2>x", "load < | x"])
def test_broken_lines(line: str) -> None:
    with pytest.raises(UsageError):
        split_line(line)


def test_lines_of_a_cell() -> None:
    assert lines_of("docker ps -a\n\n# no\n$ docker stop x\nrm x") == ["ps -a", "stop x", "rm x"]


def test_names_are_expanded_but_not_in_templates() -> None:
    class Shell:
        def __init__(self) -> None:
            self.user_ns = {"m": 64, "name": "web", "ID": 3}

    assert expand(Shell(), "run -m {m}m $name") == "run -m 64m web"
    assert (
        expand(Shell(), "ps --format '{{.ID}} {{$x := .Names}}' {name}") == "ps --format '{{.ID}} {{$x := .Names}}' web"
    )
    assert expand(Shell(), "exec web sh -c 'echo ${HOME}'") == "exec web sh -c 'echo ${HOME}'"


# ---- ps ----


def test_fields_of_ps() -> None:
    fields = listing.fields(ROW, now=1061.0, truncate=True)
    assert fields["ID"] == "3d837a234188"
    assert fields["Command"] == '"sh -c \'while true; …"'
    assert (fields["Status"], fields["RunningFor"]) == ("Up About a minute", "About a minute ago")
    assert (fields["Labels"], fields["Mounts"]) == ("a=1,b=2", "/a/very/long/p…")
    whole = listing.fields(ROW, now=1061.0, truncate=False)
    assert whole["ID"] == ROW["id"] and whole["Command"].endswith("done'\"")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"state": "paused"}, "Up 9 seconds (Paused)"),
        ({"health": "healthy"}, "Up 9 seconds (healthy)"),
        ({"health": "starting"}, "Up 9 seconds (health: starting)"),
        ({"state": "exited", "exit_code": 137, "finished_s": 1000.0}, "Exited (137) 10 seconds ago"),
        ({"state": "restarting", "exit_code": 1, "finished_s": 1009.0}, "Restarting (1) 1 second ago"),
        ({"state": "created"}, "Created"),
    ],
)
def test_status(change: dict[str, Any], expected: str) -> None:
    assert listing.status({**ROW, **change}, now=1010.0) == expected


def test_filters() -> None:
    other = {**ROW, "id": "a" * 64, "name": "db", "state": "exited", "exit_code": 3, "created_s": 2000.0, "labels": {}}
    rows: list[Any] = [other, ROW]

    def names(*filters: tuple[str, str]) -> list[str]:
        return [row["name"] for row in listing.chosen(rows, list(filters))]

    assert names(("name", "^/w")) == ["web"]
    assert names(("name", "b")) == ["db", "web"]
    assert names(("status", "exited"), ("status", "running")) == ["db", "web"]
    assert names(("label", "a"), ("label", "b=2")) == ["web"]
    assert names(("label", "a"), ("label", "b=3")) == []
    assert names(("exited", "3")) == ["db"]
    assert names(("id", "3d8")) == ["web"]
    assert names(("before", "db")) == ["web"]
    assert names(("since", "web")) == ["db"]
    assert names(("volume", "/a/very/long/path/indeed")) == ["db", "web"]
    for wrong in (("nope", "1"), ("status", "asleep"), ("since", "nobody"), ("name", "(")):
        with pytest.raises(UsageError):
            names(wrong)


def test_columns_are_aligned_as_gos_tabwriter_does() -> None:
    assert tabulate(["NAMES\tSTATUS", "a\tUp", "a_long_name_here\tUp"]) == (
        "NAMES              STATUS\na                  Up\na_long_name_here   Up\n"
    )
    assert tabulate(["A\tB"]) == "A         B\n"


def test_formats() -> None:
    rows = [{"ID": "1", "Names": "a"}, {"ID": "2", "Names": "b"}]
    heads = {"ID": "CONTAINER ID", "Names": "NAMES"}
    assert formatted("{{.ID}}={{.Names}}", rows, heads, "") == "1=a\n2=b\n"
    assert (
        formatted("table {{.Names}}\\t{{.ID}}", rows, heads, "") == "NAMES     CONTAINER ID\na         1\nb         2\n"
    )
    assert formatted("json", rows, heads, "") == '{"ID":"1","Names":"a"}\n{"ID":"2","Names":"b"}\n'
    assert formatted("", rows, heads, "{{.ID}}") == "CONTAINER ID\n1\n2\n"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "Less than a second"),
        (1.9, "1 second"),
        (59.9, "59 seconds"),
        (60, "About a minute"),
        (119, "About a minute"),
        (120, "2 minutes"),
        (3600, "About an hour"),
        (5400, "2 hours"),
        (47 * 3600, "47 hours"),
        (48 * 3600, "2 days"),
        (14 * 86400, "2 weeks"),
        (60 * 86400, "2 months"),
        (730 * 86400, "2 years"),
    ],
)
def test_durations_are_go_units(seconds: float, words: str) -> None:
    assert human_duration(seconds) == words


# ---- stats ----


def sample(cpu_s: float, system_s: float, **more: Any) -> dict[str, Any]:
    values = [1.0, cpu_s, 0, 0, 0, 0, 67108864, 0, 0, 3, 2_000_000, 1_500]
    base = {"id": "a" * 64, "name": "web", "sample": values, "system_s": system_s, "cpus": 2, "network": [1000, 999]}
    return {**base, "memory_limit_bytes": 134217728, "host_memory_bytes": 1 << 33, **more}


def test_fields_of_stats() -> None:
    row = stats.fields(sample(1.0, 100.0), sample(1.5, 102.0), truncate=True)
    assert row == {
        "ID": "a" * 12,
        "Name": "web",
        "Container": "web",
        "CPUPerc": "50.00%",
        "MemUsage": "64MiB / 128MiB",
        "MemPerc": "50.00%",
        "NetIO": "1kB / 999B",
        "BlockIO": "2MB / 1.5kB",
        "PIDs": "3",
    }


def test_a_limit_above_the_hosts_memory_is_the_hosts() -> None:
    row = stats.fields(sample(0, 0), sample(0, 1, memory_limit_bytes=1 << 40), truncate=True)
    assert row["MemUsage"] == "64MiB / 8GiB"
    assert stats.fields(None, sample(0, 1, sample=None), truncate=True)["CPUPerc"] == "0.00%"


# ---- logs, inspect ----


def test_lines_over_several_pieces_and_both_streams() -> None:
    lines = looking.Lines()
    got = [*lines.feed(1.0, 1, b"one\ntw"), *lines.feed(2.0, 2, b"err\n"), *lines.feed(3.0, 1, b"o\nrest \xc3")]
    assert [(line.time_s, line.stream, line.text) for line in got] == [
        (1.0, 1, "one\n"),
        (2.0, 2, "err\n"),
        (1.0, 1, "two\n"),
    ]
    assert [line.text for line in lines.rest()] == ["rest "]


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("1700000000", 1700000000.0),
        ("1700000000.5", 1700000000.5),
        ("2026-01-02T13:23:37Z", 1767360217.0),
        ("2026-01-02T13:23:37.123456789Z", 1767360217.123456),
        ("2026-01-02T14:23:37+01:00", 1767360217.0),
        ("2026-01-02", 1767312000.0),
    ],
)
def test_moments(text: str, moment: float) -> None:
    assert looking.parse_moment(text) == pytest.approx(moment, abs=1e-5)


def test_a_moment_before_now() -> None:
    before = time.time()
    assert before - 90 <= looking.parse_moment("1m30s") <= time.time() - 90


def test_inspect_has_dockers_names() -> None:
    spec = ContainerSpec(
        argv=("sleep", "9"),
        name="web",
        environment=(("A", "0"), ("B", "2"), ("A", "1"), ("B", None)),
        limits=Limits(memory_bytes=64 << 20, nano_cpus=500_000_000, pids_limit=9),
    )
    data = ROW | {
        "spec": spec.to_dict(),
        "argv": ["sleep", "9"],
        "error": "",
        "oom_killed": False,
        "restart_count": 1,
        "remove": False,
        "detached": True,
        "weakened": [],
    }
    shaped = docker_json(data)
    assert (shaped["Path"], shaped["Args"], shaped["Name"]) == ("sleep", ["9"], "/web")
    assert shaped["State"] | {"StartedAt": ""} == {
        "Status": "running",
        "Running": True,
        "Paused": False,
        "Restarting": False,
        "OOMKilled": False,
        "Dead": False,
        "Pid": 42,
        "ExitCode": 0,
        "Error": "",
        "StartedAt": "",
        "FinishedAt": "0001-01-01T00:00:00Z",
    }
    host = shaped["HostConfig"]
    assert (host["Memory"], host["MemorySwap"], host["NanoCpus"], host["PidsLimit"]) == (
        1 << 26,
        1 << 27,
        500_000_000,
        9,
    )
    assert (host["RestartPolicy"], host["NetworkMode"]) == ({"Name": "no", "MaximumRetryCount": 0}, "none")
    assert (shaped["Config"]["Env"], shaped["Config"]["Cmd"]) == (["A=1"], ["sleep", "9"])


def test_events_as_docker_prints_them() -> None:
    event = {
        "time_s": 1.25,
        "action": "die",
        "id": "a" * 64,
        "attributes": {"name": "x", "image": "host", "exitCode": "3"},
    }
    line = looking.event_line(event)
    assert line.endswith(f" container die {'a' * 64} (exitCode=3, image=host, name=x)")
    assert ".250000000" in line
    assert looking.event_message(event)["Actor"]["Attributes"]["exitCode"] == "3"

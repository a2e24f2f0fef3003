"""Notebook cells in containers, without a notebook: the zygote, the channel, what comes back."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import missing

from jupyter_ns import Container, core, namespaces
from jupyter_ns.client import EngineClient, get_client
from jupyter_ns.container import Change
from jupyter_ns.errors import SetupError
from jupyter_ns.frontend.outcome import error_of
from jupyter_ns.namespaces import KINDS
from jupyter_ns.runner import Cell, Run, Sink
from jupyter_ns.runtime.protocol import Kind
from jupyter_ns.spec import ContainerSpec, Limits, Mount

pytestmark = [pytest.mark.usefixtures("zygote"), pytest.mark.needs("overlay")]


class Messages(Sink):
    """Keeps what the cell displays, and answers its questions."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, Any]] = []
        self.prompts: list[str] = []
        self.when_started: Callable[[Container], None] = lambda _: None

    def on_started(self, container: Container) -> None:
        self.when_started(container)

    def on_message(self, kind: str, body: Any) -> None:
        self.messages.append((kind, body))

    def on_input(self, prompt: str, password: bool) -> str:
        self.prompts.append(prompt)
        return "an answer"


def cell(
    source: str, sink: Sink | None = None, cell: dict[str, Any] | None = None, **spec: Any
) -> tuple[Container, Run]:
    """Run a cell to its end."""
    spec = {"workdir": "/", "timeout_seconds": 30.0, **spec}
    run = Run(get_client(), ContainerSpec(python=True, **spec), sink or Sink())
    return run.execute(cell=Cell(source=source, **cell or {})), run


def test_value_and_output() -> None:
    container, _ = cell("print('out')\nimport sys; print('err', file=sys.stderr)\n{'a': [1, 2.5, None]}")
    assert (container.stdout, container.stderr, container.exit_code) == ("out\n", "err\n", 0)
    assert container.value == {"a": [1, 2.5, None]}


def test_its_namespaces() -> None:
    source = (
        "import os\n{n: os.stat(f'/proc/self/ns/{n}').st_ino for n in os.listdir('/proc/self/ns')}, os.getpid(), "
        "os.uname().nodename"
    )
    container, _ = cell(source)
    inodes, pid, hostname = container.value
    ours = namespaces.read()
    own = set() if get_client().facts.rootless else {"user"}
    assert {k.name for k in KINDS if k.proc in inodes and inodes[k.proc] != ours[k.name]} == set(ours) - own
    assert {k: n.container for k, n in container.namespaces.items()} == {
        k.name: inodes[k.proc] for k in KINDS if k.proc in inodes
    }
    assert pid == 1
    assert hostname == container.id[:12]


def test_each_cell_is_a_fresh_interpreter() -> None:
    assert cell("x = 1\nimport random; random.random()")[0].exit_code == 0
    container, _ = cell("'x' in globals()")
    assert container.value is False
    first, second = (cell("import random; random.random()")[0].value for _ in range(2))
    assert first != second


def test_a_cell_collects_its_own_garbage_and_not_the_zygotes() -> None:
    source = """
import gc, weakref
class Node: pass
node = Node(); node.me = node; seen = weakref.ref(node); del node
before = seen() is not None
gc.collect()
(gc.isenabled(), before, seen() is None, len(gc.get_objects()) < gc.get_freeze_count())
"""
    for _ in range(2):  # one that is built on demand, and one that was ready
        assert cell(source)[0].value == (True, True, True, True)
        time.sleep(0.5)


def test_variables_in_and_out() -> None:
    variables = {"given": [1, 2], "text": "ü" * 100_000}
    container, run = cell("result = [*given, len(text)]", cell={"variables": variables, "out": ("result",)})
    assert container.exit_code == 0
    assert run.outputs == {"result": [1, 2, 100_000]}


def test_a_name_that_the_cell_did_not_make() -> None:
    _, run = cell("pass", cell={"out": ("result",)})
    assert "result" in str(run.transfer_error)


def test_exception_and_exit() -> None:
    sink = Messages()
    container, _ = cell("1 / 0", sink)
    assert container.exit_code == 1
    kind, body = sink.messages[-1]
    assert (kind, body["ename"]) == ("error", "ZeroDivisionError")
    assert cell("import sys; sys.exit(4)")[0].exit_code == 4
    assert cell("import os; os._exit(5)")[0].exit_code == 5


def test_input() -> None:
    sink = Messages()
    container, _ = cell("input('question? ')", sink)
    assert container.value == "an answer"
    assert sink.prompts == ["question? "]


@pytest.mark.needs("controller:memory")
def test_out_of_memory_leaves_zygote_and_engine(engine: Callable[[], EngineClient]) -> None:
    pid = engine().pid
    limits = Limits(memory_bytes=128 << 20)
    container, _ = cell("x = []\nwhile True: x.append(bytearray(1 << 20))", limits=limits)
    assert (container.reason, container.exit_code) == ("oom", 137)
    assert cell("1 + 1", limits=limits)[0].value == 2
    assert engine().pid == pid


@pytest.mark.needs("controller:memory")
def test_out_of_memory_in_a_moment_has_a_curve() -> None:
    source = "import time\nheld = b'x' * (32 << 20)\ntime.sleep(0.09)\nheld += b'y' * (1 << 30)"
    container, _ = cell(source, limits=Limits(memory_bytes=64 << 20))
    assert container.reason == "oom"
    curve = [n for n in container.usage.column("memory_bytes") if n is not None]
    assert len(curve) >= 2 and max(curve) >= 32 << 20


def test_timeout() -> None:
    container, _ = cell("while True: pass", timeout_seconds=0.3)
    assert (container.reason, container.exit_code) == ("timeout", 137)


def test_interrupt_is_a_keyboard_interrupt_in_the_cell() -> None:
    sink = Messages()
    sink.on_text = lambda _name, text: "ready" in text and os.kill(os.getpid(), signal.SIGINT)  # type: ignore[method-assign]
    source = "import time\ntry:\n    print('ready')\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    print('caught')"
    started = time.monotonic()
    container, run = cell(source, sink, timeout_seconds=60.0)
    assert container.stdout == "ready\ncaught\n"
    assert run.interrupted and container.exit_code == 0
    assert time.monotonic() - started < 50


def test_files_are_copy_on_write(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("old")
    container, _ = cell(
        "open('new', 'w').write(open('old').read())\nimport os; os.unlink('old')", workdir=str(tmp_path)
    )
    assert container.exit_code == 0
    assert os.listdir(tmp_path) == ["old"]
    assert {Change("A", f"{tmp_path}/new"), Change("D", f"{tmp_path}/old")} <= set(container.changes)


def test_threads_and_processes_of_the_cell_end_with_it() -> None:
    source = (
        "import subprocess, threading, time\n"
        "subprocess.Popen(['sleep', '1000'], stdout=-3, stderr=-3, start_new_session=True)\n"
        "threading.Thread(target=time.sleep, args=(1000,)).start()\n7"
    )
    container, _ = cell(source)
    assert (container.value, container.exit_code) == (7, 0)


def test_garbage_on_the_channel_kills_the_container_only() -> None:
    for garbage in (r"b'\xff' * 100", r"b'\0\0\0\1\xc1'", r"b'\0\0\0\5\x93\xa1x\xc0\x91\x01'"):
        source = (
            f"import os, time\nfor fd in range(3, 6):\n    try: os.write(fd, {garbage})\n    except OSError: pass\n"
        )
        try:
            cell(source + "time.sleep(1)")
        except Exception as e:
            assert type(e).__name__ == "EngineError"
    assert cell("1 + 1")[0].value == 2


FIND_REPORT = """
import os, struct, time
(report,) = [n for n in range(4, 64) if os.path.exists(f"/proc/self/fd/{n}")
             and os.readlink(f"/proc/self/fd/{n}").startswith("pipe")]
"""


def test_a_cell_reads_no_descriptor_of_the_engines() -> None:
    links = cell("import os\n[os.readlink(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd') if int(n) < 4]")[
        0
    ].value
    assert [link.split(":")[0] for link in links] == ["pipe", "pipe", "pipe", "socket"]
    others = cell("import os\n[n for n in os.listdir('/proc/self/fd') if int(n) >= 4]")[0].value
    assert len(others) <= 2, others  # the report pipe, and the listing's own
    assert cell(FIND_REPORT + "os.read(report, 1)")[0].exit_code == 1  # EBADF: it is there to be written


def report(phase: int, step: int) -> str:
    return FIND_REPORT + f"os.write(report, struct.pack('<4i', {phase}, {step}, 0, 0))\n"


def test_a_cell_that_says_it_is_done_ends() -> None:
    began = time.monotonic()
    container, _ = cell(report(core.DONE, 7) + "time.sleep(60)")
    assert (container.exit_code, container.reason) == (7, "exited")
    assert time.monotonic() - began < 30


def mounted(path: Path) -> dict[str, Any]:
    return {"workdir": str(path), "mounts": (Mount(type="bind", source=str(path), destination=str(path)),)}


def test_a_cell_that_says_it_is_done_runs_no_more(tmp_path: Path) -> None:
    """It is killed a little later, and does nothing until then."""
    go_on = "\nwhile True: f.write(b'x')\n"
    cell("f = open('file', 'ab', buffering=0)\n" + report(core.DONE, 0) + go_on, **mounted(tmp_path))
    size = (tmp_path / "file").stat().st_size
    time.sleep(0.1)
    assert (tmp_path / "file").stat().st_size == size


def test_what_a_cell_has_locked_is_free_when_it_has_ended(tmp_path: Path) -> None:
    lock = "import fcntl\nf = open('file', 'w')\nfcntl.flock(f, fcntl.LOCK_EX)\n"
    for _ in range(10):
        cell(lock, **mounted(tmp_path))
        with (tmp_path / "file").open() as f:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_file_in_place_of_the_report_pipe_stays_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "file"
    source = f"import os\nos.closerange(4, 64)\n[os.open({str(file)!r}, os.O_RDWR | os.O_CREAT) for _ in range(8)]\n5"
    container, _ = cell(source, **mounted(tmp_path))
    assert (container.value, container.exit_code, file.read_bytes()) == (5, 0, b"")


@pytest.mark.parametrize("phase", [core.FAILED, core.WAITING, core.RUNNING, 99, -1])
def test_a_cell_that_writes_other_reports_is_not_believed(phase: int) -> None:
    container, _ = cell(report(phase, 1 << 30) + "time.sleep(0.2)\n3")
    assert (container.value, container.exit_code) == (3, 0)
    assert len(container.timings) < 1000


CHANGE_ITS_PROGRAM = """
import os
mode, done = os.stat("/proc/self/exe").st_mode & 0o7777, []
for name, change in {
    "chmod": lambda path: os.chmod(path, mode),
    "utime": os.utime,
    "chown": lambda path: os.chown(path, -1, -1),
    "write": lambda path: open(path, "r+b").close(),
}.items():
    try:
        change("/proc/self/exe")
        done.append(name)
    except OSError:
        pass
done
"""


@pytest.mark.parametrize("userns", ["", "private"])
def test_a_cell_cannot_reach_the_hosts_python_by_its_own_program(userns: str) -> None:
    """CVE-2019-5736: a fork executes nothing inside, so /proc/self/exe is the host's file."""
    facts = get_client().facts
    if userns and (reason := missing(facts, "root") or missing(facts, "private")):
        pytest.skip(reason)
    program = os.path.realpath(sys.executable)
    before = os.stat(program)
    container, _ = cell(CHANGE_ITS_PROGRAM, userns=userns)
    assert (container.value, container.stderr) == ([], "")
    assert os.stat(program).st_ctime_ns == before.st_ctime_ns


def test_preloading_right_after_a_cell_keeps_the_engine(engine: Callable[[], EngineClient]) -> None:
    """The next container is being forked then, and is discarded because it would lack the modules."""
    pid = engine().pid
    for _ in range(10):
        assert cell("1 + 1")[0].value == 2
        engine().send(Kind.PRELOAD, "", ["json"])
    assert (engine().pid, engine().alive) == (pid, True)


@pytest.mark.parametrize("order", [1, -1])
def test_figures_are_prepared_in_the_zygote(order: int, engine: Callable[[], EngineClient]) -> None:
    """A first figure would import these; what a cell sees of matplotlib is as after an import."""
    libraries = ["pandas", "matplotlib.pyplot"][::order]
    for library in libraries:
        pytest.importorskip(library)
    look = """
import sys
assert {"pandas", "matplotlib.pyplot"} <= set(sys.modules)
import matplotlib, matplotlib.pyplot as plt
inline, plotting = "matplotlib_inline.backend_inline", "pandas.plotting._matplotlib"
lazy = {inline, plotting, "matplotlib.backends.backend_agg", "PIL.JpegImagePlugin"}
lazy - set(sys.modules), plt.get_fignums(), dict(matplotlib.rcParams) == dict(matplotlib.rcParamsOrig)
"""
    engine().send(Kind.PRELOAD, "", libraries)
    deadline = time.monotonic() + 60
    while (container := cell(look)[0]).exit_code:  # they are not all there yet
        assert time.monotonic() < deadline
    assert container.value == (set(), [], True)


def test_a_traceback_is_rendered_once() -> None:
    sink = Messages()
    source = """
shell = get_ipython()
render = shell.InteractiveTB.structured_traceback
shell.InteractiveTB.structured_traceback = lambda *args, **options: print("rendered") or render(*args, **options)
1 / 0
"""
    container, _ = cell(source, sink)
    assert (container.stdout, container.exit_code) == ("rendered\n", 1)
    assert [(kind, body["ename"]) for kind, body in sink.messages] == [("error", "ZeroDivisionError")]


def test_the_zygote_has_rendered_a_traceback_with_each_library(engine: Callable[[], EngineClient]) -> None:
    """A first one looks at the file of each module; what a cell sees of it is nothing."""
    library = "sqlite3.dbapi2"
    look = """
import inspect, sys
assert "sqlite3" in sys.modules
left = {name for name in vars(sys) if name.startswith("last_")}
[sys.modules["sqlite3"].__file__ in inspect.modulesbyfile, left]
"""
    engine().send(Kind.PRELOAD, "", [library])
    deadline = time.monotonic() + 60
    while (container := cell(look)[0]).exit_code:  # it is not there yet
        assert time.monotonic() < deadline
    assert container.value == [True, set()]


def test_workdir_that_is_a_file() -> None:
    with pytest.raises(SetupError, match="chdir"):
        cell("1", workdir="/etc/passwd")


@pytest.mark.parametrize(
    ("source", "shown"), [("1", True), ("1;", False), ("1; # as it is", False), ("';'", True), ("1  # ;", True)]
)
def test_a_semicolon_at_the_end_hides_the_result(source: str, shown: bool) -> None:
    sink = Messages()
    cell(source, sink)
    assert [kind for kind, _ in sink.messages] == ["result"] * shown


LOOK_BACK = """\
shell = get_ipython()
history = shell.history_manager
ours = [n for n in shell.user_ns_hidden if n.startswith("_i") or n in ("_", "__", "___", "_exit_code")]
values = {n: globals()[n] for n in ours}
In, Out, history.input_hist_raw, history.db_input_cache, dict(history.output_hist_reprs), values
"""


def test_a_cell_sees_nothing_of_those_that_were_rehearsed() -> None:
    text = LOOK_BACK.rstrip("\n")
    names = {"_ih": ["", text], "_i": "", "_ii": "", "_iii": "", "_i1": text}
    for _ in range(3):  # the later ones in a fork that has waited
        value = cell(LOOK_BACK)[0].value
        assert value == (["", text], {}, ["", text], [(1, text, text)], {}, names)
        time.sleep(0.2)


def test_python_is_the_notebooks() -> None:
    assert cell("import sys; sys.executable, sys.prefix")[0].value == (sys.executable, sys.prefix)


FORK_AFTER_A_PROGRAM = """
import time
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
shell.run_line_magic("load_ext", "jupyter_ns")
shell.user_ns["secret"] = 42
shell.run_line_magic("docker", "run -d --name lives host sleep 1000")
shell.run_cell_magic("container", "--quiet sh", "true")
time.sleep(1)  # a blank stands ready for the next container in new words
shell.run_cell_magic("container", "--quiet --state fork", "print('forked', secret)")
shell.run_line_magic("docker", "ps --format {{.Names}}")
"""


def test_a_fork_of_the_kernel_is_made_of_no_blank() -> None:
    done = subprocess.run([sys.executable, "-c", FORK_AFTER_A_PROGRAM], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[1:] == ["forked", "42", "lives"]


@pytest.mark.parametrize(
    "source",
    [
        "import os\nos.closerange(4, 256)",
        "import os, stat\nfor fd in range(4, 256):\n    try:\n        if stat.S_ISFIFO(os.fstat(fd).st_mode): "
        "os.write(fd, b'x' * 15)\n    except OSError: pass",
    ],
    ids=["closed", "written to"],
)
def test_who_tampers_with_the_report_ends_as_usual(source: str) -> None:
    container, _ = cell(f"{source}\nprint('ok')")
    assert (container.stdout, container.stderr, container.exit_code) == ("ok\n", "", 0)


@pytest.mark.parametrize(
    ("ending", "code", "told"),
    [
        ("", 0, ""),
        ("os._exit(5)", 5, "exit code 5;"),
        ("raise SystemExit(4)", 4, "exit code 4;"),
        ("1 / 0", 125, "has closed descriptor 3"),
        ("print('nobody reads it')", 125, "has closed descriptor 3"),
        ("input()", 125, "has closed descriptor 3"),
        ("display(1)", 125, "has closed descriptor 3"),
        ("1 + 1", 125, "has closed descriptor 3"),
    ],
)
def test_a_cell_that_has_closed_every_descriptor(ending: str, code: int, told: str) -> None:
    """It ends with its own exit code; where something had to be sent, the error says why it could not be."""
    container, _ = cell(f"import os\nos.closerange(0, 4096)\n{ending}")
    error = error_of(container, raise_error=True)
    assert (container.exit_code, container.reason) == (code, "exited")
    assert told in str(error) if told else error is None
    assert cell("1 + 1")[0].value == 2


def test_a_value_that_a_cell_has_cut_off() -> None:
    container, run = cell("import os\nx = 4\nos.closerange(0, 4096)", cell={"out": ("x",)})
    assert run.outputs == {} and "has closed descriptor 3" in str(error_of(container, raise_error=True))


def test_an_end_without_an_exception_is_an_error_too() -> None:
    container, _ = cell("import os\nos._exit(1)")
    assert "exit code 1;" in str(error_of(container, raise_error=True))


def test_no_pipe_of_a_cell_can_keep_the_engine(engine: Callable[[], EngineClient]) -> None:
    """A cell can read what it has written, through /proc/self/fd, before the engine does."""
    pid = engine().pid
    held: dict[str, bool] = {}
    sink = Messages()

    def look(prompt: str, password: bool) -> str:
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with Path(f"/proc/{pid}/fdinfo/{fd}").open() as f:
                flags = next(int(line.split()[1], 8) for line in f if line.startswith("flags:"))
            held[os.readlink(f"/proc/{pid}/fd/{fd}")] = bool(flags & os.O_NONBLOCK)
        return ""

    sink.on_input = look  # type: ignore[method-assign]
    source = (
        "import os\ninput()\n[os.readlink(f'/proc/self/fd/{fd}') for fd in range(64) "
        "if os.path.exists(f'/proc/self/fd/{fd}')]"
    )
    container, _ = cell(source, sink)
    pipes = [name for name in container.value if name.startswith("pipe:") and name in held]
    assert len(pipes) == 3  # its output, its errors, and the report
    assert all(held[name] for name in pipes)


def test_a_larger_pipe_is_read_to_its_end(engine: Callable[[], EngineClient]) -> None:
    pid = engine().pid
    sink = Messages()

    def look_away(prompt: str, password: bool) -> str:
        for seconds, number in ((0.2, signal.SIGSTOP), (1.2, signal.SIGCONT)):
            threading.Timer(seconds, os.kill, (pid, number)).start()
        return ""

    sink.on_input = look_away  # type: ignore[method-assign]
    # It says by itself that it is done, so as to be there still when the engine hears of it.
    done = core.REPORT.pack(core.DONE, 0, 0, 0)
    source = (
        "import fcntl, os, time\ninput()\ntime.sleep(0.6)\nfcntl.fcntl(1, fcntl.F_SETPIPE_SZ, 1 << 20)\n"
        "os.write(1, b'x' * 900_000)\n"
        f"for fd in range(4, 256):\n    try: os.write(fd, {done!r})\n    except OSError: pass\n"
        "time.sleep(1)"
    )
    container, _ = cell(source, sink)
    assert len(container.stdout) == 900_000

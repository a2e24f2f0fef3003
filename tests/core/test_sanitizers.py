"""The core under AddressSanitizer and UndefinedBehaviorSanitizer: its operations, and images that are broken."""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from conftest import skip_or_fail

from jupyter_ns.core.build import ffibuilder
from jupyter_ns.plan.steps import Op, Plan, Step

ROOT = Path(__file__).parents[2]
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g", "-O1")
CC = os.environ.get("CC", "cc")
IMAGES = 4000
S0, N0 = 48, 8
"""Where a step has its first offset and its first number: core.h."""


def compiled(output: Path, *arguments: str) -> None:
    subprocess.run([CC, "-std=gnu11", *SANITIZE, "-o", str(output), *arguments], check=True, capture_output=True)


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the sanitizer's library, which Python has to load first."""
    source = tmp_path_factory.mktemp("probe") / "probe.c"
    source.write_text("int main(void) { return 0; }\n")
    try:
        compiled(source.with_suffix(""), str(source))
        subprocess.run([source.with_suffix("")], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as e:
        skip_or_fail("sanitizers", f"{CC} cannot build with {SANITIZE[0]}: {e}")
    found = subprocess.run([CC, "-print-file-name=libasan.so"], check=True, capture_output=True, text=True)
    if not os.path.isabs(library := found.stdout.strip()):
        skip_or_fail("sanitizers", f"{CC} has no libasan.so, which Python would have to load first")
    return os.path.realpath(library)


@pytest.mark.needs("root", "overlay")
def test_every_operation_and_whole_plans(runtime: str, tmp_path: Path) -> None:
    package = tmp_path / "jupyter_ns"
    ignore = shutil.ignore_patterns("_core*", "__pycache__")
    shutil.copytree(ROOT / "jupyter_ns", package, ignore=ignore)
    wrapper = tmp_path / "wrapper.c"
    ffibuilder.emit_c_code(str(wrapper))
    include, core = sysconfig.get_path("include"), package / "core"
    module = core / "_core.abi3.so"
    compiled(module, "-shared", "-fPIC", f"-I{include}", f"-I{core}", str(wrapper), str(core / "core.c"))
    # Python leaks on purpose. What a child has to say that cannot write to a terminal is in the files.
    options = f"detect_leaks=0:abort_on_error=1:log_path={tmp_path}/said"
    environment = {
        **os.environ,
        "LD_PRELOAD": runtime,
        "ASAN_OPTIONS": options,
        "UBSAN_OPTIONS": f"print_stacktrace=1:{options}",
        "PYTHONPATH": str(tmp_path),
    }
    tests = [str(ROOT / "tests/core/test_ops.py"), str(ROOT / "tests/core/test_fault_injection.py")]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(ROOT),
        "-k",
        "test_ops or default",
        *tests,
    ]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    said = "".join(path.read_text() for path in tmp_path.glob("said.*"))
    assert (done.returncode, said) == (0, ""), done.stdout + done.stderr
    where = "import jupyter_ns.core as c; print(c._core.__file__)"
    asked = subprocess.run([sys.executable, "-c", where], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert asked.stdout.strip() == str(module), asked.stderr


# ---- images ----


@pytest.fixture(scope="module")
def reader(runtime: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("reader") / "read_images"
    compiled(program, str(ROOT / "tests/core/read_images.c"))
    return program


def verdicts(reader: Path, images: list[tuple[int, bytes]]) -> str:
    """Return a digit for each image: 1 if the core accepted it."""
    stream = b"".join(struct.pack("<II", steps, len(image)) + image for steps, image in images)
    done = subprocess.run([reader], input=stream, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


STEPS = (
    Step(Op.FDS, ((("stdin", 0), ("report", 1)),)),
    Step(Op.SETGROUPS, ((1, 2, 3),)),
    Step(Op.SECCOMP, (bytes(32),)),
    Step(Op.WRITE, ("/path", "some data")),
    Step(Op.HOSTNAME, ("a-name",)),
    Step(Op.LINK_UP, ("lo",)),
    Step(Op.MOUNT, ("a", "b", "c", 0, None)),
    Step(Op.EXEC, (("/bin/true", "/usr/bin/true"), ("true", "x"), ("A=1", "B=2"))),
)
IMAGE = Plan(0, STEPS).image({"stdin": 0, "report": 1})


def with_number(step: int, offset: int, form: str, value: int) -> tuple[int, bytes]:
    image = bytearray(IMAGE)
    struct.pack_into(form, image, 64 * step + offset, value)
    return len(STEPS), bytes(image)


def test_what_is_sound_is_accepted(reader: Path) -> None:
    assert verdicts(reader, [(len(STEPS), IMAGE)]) == "1"


def test_each_way_to_be_broken_is_refused(reader: Path) -> None:
    size, lists = len(IMAGE), len(STEPS) - 1
    beyond = [
        with_number(i, S0 + 4 * k, "<I", at) for i in range(len(STEPS)) for k in range(4) for at in (size, 2**32 - 1)
    ]
    counts = [with_number(i, N0, "<q", n) for i in range(5) for n in (size, 2**31, 2**61, 2**62, 2**63 - 1, -1)]
    no_array = [with_number(i, S0, "<I", 0) for i in (0, 1, 2, 4, 5)]
    crooked = [with_number(i, S0, "<I", 64 * len(STEPS) + 1) for i in (0, 1, 2)]
    among_the_steps = [with_number(lists, S0 + 4 * k, "<I", at) for k in range(3) for at in (0, 8, 64, 64 * lists)]
    the_same_twice = [with_number(lists, S0 + 4, "<I", struct.unpack_from("<I", IMAGE, 64 * lists + S0)[0])]
    lengths = [(len(STEPS), IMAGE[:n]) for n in range(size - 1)]
    amounts = [(n, IMAGE) for n in (0, 4097, 2**32 - 1, size // 64 + 1)]
    broken = [*beyond, *counts, *no_array, *crooked, *among_the_steps, *the_same_twice, *lengths, *amounts]
    broken += [(len(STEPS), IMAGE[:-1] + b"x"), (0, b""), (1, b"")]
    assert verdicts(reader, broken) == "0" * len(broken)


def test_thousands_of_damaged_images_are_refused_or_harmless(reader: Path) -> None:
    chance = random.Random(20261124)
    values = (0, 1, 7, 8, 63, 64, 65, len(IMAGE) - 1, len(IMAGE), 2**16, 2**31 - 1, 2**32 - 1)
    images = []
    for _ in range(IMAGES):
        image = bytearray(IMAGE)
        for _ in range(chance.randint(1, 4)):
            if chance.random() < 0.5:
                image[chance.randrange(len(image))] = chance.randrange(256)
            else:
                struct.pack_into("<I", image, 4 * chance.randrange(len(image) // 4 - 1), chance.choice(values))
        end = len(image) if chance.random() < 0.8 else chance.randrange(len(image))
        images.append((chance.choice((len(STEPS), len(STEPS), chance.randrange(1, 12))), bytes(image[:end])))
    answers = verdicts(reader, images)
    assert len(answers) == IMAGES
    assert set(answers) == {"0", "1"}

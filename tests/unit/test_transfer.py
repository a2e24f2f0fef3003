"""Variables go in by one pickle: shared objects stay shared, and what cannot go is named."""

from __future__ import annotations

import pathlib
import pickle
import socket
import subprocess
import sys
import threading
from typing import Any

import pytest

from jupyter_ns.errors import TransferError
from jupyter_ns.transfer import INLINE_BYTES, pack, pack_trusted, unpack, unpack_trusted


def travel(variables: dict[str, object]) -> dict[str, Any]:
    data, buffers = pack(variables)
    return unpack(data, [bytearray(b) for b in buffers])


def test_what_is_shared_between_variables_stays_shared() -> None:
    shared = [1]
    back = travel({"a": shared, "b": {"x": shared}})
    assert back == {"a": [1], "b": {"x": [1]}}
    assert back["a"] is back["b"]["x"]


def test_cycles_and_lambdas_travel() -> None:
    loop: list[Any] = []
    loop.append(loop)
    back = travel({"loop": loop, "f": lambda x: x + 1})
    assert back["loop"][0] is back["loop"]
    assert back["f"](1) == 2


class TestArrays:
    np = pytest.importorskip("numpy")

    def test_a_large_array_is_not_copied_on_the_way(self) -> None:
        array = self.np.zeros(1_000_000)
        data, (buffer,) = pack({"a": array})
        assert len(data) < 2000
        array[7] = 5
        memory = bytearray(buffer)
        back = unpack(data, [memory])["a"]
        assert back[7] == 5
        back[8] = 1
        assert any(memory[64:72])

    @pytest.mark.parametrize("make", [bytes, bytearray, memoryview])
    @pytest.mark.parametrize("size", [10, INLINE_BYTES])
    def test_arrays_are_writable_inside(self, make: Any, size: int) -> None:
        data, buffers = pack({"a": self.np.arange(size)})
        back = unpack(data, [make(b) for b in buffers])["a"]
        back[0] = 9
        assert back[0] == 9

    def test_a_shared_array_stays_shared(self) -> None:
        array = self.np.zeros(100_000)
        back = travel({"a": array, "b": [array]})
        back["a"][0] = 1
        assert back["b"][0][0] == 1

    def test_a_read_only_array_stays_read_only(self) -> None:
        array = self.np.zeros(100_000)
        array.flags.writeable = False
        assert not travel({"a": array})["a"].flags.writeable


_NOTEBOOK = r"""
import pickle, sys
from jupyter_ns.transfer import pack, unpack, pack_trusted, unpack_trusted

factor = 3
table = [1]
def scale(x):
    return helper(x) * factor
def helper(x):
    table.append(x)
    return x
class Animal:
    legs = 4
    def walk(self):
        return self.legs * factor
class Dog(Animal):
    def walk(self):
        return "dog", super().walk()

message = pack({"scale": scale, "table": table, "dog": Dog(), "factor": factor})
if sys.argv[1] == "in":
    sys.stdout.buffer.write(pickle.dumps((message[0], [bytes(b) for b in message[1]])))
else:
    dog = Dog()
    back = unpack_trusted(*pack_trusted({"dog": dog, "scale": scale}))
    factor = 10
    print(type(back["dog"]) is Dog, back["scale"](2))
"""


def run_notebook(tmp_path: pathlib.Path, mode: str) -> bytes:
    script = tmp_path / "notebook.py"
    script.write_text(_NOTEBOOK)
    return subprocess.run([sys.executable, script, mode], env=_env(), capture_output=True, check=True).stdout


def _env() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).parents[2])}


def test_notebook_functions_and_classes_travel_by_value_into_the_cells_namespace(
    tmp_path: pathlib.Path,
) -> None:
    data, buffers = pickle.loads(run_notebook(tmp_path, "in"))
    namespace: dict[str, Any] = {"__name__": "__main__"}
    namespace.update(unpack(data, buffers, namespace))
    assert namespace["dog"].walk() == ("dog", 12)
    exec("factor = 5\nresult = scale(2)", namespace)
    assert namespace["result"] == 10
    assert namespace["table"] == [1, 2]


def test_without_a_namespace_functions_of_one_notebook_share_a_fresh_one(tmp_path: pathlib.Path) -> None:
    data, buffers = pickle.loads(run_notebook(tmp_path, "in"))
    back = unpack(data, buffers)
    assert back["scale"](2) == 6
    assert back["table"] == [1, 2]


def test_a_trusted_value_keeps_its_class_and_leaves_the_notebook_alone(tmp_path: pathlib.Path) -> None:
    assert run_notebook(tmp_path, "out").split() == [b"True", b"6"]


class InteractiveShell:
    """Stands for IPython's, which can no more be pickled."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def get_ipython(self) -> InteractiveShell:
        return self


def test_a_function_with_magics_in_it_finds_the_shell_inside() -> None:
    ipython = pytest.importorskip("IPython")
    assert travel({"get_ipython": InteractiveShell().get_ipython})["get_ipython"] is ipython.get_ipython


class Model:
    def __init__(self, session: object) -> None:
        self.session = session


class Slotted:
    __slots__ = ("inner",)

    def __init__(self, inner: object) -> None:
        self.inner = inner


def _closure(lock: object) -> Any:
    return lambda: lock


def test_each_culprit_is_named_with_where_it_sits_and_why(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "log.txt"
    path.write_text("x")
    lock = threading.Lock()
    with path.open() as text, path.open("rb") as raw, socket.socket() as sock:
        variables = {
            "fine": [1, 2],
            "text": text,
            "raw": {"files": [0, raw]},
            "sock": sock,
            "model": Model({"lock": lock}),
            "slotted": Slotted(lock),
            "gen": (x for x in ()),
            "thread": threading.Thread(),
            "f": _closure(lock),
        }
        with pytest.raises(TransferError) as caught:
            pack(variables)
    lines = dict(line.strip().split(": ", 1) for line in str(caught.value).splitlines()[1:-1])
    assert lines["text"] == f"an open file ({str(path)!r}) cannot leave its process"
    assert lines["raw['files'][1]"].startswith("an open file")
    assert lines["sock"].startswith("a socket")
    assert lines["model.session['lock']"].startswith("a lock")
    assert lines["slotted.inner"].startswith("a lock")
    assert lines["gen"].startswith("a generator")
    assert lines["thread"].startswith("a thread")
    assert lines["f (it uses lock)"].startswith("a lock")
    assert len(lines) == 8
    assert "8 variables" in str(caught.value)
    assert "--state fork" in str(caught.value) and "--in" in str(caught.value)


class Stubborn:
    def __reduce__(self) -> str:
        raise ValueError("not me")


def test_an_object_of_no_known_kind_is_blamed_with_its_own_words() -> None:
    with pytest.raises(TransferError, match=r"a\[0\]: an object of type '.*Stubborn' cannot be pickled: not me"):
        pack({"a": [Stubborn()]})


def test_too_deep_a_value_is_said_to_be_so() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(TransferError, match="nested too deeply"):
        pack({"deep": deep})


class Picky:
    def __reduce__(self) -> tuple[Any, ...]:
        return _explode, ()


def _explode() -> None:
    raise RuntimeError("boom")


def test_what_cannot_be_rebuilt_is_a_transfer_error() -> None:
    data, buffers = pack({"a": Picky()})
    with pytest.raises(TransferError, match="could not be rebuilt: RuntimeError: boom"):
        unpack(data, buffers)
    missing = pickle.dumps({"a": 1}).replace(b"K\x01", b"cno_such_module\nx\n")
    with pytest.raises(TransferError, match=r"module that is missing .*no_such_module"):
        unpack(missing)


def test_trusted_values_travel_and_refusals_name_the_value() -> None:
    data, buffers = pack_trusted(Model([1, len]))
    back = unpack_trusted(data, buffers)
    assert isinstance(back, Model)
    assert back.session == [1, len]
    with pytest.raises(TransferError, match=r"r\.session: a lock"):
        pack_trusted(Model(threading.Lock()), name="r")

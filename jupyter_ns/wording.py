"""What an object is, in plain words, for error messages about values that cannot travel."""

from __future__ import annotations

# Matched by name along the method resolution order, so that nothing has to be imported to ask.
_WORDS: dict[str, str] = {
    "_io._IOBase": "an open file",
    "_socket.socket": "a socket",
    "zmq.sugar.socket.Socket": "a ZeroMQ socket",
    "_thread.lock": "a lock",
    "_thread.RLock": "a lock",
    "threading.Condition": "a condition variable (it holds a lock)",
    "threading.Event": "a threading event (it holds a lock)",
    "threading.Semaphore": "a semaphore (it holds a lock)",
    "_thread._local": "thread-local storage",
    "threading.Thread": "a thread",
    "queue.Queue": "a queue between threads (it holds a lock)",
    "concurrent.futures._base.Executor": "a pool of workers",
    "concurrent.futures._base.Future": "a future (it holds a lock)",
    "multiprocessing.process.BaseProcess": "a process handle",
    "multiprocessing.pool.Pool": "a pool of processes",
    "multiprocessing.synchronize.SemLock": "a lock between processes",
    "multiprocessing.queues.Queue": "a queue between processes",
    "subprocess.Popen": "a running process",
    "_asyncio.Future": "an asyncio future or task",
    "asyncio.events.AbstractEventLoop": "an event loop",
    "builtins.generator": "a generator",
    "builtins.coroutine": "a coroutine",
    "builtins.async_generator": "an asynchronous generator",
    "builtins.frame": "a stack frame",
    "builtins.traceback": "a traceback",
    "builtins.memoryview": "a memoryview (a window on another object's memory)",
    "mmap.mmap": "a memory mapping",
    "weakref.ReferenceType": "a weak reference",
    "sqlite3.Connection": "a database connection",
    "sqlite3.Cursor": "a database cursor",
    "select.epoll": "an epoll handle",
    "ctypes.CDLL": "a loaded C library (ctypes)",
    "_ctypes._CData": "a C object (ctypes)",
    "_cffi_backend._CDataBase": "a C object (cffi)",
    "torch.Tensor": "a tensor handle",
    "ipywidgets.widgets.widget.Widget": "a widget (it lives in the notebook's kernel)",
    "IPython.core.interactiveshell.InteractiveShell": "the IPython shell itself",
    "builtins.function": "a function",
    "builtins.builtin_function_or_method": "a function",
    "builtins.method": "a method",
    "builtins.module": "a module",
    "builtins.type": "a class",
    "enum.Enum": "an enum member",
    "builtins.BaseException": "an exception",
}


def type_name(kind: type) -> str:
    """Name a type as its users write it: ``int``, ``collections.OrderedDict``."""
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def known_kind(obj: object) -> str | None:
    """Say what an object is if it is of a well-known kind, else None.

    Examples
    --------
    >>> known_kind(x for x in ())
    'a generator'
    """
    for cls in type(obj).__mro__:
        words = _WORDS.get(f"{cls.__module__}.{cls.__qualname__}")
        if words:
            return words
    return None


def what_is(obj: object) -> str:
    """Say what an object is: a known kind, else its type.

    Examples
    --------
    >>> what_is(len), what_is(3)
    ('a function', "an object of type 'int'")
    """
    return known_kind(obj) or f"an object of type {type_name(type(obj))!r}"

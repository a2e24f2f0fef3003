"""Which devices a container may use: rules as version 1 writes them, and the program that version 2 runs.

Should: begin with Docker's default set, which lets nodes be made and only harmless ones be opened.
Mustn't: read or write anything; what stands here is data.

Notes
-----
Kernel: admin-guide/cgroup-v1/devices.rst; bpf(2), ``BPF_PROG_TYPE_CGROUP_DEVICE``, Linux 4.15. OCI runtime
specification, "Default Devices"; moby, ``oci/defaults.go``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import NamedTuple

DEFAULT = (
    "c *:* m",  # a node that cannot be opened does no harm
    "b *:* m",
    "c 1:3 rwm",  # null
    "c 1:5 rwm",  # zero
    "c 1:7 rwm",  # full
    "c 1:8 rwm",  # random
    "c 1:9 rwm",  # urandom
    "c 5:0 rwm",  # tty
    "c 5:1 rwm",  # console
    "c 5:2 rwm",  # ptmx
    "c 136:* rwm",  # pts
)
ALL = "a *:* rwm"
"""Takes every rule's place: ``--privileged``."""

_TYPES = {"b": 1, "c": 2}
_ACCESS = {"m": 1, "r": 2, "w": 4}


class Rule(NamedTuple):
    """Devices of one type, ``b`` or ``c``, by number; None stands for all."""

    kind: str
    major: int | None
    minor: int | None
    access: int

    @property
    def text(self) -> str:
        """As devices.allow and devices.list have it."""
        numbers = ":".join("*" if n is None else str(n) for n in (self.major, self.minor))
        return f"{self.kind} {numbers} {''.join(name for name in 'rwm' if self.access & _ACCESS[name])}"


def parse_rules(texts: Iterable[str]) -> tuple[Rule, ...]:
    """Parse rules and merge those of the same devices; the type ``a`` becomes both.

    A request for several kinds of access must be covered by one rule: so does version 1 judge.

    Examples
    --------
    >>> [rule.text for rule in parse_rules(["c 10:229 r", "c 10:229 w", "b *:* m"])]
    ['c 10:229 rw', 'b *:* m']
    """
    found: dict[tuple[str, int | None, int | None], int] = {}
    for text in texts:
        kind, numbers, access = text.split(" ")
        major, minor = (None if n == "*" else int(n) for n in numbers.split(":"))
        bits = sum(_ACCESS[name] for name in set(access))
        for one in "bc" if kind == "a" else kind:
            found[one, major, minor] = found.get((one, major, minor), 0) | bits
    return tuple(Rule(*devices, access) for devices, access in found.items())


def covered(rule: Rule, told: Iterable[str]) -> bool:
    """Whether rules as the kernel lists them allow all that `rule` does.

    Examples
    --------
    >>> rule = parse_rules(["c 10:229 r"])[0]
    >>> covered(rule, ["c 10:* rwm"]), covered(rule, ["c 10:229 w"])
    (True, False)
    """
    return any(
        other.kind == rule.kind
        and other.major in (rule.major, None)
        and other.minor in (rule.minor, None)
        and not rule.access & ~other.access
        for other in parse_rules(told)
    )


# Codes of linux/bpf.h that are needed, and registers.
_LOAD_W, _AND_K, _RSHIFT_K, _MOVE, _MOVE_K = 0x61, 0x54, 0x74, 0xBC, 0xB4
_JUMP_NE_K, _JUMP_NE, _EXIT = 0x56, 0x5E, 0x95
_RESULT, _CONTEXT, _TYPE, _WANTED, _MAJOR, _MINOR = range(6)
_INSTRUCTION = struct.Struct("<BBhi")


def program(rules: Iterable[Rule]) -> bytes:
    """Assemble the BPF program that allows what one of the rules allows, and nothing else.

    Returns
    -------
    bytes
        Instructions of 8 bytes. ``struct bpf_cgroup_dev_ctx`` gives them access and type in one word, major and
        minor number in the next two.

    Examples
    --------
    >>> len(program(parse_rules(["c 1:3 rwm"]))) // 8
    13
    """
    code = [
        _insn(_LOAD_W, _TYPE, _CONTEXT, offset=0),
        _insn(_LOAD_W, _MAJOR, _CONTEXT, offset=4),
        _insn(_LOAD_W, _MINOR, _CONTEXT, offset=8),
        _insn(_MOVE, _WANTED, _TYPE),
        _insn(_RSHIFT_K, _WANTED, value=16),
        _insn(_AND_K, _TYPE, value=0xFFFF),
    ]
    for rule in rules:
        code += _rule_code(rule)
    return b"".join([*code, _insn(_MOVE_K, _RESULT, value=0), _insn(_EXIT)])


def _rule_code(rule: Rule) -> list[bytes]:
    """Return what says yes if the rule fits, and else runs on behind itself."""
    tests = [(_JUMP_NE_K, _TYPE, _TYPES[rule.kind])]
    tests += [(_JUMP_NE_K, reg, n) for reg, n in ((_MAJOR, rule.major), (_MINOR, rule.minor)) if n is not None]
    partial = rule.access != sum(_ACCESS.values())
    length = len(tests) + 3 * partial + 2
    code = [_insn(op, reg, offset=length - at - 1, value=n) for at, (op, reg, n) in enumerate(tests)]
    if partial:
        code.append(_insn(_MOVE, _CONTEXT, _WANTED))
        code.append(_insn(_AND_K, _CONTEXT, value=rule.access))
        code.append(_insn(_JUMP_NE, _CONTEXT, _WANTED, offset=2))
    return [*code, _insn(_MOVE_K, _RESULT, value=1), _insn(_EXIT)]


def _insn(code: int, target: int = 0, source: int = 0, *, offset: int = 0, value: int = 0) -> bytes:
    value = value - 2**32 if value > 0x7FFFFFFF else value
    return _INSTRUCTION.pack(code, target | source << 4, offset, value)

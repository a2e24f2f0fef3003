"""Build an image of a Dockerfile: each ``RUN`` a container of what there is so far, each step a line of history.

Notes
-----
docs.docker.com/reference/dockerfile; the steps, their output and their lines of history are those of Docker's classic
builder, but that a step is a layer here, and no image.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .client import get_client
from .errors import ImageError, UsageError
from .images import building, dockerfile, elsewhere
from .images.base import HOST
from .images.building import SCRATCH, Copy, Unfinished
from .images.commit import apply_changes
from .images.dockerfile import Instruction, substitute
from .images.launch import obtain
from .images.record import hex_of
from .images.store import Store
from .lifecycle import ask
from .runner import Run, Sink
from .spec import ContainerSpec
from .units import parse_duration

DEFAULT_SHELL = ("/bin/sh", "-c")
_FLAGS = {"FROM": {"platform"}, "COPY": {"from", "chown", "chmod", "link"}, "ADD": {"chown", "chmod", "link"}}
_SPANS = {
    "interval": "Interval",
    "timeout": "Timeout",
    "start-period": "StartPeriod",
    "start-interval": "StartInterval",
}


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """What a build is asked for.

    Attributes
    ----------
    text : str
        The Dockerfile's.
    context : str
        The directory that ``COPY`` takes from; empty for none.
    names : tuple of str
        What to call the image.
    arguments : mapping of str to str or None
        ``--build-arg``.
    target : str
        The stage to stop after; empty: the last.
    cached : bool
        Whether steps are taken from images that have them.
    pull : str
        As of `jupyter_ns.images.launch.obtain`.
    labels : tuple of str
        ``NAME=VALUE``.
    """

    text: str
    context: str = ""
    names: tuple[str, ...] = ()
    arguments: Mapping[str, str] = field(default_factory=dict)
    target: str = ""
    cached: bool = True
    pull: str = "missing"
    labels: tuple[str, ...] = ()


@dataclass(slots=True)
class _Stage:
    name: str
    image: Unfinished
    variables: dict[str, str] = field(default_factory=dict)
    """What ``ARG`` has made known here."""
    own_command: bool = False


def build(request: BuildRequest, say: Callable[[str], None], write: Callable[[str, str], None]) -> str:
    """Carry out a Dockerfile; return the image's ID.

    Parameters
    ----------
    request : BuildRequest
        What to build.
    say : callable
        Told of each step, in lines of text.
    write : callable
        Given what a ``RUN`` writes: ``stdout`` or ``stderr``, and the text.

    Raises
    ------
    UsageError
        If the file is wrong; the message names the line.
    ImageError
        If a step fails. The image up to there stays, without a name.
    """
    return _Build(request, say, write).carry_out()


class _Build:
    def __init__(self, request: BuildRequest, say: Callable[[str], None], write: Callable[[str, str], None]) -> None:
        self._request, self._say, self._write = request, say, write
        self._instructions, self._escape = dockerfile.parse(request.text)
        self._globals: dict[str, str] = {}
        self._stages: list[_Stage] = []
        self._used: set[str] = set()
        self._cached = request.cached
        self._author = ""
        self._topmost = ""
        self._passing: list[str] = []

    def carry_out(self) -> str:
        todo = list(self._instructions)
        last = self._check()
        total, step = len(todo), 0
        try:
            while todo:
                instruction = todo.pop(0)
                step += 1
                if instruction.name == "FROM" and len(self._stages) > last:
                    break
                self._say(f"Step {step}/{total} : {_shown(instruction)}")
                try:
                    todo = self._take(instruction) + todo
                except (UsageError, ValueError) as e:
                    raise UsageError(f"{instruction.where}: {e}") from None
                total = max(total, step + len(todo))
        except BaseException:
            self._keep_what_there_is()
            raise
        stage = self._stages[-1]
        if self._request.labels:
            self._describe(stage, "LABEL", " ".join(map(shlex.quote, self._request.labels)))
        identity = str(self._at_store("finish", stage.image, list(self._request.names), self._author))
        self._tidy(identity)
        unused = sorted(set(self._request.arguments) - self._used)
        if unused:
            self._say(f"[Warning] One or more build-args [{' '.join(unused)}] were not consumed")
        return identity

    def _check(self) -> int:
        """Look for what is wrong before anything is begun; return the index of the last stage."""
        first = next((i for i in self._instructions if i.name != "ARG"), self._instructions[-1])
        if first.name != "FROM":
            raise UsageError(
                f"{first.where}: no build stage yet; the first instruction is FROM (scratch: nothing), or ARG"
            )
        stages = [i for i in self._instructions if i.name == "FROM"]
        for instruction in self._instructions:
            known = _FLAGS.get(instruction.name, set())
            unknown = set(instruction.flags) - known if instruction.name != "HEALTHCHECK" else set()
            if unknown:
                accepted = ", ".join(f"--{flag}" for flag in sorted(known)) or "none"
                raise UsageError(f"{instruction.where}: --{min(unknown)} is not supported; accepted: {accepted}")
        names = [_stage_name(stage) for stage in stages]
        target = self._request.target.lower()
        if not target:
            return len(stages) - 1
        if target in names:
            return names.index(target)
        if target.isdecimal() and int(target) < len(stages):
            return int(target)
        raise UsageError(
            f"--target {target}: no such stage; there are: {', '.join(n or str(i) for i, n in enumerate(names))}"
        )

    # ---- the store ----

    def _at_store(self, operation: str, *arguments: Any) -> Any:
        if elsewhere.needed():
            beside = arguments[-1]["engine"] if operation == "add_written" else 0
            return elsewhere.call("build", operation, *arguments, beside=beside)
        return building.OPERATIONS[operation](Store(), *arguments)

    def _image_of(self, stage: _Stage) -> str:
        """Make an image of what there is, for a container to run in."""
        here = Store().image_ids()
        identity = str(self._at_store("finish", stage.image, [], self._author))
        if identity not in here:
            self._passing.append(identity)
        return identity

    def _keep_what_there_is(self) -> None:
        """After a failure: the last image is worth a look, and its layers need not be made again."""
        made = ""
        if self._stages and self._stages[-1].image["layers"] and not self._stages[-1].image["id"]:
            made = self._image_of(self._stages[-1])
            self._say(f" ---> {hex_of(made)[:12]} is what was built so far")
        self._tidy(made)

    def _tidy(self, made: str) -> None:
        """Remove the images of steps: the last has all their layers. Those of earlier stages stay, for other builds."""
        keep = {made, *(self._image_of(stage) for stage in self._stages[:-1] if stage.image["layers"])}
        if self._passing:
            get_client("host").sync()  # a container that waits may have one
        for identity in dict.fromkeys(self._passing):
            if identity not in keep:
                self._at_store("forget", identity)

    # ---- steps ----

    def _take(self, instruction: Instruction) -> list[Instruction]:
        """Carry out one instruction; return those that come of it (ONBUILD)."""
        if instruction.name == "FROM":
            return self._from(instruction)
        if not self._stages:
            self._argument(self._globals, instruction.text, {})
            return []
        stage = self._stages[-1]
        match instruction.name:
            case "RUN":
                self._run(stage, instruction)
            case "COPY" | "ADD":
                self._copy(stage, instruction)
            case "ARG":
                self._argument(stage.variables, self._words_of(stage, instruction.text), self._globals)
                self._note(stage, f"/bin/sh -c #(nop)  ARG {instruction.text}")
            case "WORKDIR":
                self._workdir(stage, _one(self._plain(stage, instruction.text)))
            case "CMD" | "ENTRYPOINT":
                self._program(stage, instruction)
            case "SHELL":
                words = _exec_form(instruction.text)
                if words is None:
                    raise UsageError('expected a JSON list of texts: SHELL ["/bin/sh", "-c"]')
                self._set(stage, "Shell", words, f"SHELL [{' '.join(words)}]")
            case "HEALTHCHECK":
                self._set(stage, "Healthcheck", _healthcheck(instruction), f"HEALTHCHECK {instruction.text}")
            case "MAINTAINER":
                self._author = instruction.text
                self._note(stage, f"/bin/sh -c #(nop)  MAINTAINER {instruction.text}")
            case "ONBUILD":
                triggers = [*stage.image["runtime"].get("OnBuild", []), instruction.text]
                dockerfile.parse(instruction.text)
                self._set(stage, "OnBuild", triggers, f"ONBUILD {instruction.text}")
            case name:
                self._describe(stage, name, self._described(stage, name, instruction.text))
        return []

    def _described(self, stage: _Stage, name: str, text: str) -> str:
        if name in ("ENV", "LABEL"):  # pairs; the old form `ENV NAME the rest` has no quotes
            return substitute(text, self._variables(stage), self._escape, quoted="=" in text.split()[0])
        return text if text.startswith("[") else " ".join(self._plain(stage, text))

    def _from(self, instruction: Instruction) -> list[Instruction]:
        words = substitute(instruction.text, self._globals, self._escape, quoted=False).split()
        if not (len(words) == 1 or (len(words) == 3 and words[1].lower() == "as")):
            raise UsageError(f"{instruction.text}: expected IMAGE [AS NAME]")
        name = words[0]
        stage = next((s for s in self._stages if s.name and s.name == name.lower()), None)
        image = dict(stage.image) if stage is not None else self._begin(name, instruction)
        triggers = image["runtime"].get("OnBuild") or []
        image["runtime"] = {k: v for k, v in image["runtime"].items() if k != "OnBuild"}
        self._stages.append(_Stage(words[2].lower() if len(words) == 3 else "", image))
        self._cached = self._request.cached
        self._say_layer(self._stages[-1])
        return [i for text in triggers for i in dockerfile.parse(text)[0]]

    def _begin(self, name: str, instruction: Instruction | None = None) -> Unfinished:
        if name not in (SCRATCH, HOST):
            platform = instruction.flags.get("platform", [""])[-1] if instruction is not None else ""
            name = obtain(Store(), name, pull=self._request.pull, platform=platform, say=self._say).id
        begun: Unfinished = self._at_store("begin", name)
        return begun

    def _run(self, stage: _Stage, instruction: Instruction) -> None:
        runtime = stage.image["runtime"]
        exec_form = _exec_form(instruction.text)
        script = instruction.text if instruction.script is None else instruction.script
        if instruction.script is not None and script.startswith("#!"):
            raise UsageError("a here-document that begins with #! is not supported; RUN sh <<EOF names its program")
        argv = exec_form or [*(runtime.get("Shell") or DEFAULT_SHELL), script]
        shown = " ".join(argv)
        given = [f"{k}={v}" for k, v in sorted(stage.variables.items())]
        created_by = f"|{len(given)} {' '.join(given)} {shown}" if given else shown
        before = self._at_store("found", stage.image, created_by) if self._cached else None
        if before is not None:
            stage.image = before
            self._say(" ---> Using cache")
        else:
            self._cached = False
            stage.image = self._run_anew(stage, tuple(argv), created_by)
        self._say_layer(stage)

    def _run_anew(self, stage: _Stage, argv: tuple[str, ...], created_by: str) -> Unfinished:
        client = get_client("host")
        runtime, image = stage.image["runtime"], HOST
        if stage.image["layers"]:
            image = stage.image["id"] or self._image_of(stage)
        elif stage.image["base"] != HOST:
            raise UsageError("there is nothing in the image yet that could run; FROM scratch begins with COPY or ADD")
        environment = {**stage.variables, **dict(e.partition("=")[::2] for e in runtime.get("Env") or [])}
        spec = ContainerSpec(
            argv=argv,
            image=image,
            entrypoint="",
            workdir=str(runtime.get("WorkingDir") or "/"),
            user=str(runtime.get("User") or ""),
            environment=tuple(environment.items()),
        )
        run = Run(client, spec, _Output(self._write))
        run.lives(detach=False, remove=False, image=image)
        container = run.container
        try:
            run.execute(stdin=b"")
            if container.exit_code:
                raise ImageError(
                    f"The command '{' '.join(argv)}' returned a non-zero code: {container.exit_code}"
                    + ("" if container.reason == "exited" else f" ({container.reason})")
                )
            files = ask("files", of=container.id)
            del files["request"]
            made: Unfinished = self._at_store("add_written", stage.image, created_by, files)
        finally:
            if container.id:
                ask("remove", of=container.id, force=True)
        return made

    def _copy(self, stage: _Stage, instruction: Instruction) -> None:
        words = _exec_form(substitute(instruction.text, self._variables(stage), self._escape, quoted=False))
        words = words or self._plain(stage, instruction.text)
        if len(words) < 2:
            raise UsageError(f"{instruction.text}: expected SOURCE… DESTINATION")
        *patterns, destination = words
        if instruction.name == "ADD" and any("://" in p or p.startswith("git@") for p in patterns):
            raise UsageError(
                "ADD of an address is not supported, for a build here has no network; download it, then COPY"
            )
        flags = {key: "".join(self._plain(stage, values[-1])) for key, values in instruction.flags.items()}
        chmod = flags.get("chmod", "")
        if chmod and not (set(chmod) <= set("01234567") and len(chmod) <= 4):
            raise UsageError(f"--chmod={chmod}: expected an octal number such as 755")
        source = flags.get("from", "")
        if not source and not self._request.context:
            raise UsageError("there is no build context to copy from; name a directory: docker build PATH")
        taken = self._stage_or_image(source) if source else None
        copy = Copy(
            instruction.name, patterns, destination, self._request.context, taken, flags.get("chown", ""), chmod
        )
        stage.image, hit = self._at_store("add_files", stage.image, copy, self._cached)
        self._done(stage, hit)

    def _stage_or_image(self, name: str) -> Unfinished:
        for stage in self._stages[:-1]:
            if stage.name and stage.name == name.lower():
                return stage.image
        if name.isdecimal():
            if int(name) >= len(self._stages) - 1:
                raise UsageError(f"--from={name}: there is no earlier stage of this number")
            return self._stages[int(name)].image
        return self._begin(name)

    def _workdir(self, stage: _Stage, path: str) -> None:
        before = str(stage.image["runtime"].get("WorkingDir") or "/")
        where = os.path.normpath(os.path.join(before, path))
        stage.image["runtime"] = stage.image["runtime"] | {"WorkingDir": where}
        created_by = f"/bin/sh -c #(nop) WORKDIR {where}"
        stage.image, hit = self._at_store("make_directory", stage.image, created_by, self._cached)
        self._done(stage, hit)

    def _program(self, stage: _Stage, instruction: Instruction) -> None:
        words = _exec_form(instruction.text)
        if words is None:
            words = [*(stage.image["runtime"].get("Shell") or DEFAULT_SHELL), instruction.text]
        key = "Cmd" if instruction.name == "CMD" else "Entrypoint"
        if key == "Cmd":
            stage.own_command = True
        elif not stage.own_command:  # a base's Cmd was made for its own Entrypoint
            stage.image["runtime"] = {k: v for k, v in stage.image["runtime"].items() if k != "Cmd"}
        self._set(stage, key, words, f"{instruction.name} {json.dumps(words)}")

    def _argument(self, into: dict[str, str], text: str, outer: Mapping[str, str]) -> None:
        for word in shlex.split(text):
            name, equals, value = word.partition("=")
            if name in self._request.arguments:
                self._used.add(name)
                into[name] = self._request.arguments[name]
            elif equals:
                into[name] = value
            elif name in outer:
                into[name] = outer[name]

    def _describe(self, stage: _Stage, name: str, text: str) -> None:
        runtime = apply_changes(stage.image["runtime"], [f"{name} {text}"])
        stage.image["runtime"] = runtime
        self._note(stage, f"/bin/sh -c #(nop)  {name} {text}")

    def _set(self, stage: _Stage, key: str, value: Any, shown: str) -> None:
        stage.image["runtime"] = stage.image["runtime"] | {key: value}
        self._note(stage, f"/bin/sh -c #(nop)  {shown}")

    def _note(self, stage: _Stage, created_by: str) -> None:
        stage.image, hit = self._at_store("note", stage.image, created_by, self._cached)
        self._done(stage, hit)

    def _done(self, stage: _Stage, hit: bool) -> None:
        self._cached = self._cached and hit
        if hit:
            self._say(" ---> Using cache")
        self._say_layer(stage)

    def _say_layer(self, stage: _Stage) -> None:
        topmost = stage.image["layers"][-1]["diff_id"] if stage.image["layers"] else ""
        if topmost and topmost != self._topmost:
            self._say(f" ---> layer {hex_of(topmost)[:12]}")
        self._topmost = topmost

    # ---- words ----

    def _variables(self, stage: _Stage) -> dict[str, str]:
        environment = dict(e.partition("=")[::2] for e in stage.image["runtime"].get("Env") or [])
        return {**stage.variables, **environment}

    def _words_of(self, stage: _Stage, text: str) -> str:
        return substitute(text, self._variables(stage), self._escape)

    def _plain(self, stage: _Stage, text: str) -> list[str]:
        return shlex.split(self._words_of(stage, text))


class _Output(Sink):
    def __init__(self, write: Callable[[str, str], None]) -> None:
        self._write = write

    def on_text(self, stream: str, text: str) -> None:
        """Pass it on."""
        self._write(stream, text)


def _shown(instruction: Instruction) -> str:
    flags = "".join(f"--{key}={value} " for key, values in instruction.flags.items() for value in values)
    return f"{instruction.name} {flags}{instruction.text}"


def _stage_name(instruction: Instruction) -> str:
    words = instruction.text.split()
    return words[2].lower() if len(words) == 3 else ""


def _exec_form(text: str) -> list[str] | None:
    """Return the words of a JSON list of texts; None where it is none, and so a shell's."""
    with contextlib.suppress(ValueError):
        words = json.loads(text) if text.startswith("[") else None
        if isinstance(words, list) and words and all(isinstance(word, str) for word in words):
            return words
    return None


def _one(words: list[str]) -> str:
    if len(words) != 1:
        raise UsageError(f"{' '.join(words)}: requires exactly one argument")
    return words[0]


def _healthcheck(instruction: Instruction) -> dict[str, Any]:
    kind, _, command = instruction.text.partition(" ")
    if kind.upper() == "NONE":
        return {"Test": ["NONE"]}
    if kind.upper() != "CMD" or not command.strip():
        raise UsageError("expected NONE, or CMD and a command")
    words = _exec_form(command.strip())
    made: dict[str, Any] = {"Test": ["CMD", *words] if words else ["CMD-SHELL", command.strip()]}
    for flag, values in instruction.flags.items():
        if flag == "retries":
            made["Retries"] = int(values[-1])
        elif flag in _SPANS:
            made[_SPANS[flag]] = round(parse_duration(values[-1]) * 1e9)
        else:
            raise UsageError(f"--{flag}: expected one of --retries, {', '.join(f'--{name}' for name in _SPANS)}")
    return made

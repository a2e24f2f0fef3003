"""Reading Dockerfiles, and ``.dockerignore``."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jupyter_ns.errors import UsageError
from jupyter_ns.images.context import Context, ignored
from jupyter_ns.images.dockerfile import Instruction, parse, substitute


def names(text: str) -> list[tuple[str, str]]:
    return [(one.name, one.text) for one in parse(text)[0]]


def test_lines_go_on_comments_do_not_count() -> None:
    text = '# a comment\n\nfrom busybox\nRUN one \\\n   # in the middle\n\n   && two\n  # indented\nCMD ["a",\\\n"b"]'
    assert names(text) == [("FROM", "busybox"), ("RUN", "one    && two"), ("CMD", '["a","b"]')]
    assert [one.line for one in parse(text)[0]] == [3, 4, 9]


def test_another_escape_character() -> None:
    instructions, escape = parse("# syntax=docker/dockerfile:1\n# escape=`\nFROM x\nRUN a `\n b\nRUN c:\\\n")
    assert escape == "`"
    assert [one.text for one in instructions] == ["x", "a  b", "c:\\"]
    assert substitute("`$A $A", {"A": "1"}, "`", quoted=False) == "$A 1"


def test_flags() -> None:
    (_, copy), _ = parse("FROM x\nCOPY --from=0 --chown=a:b --link  a b /c/")
    assert copy == Instruction(2, "COPY", "a b /c/", {"from": ["0"], "chown": ["a:b"], "link": ["true"]})
    assert parse("FROM x\nRUN echo --from=0")[0][1].flags == {}


def test_here_documents() -> None:
    text = "FROM x\nRUN <<EOF\nlet a\n\n# kept\nEOF\nRUN cat <<-'A' <<B > /f\n\tone\n\tA\n two\nB\nUSER 1"
    _, first, second, last = parse(text)[0]
    assert first.script == "let a\n\n# kept\n"
    assert second.script is None
    assert second.text == "cat <<-'A' <<B > /f\n\tone\n\tA\n two\nB"
    assert (last.name, last.line) == ("USER", 12)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no instruction"),
        ("# only a comment", "no instruction"),
        ("FROM x\nFROB y", "line 2: unknown instruction: FROB; there are: ADD ARG"),
        ("FROM x\nRUN", "line 2: RUN requires at least one argument"),
        ("FROM x\nCOPY --from=0", "line 2: COPY"),
        ("FROM x\nRUN <<EOF\nx", "line 2: the here-document has no end; expected a line EOF"),
        ("FROM x\nCOPY <<EOF /f\nx\nEOF", "line 2: COPY: here-documents"),
        ("# escape=x\nFROM x", "escape=x: expected"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("$A-${A}", "1-1"),
        ("$AB${B}", ""),
        ("${B:-x$A} ${B-y} ${E-y} ${E:-z}", "x1 y  z"),
        ("${A:+set} ${B:+set}${E+set}", "set set"),
        ("'$A' \"$A\" \\$A", "'$A' \"1\" $A"),
        ("$$ $ a$", "$$ $ a$"),
    ],
)
def test_variables(text: str, value: str) -> None:
    assert substitute(text, {"A": "1", "E": ""}, quoted=False) == value


@pytest.mark.parametrize("value", ["x y", 'a"b', "a'b", "a\\b", "$A"])
def test_a_value_stays_one_word(value: str) -> None:
    import shlex

    for text in ("k=$V", 'k="$V"'):
        assert shlex.split(substitute(text, {"V": value})) == [f"k={value}"]


def test_ignored_files() -> None:
    spec = ignored("# a comment\n*.log\n!keep.log\n/build/\n**/secret\nsub/*.txt\n!sub/a.txt\n")
    hidden = ["a.log", "build", "build/x", "secret", "a/b/secret", "sub/b.txt"]
    assert [name for name in hidden if not spec.match_file(name)] == []
    assert [name for name in ("keep.log", "sub/a.log", "sub/a.txt", "builder") if spec.match_file(name)] == []


@pytest.fixture
def context(tmp_path: Path) -> Path:
    top = tmp_path / "context"
    (top / "sub/inner").mkdir(parents=True)
    for name in ("a.txt", "b.txt", "c.log", "sub/d.txt", "sub/inner/e.log"):
        (top / name).write_text(name)
    (top / "link").symlink_to("a.txt")
    (top / "out").symlink_to("/etc/passwd")
    (top / "up").symlink_to("../outside")
    (tmp_path / "outside").write_text("secret")
    (top / ".dockerignore").write_text("**/*.log\nsub/inner\n")
    return top


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("a.txt", ["a.txt"]),
        ("/a.txt", ["a.txt"]),
        ("*.txt", ["a.txt", "b.txt"]),
        ("[ab].txt", ["a.txt", "b.txt"]),
        ("sub/*", ["d.txt"]),
        ("c.log", []),
        ("none", []),
        ("link", ["link"]),
        ("out", []),
        ("up", []),
        ("../outside", []),
        ("sub/../../outside", []),
    ],
)
def test_what_a_pattern_means(context: Path, pattern: str, found: list[str]) -> None:
    assert [source.name for source in Context(str(context)).find(pattern)] == found


def test_a_directory_without_what_is_ignored(context: Path) -> None:
    (source,) = Context(str(context)).find(".")
    listed = {entry.relative for entry in source.entries}
    assert listed == {"", ".dockerignore", "a.txt", "b.txt", "link", "out", "sub", "sub/d.txt", "up"}
    assert os.path.islink(next(e.path for e in source.entries if e.relative == "out"))
    (link,) = Context(str(context)).find("link")
    assert Path(link.entries[0].path).read_text() == "a.txt"

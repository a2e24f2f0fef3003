"""Go's templates as ``--format`` has them; expected values are what Go prints."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_ns.errors import UsageError
from jupyter_ns.frontend.commands.templates import render

DATA = {
    "Name": "/web",
    "State": {"Running": True, "Pid": 42, "Error": ""},
    "Config": {"Env": ["A=1", "B=2"], "Labels": {"b": "2", "a.b/c": "1"}, "User": None},
    "Empty": [],
    "Html": "<&>",
    "Mounts": [{"Source": "/a", "RW": True}, {"Source": "/b", "RW": False}],
}


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{.Name}}", "/web"),
        ("{{ .State.Pid }}", "42"),
        ("{{.State.Running}} {{.Config.User}}", "true <no value>"),
        ("{{.Config.Env}}", "[A=1 B=2]"),
        ("{{.Config.Labels}}", "map[a.b/c:1 b:2]"),
        ("{{json .Config.Labels}}", '{"b":"2","a.b/c":"1"}'),
        ("{{json .Html}}", '"<&>"'),
        ("{{.Name | json | len}}", "6"),
        ('{{index .Config.Labels "a.b/c"}}{{index .Config.Labels "none"}}', "1"),
        ("{{index .Config.Env 1}}", "B=2"),
        ('{{join .Config.Env ", "}}', "A=1, B=2"),
        ("{{upper .Name}} {{lower .Name}} {{title .Name}}", "/WEB /web /Web"),
        ('{{index (split .Name "/") 1}}', "web"),
        ("{{range .Config.Env}}<{{.}}>{{end}}", "<A=1><B=2>"),
        ("{{range $i, $e := .Config.Env}}{{$i}}:{{$e}} {{end}}", "0:A=1 1:B=2 "),
        ("{{range $k, $v := .Config.Labels}}{{$k}}={{$v}};{{end}}", "a.b/c=1;b=2;"),
        ("{{range .Empty}}x{{else}}none{{end}}", "none"),
        ("{{range .Mounts}}{{if .RW}}{{.Source}}{{end}}{{end}}", "/a"),
        ("{{range .Mounts}}{{$.Name}}{{.Source}} {{end}}", "/web/a /web/b "),
        ("{{if .State.Error}}bad{{else}}good{{end}}", "good"),
        ("{{if eq .State.Pid 1}}one{{else if eq .State.Pid 42}}answer{{else}}other{{end}}", "answer"),
        ("{{if and .State.Running (not .Empty)}}yes{{end}}", "yes"),
        ("{{with .State}}{{.Pid}}{{end}}{{with .Empty}}x{{else}}-{{end}}", "42-"),
        ("{{$x := .State.Pid}}{{$x}}", "42"),
        ('{{printf "%5d|%-4s|%q|%v" .State.Pid "ab" "c" .State.Running}}', '   42|ab  |"c"|true'),
        ("{{println .Name}}", "/web\n"),
        ("a {{- .Name -}} b", "a/webb"),
        ("{{/* nothing */}}x", "x"),
        ("{{.Name}}\\t{{.State.Pid}}", "/web\t42"),
        ("{{truncate .Name 3}}{{pad .Name 1 2}}|", "/we /web  |"),
        ("{{len .Mounts}} {{gt .State.Pid 41}} {{or .Empty .Name}}", "2 true /web"),
        ("plain", "plain"),
    ],
)
def test_rendered(template: str, expected: str) -> None:
    assert render(template, DATA) == expected


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{.Nam}}", "no field 'Nam'; there are: Name, State"),
        ("{{.Name.x}}", "there is no field in '/web'"),
        ("{{.Name", "every {{ to be closed"),
        ("{{if .Name}}x", "no {{end}}"),
        ("{{end}}", "{{end}} without a beginning"),
        ("{{range .Empty}}{{else}}{{else}}{{end}}", "{{else}} without a beginning"),
        ("{{frob .Name}}", "no function 'frob'; there are: and, eq"),
        ("{{}}", "expected a field"),
        ("{{.Name .State}}", "expected one field"),
        ("{{$x}}", "no variable $x"),
        ("{{(.Name}}", "every ( to be closed"),
        ("{{len 1}}", "len:"),
    ],
)
def test_refused(template: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        render(template, DATA)
    assert words in str(caught.value)


def test_blocks_are_not_endlessly_deep() -> None:
    with pytest.raises(UsageError, match="inside each other"):
        render("{{if .Name}}" * 1000 + "{{end}}" * 1000, DATA)


@given(st.text(alphabet='{}. |()"$rangeifd,:=-end', max_size=40))
def test_any_text_is_rendered_or_refused(text: str) -> None:
    try:
        render(text, DATA)
    except UsageError:
        pass

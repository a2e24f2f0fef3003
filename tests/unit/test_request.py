"""What is asked of the engine, and that it is asked anew when something of it has changed."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from jupyter_ns.api import parse_words
from jupyter_ns.request import request_for
from jupyter_ns.runtime.protocol import unpack
from jupyter_ns.spec import ContainerSpec, Limits

SPEC = ContainerSpec(argv=("true",), workdir="/")


def asked(spec: ContainerSpec = SPEC, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = unpack(request_for(spec, more))
    return found


def test_the_same_is_packed_once() -> None:
    one, other = (parse_words(["--memory=64m", "true"]).spec for _ in range(2))
    assert request_for(one, {}) is request_for(other, {})
    assert request_for(SPEC, {}) == request_for(ContainerSpec(argv=("true",), workdir="/"), {})


def test_another_spec_is_another_request() -> None:
    limited = ContainerSpec(argv=("true",), workdir="/", limits=Limits(memory_bytes=1 << 20))
    assert asked(limited)["spec"] == asked()["spec"] | {"limits": {"memory_bytes": 1 << 20}}


def test_the_environment_is_that_of_the_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    before = asked()["environ"]
    monkeypatch.setenv("JNS_NEW", "wert \udcff ä")
    assert asked()["environ"] == before | {"JNS_NEW": "wert \udcff ä"}
    monkeypatch.delenv("JNS_NEW")
    assert asked()["environ"] == before


def test_what_is_jupyters_own_stays_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JPY_PARENT_PID", "1")
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "secret")
    assert not {"JPY_PARENT_PID", "JUPYTERHUB_API_TOKEN"} & set(asked()["environ"])


def test_a_directory_that_a_container_would_hide_is_named_once_it_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with TemporaryDirectory(dir="/tmp") as directory:
        later = Path(directory, "later")
        monkeypatch.setattr(sys, "path", [*sys.path, str(later)])
        assert str(later) not in asked()["exposed"]
        later.mkdir()
        assert str(later) in asked()["exposed"]


def test_what_an_image_adds_is_in_it_and_not_kept() -> None:
    assert asked(image={"lower": ["/a"]})["image"] == {"lower": ["/a"]}
    assert "image" not in asked()

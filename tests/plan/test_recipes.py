"""What is kept from one request to the next gives what would be made anew."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_ns.host import HostFacts
from jupyter_ns.namespaces import KINDS
from jupyter_ns.plan.steps import Op
from jupyter_ns.runtime.protocol import pack
from jupyter_ns.runtime.recipes import STAND_IN, Recipe, Recipes

FACTS = HostFacts(
    kernel="6.1.0", arch="x86_64", namespaces={k.name: "" for k in KINDS}, staging=("/mnt",),
    cgroup_mounts=(("", "cgroup2", ""),),
)  # fmt: skip
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=8)
NAME = st.text("ABCPATH_", min_size=1, max_size=5)
WORDS = st.fixed_dictionaries(
    {
        "argv": st.lists(TEXT.filter(bool), min_size=1, max_size=3),
        "environment": st.lists(st.tuples(NAME, st.none() | TEXT), max_size=3),
        "entrypoint": st.none() | st.just("/bin/env"),
    }
)


def get(recipes: Recipes, words: dict[str, Any], environ: dict[str, str], **spec: Any) -> Recipe:
    request = {"spec": {"workdir": "/", **words, **spec}, "environ": environ, "exposed": []}
    return recipes.get(pack(request), lambda _: FACTS, lambda *_: ("/cg/" + STAND_IN,))


@given(WORDS, WORDS, st.dictionaries(NAME, TEXT), st.booleans())
def test_a_recipe_of_a_known_kind_is_as_one_made_anew(
    first: dict[str, Any], second: dict[str, Any], environ: dict[str, str], init: bool
) -> None:
    kept = Recipes()
    before = get(kept, first, {"PATH": "/bin"}, init=init)
    found, anew = get(kept, second, environ, init=init), get(Recipes(), second, environ, init=init)
    assert found.kind == before.kind
    assert found == anew
    fds = {name: 10 + number for number, name in enumerate(("stdin", "stdout", "stderr", "report", "go"))}
    assert found.image_for("c" * 64, fds) == anew.image_for("c" * 64, fds)
    assert found.go_ahead("c" * 64) == anew.go_ahead("c" * 64)
    assert found.fits(before.unfinished()) and before.fits(found.unfinished())


def test_what_is_unfinished_has_no_word_of_its_request() -> None:
    recipe = get(Recipes(), {"argv": ["program-of-one"]}, {"SECRET": "of-one"})
    unfinished = recipe.unfinished()
    assert [s.op for s in unfinished.plan.steps[-2:]] != [Op.SIGNALS, Op.EXEC]
    assert unfinished.plan.steps[-1].op is Op.PLAN
    assert b"of-one" in recipe.go_ahead("c" * 64)
    assert b"of-one" not in unfinished.image_for("c" * 64, dict.fromkeys(recipe.descriptors, 0))


@pytest.mark.parametrize(
    "changes", [{"hostname": "other"}, {"limits": {"memory_bytes": 1 << 26}}, {"workdir": "/usr"}, {"init": True}]
)
def test_what_the_plan_depends_on_is_another_kind(changes: dict[str, Any]) -> None:
    recipes = Recipes()
    one, other = get(recipes, {"argv": ["true"]}, {}), get(recipes, {"argv": ["true"]}, {}, **changes)
    assert one.kind != other.kind
    assert other.fits(one.unfinished()) == ("limits" in changes)  # its limits are its cgroup's, and not the plan's


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"hostname": "other", "domainname": "d", "add_hosts": [["a", "10.0.0.1"]], "dns": ["10.0.0.2"]}, True),
        ({"workdir": "/usr", "init": True, "readonly": True, "sysctls": [["kernel.shmmni", "8"]]}, True),
        ({"cap_drop": ["ALL"], "security_options": ["seccomp=unconfined"], "privileged": True}, True),
        ({"network": "lab"}, True),
        ({"network": "host"}, False),
        ({"without": ["ipc"]}, False),
        ({"time_offset_seconds": 1.0}, False),
        ({"shm_size_bytes": 1 << 20}, False),
    ],
)
def test_the_ground_is_the_same_for_most_kinds(changes: dict[str, Any], same: bool) -> None:
    one, other = (get(Recipes(), {"argv": ["true"]}, {}, **more).plan for more in ({}, changes))
    assert Op.PIVOT_ROOT in [step.op for step in one.steps[: one.ground]]
    assert (one.clone_flags == other.clone_flags and one.steps[: one.ground] == other.steps[: other.ground]) == same

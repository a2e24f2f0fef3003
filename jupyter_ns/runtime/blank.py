"""A child kept ready for a container that nobody has asked for yet: it stands on its ground, and has no limits.

Containers of which one waits, parked, need nothing else. For one of another kind, most of the work does not depend on
the kind: namespaces and cgroups, a root of its own with /proc, /dev and /sys. So a child stands ready that has done
this, for the kind that was last asked for, and waits for the rest of a plan (`Op.PLAN`) that begins with the very same
steps. Nothing has run in it.
"""

from __future__ import annotations

import os

from .. import core
from ..plan import Plan
from ..plan.steps import Op, Step
from ..spec import ContainerSpec
from .inputs import limits_of
from .recipes import Recipe
from .supervised import Supervised

_FOR_THE_REST = Step(Op.PLAN, ("plan",))


def _beginning(recipe: Recipe) -> int:
    """Return how many of a plan's steps a blank carries out: 0 where there is nothing to be had by that.

    All that make the ground; but of an image nothing, for there are many: then up to the tmpfs, with which all begin.
    """
    first = recipe.plan.first_tmpfs()
    if first is None:
        return 0
    return first + 1 if recipe.lower or recipe.above else recipe.plan.ground


def suits(recipe: Recipe) -> bool:
    """Whether a container of this kind may be made of a blank: a program, in a cgroup with no other rules.

    A Python cell has a channel, and a blank none; with ``--state fork`` it is no fork of the zygote either.
    """
    spec, limits = recipe.spec, recipe.spec.limits
    own_rules = spec.cgroup_parent or limits.device_rules or spec.devices or spec.privileged
    more_hierarchies = limits.cpuset_cpus or limits.cpuset_mems or limits.hugetlb
    return bool(_beginning(recipe)) and not (
        spec.python or recipe.remapped or spec.tty or spec.joins or own_rules or more_hierarchies
    )


def recipe_like(recipe: Recipe) -> Recipe:
    """Return the recipe of a blank that begins as this one does."""
    steps = (*recipe.plan.steps[: _beginning(recipe)], _FOR_THE_REST)
    plan = Plan(recipe.plan.clone_flags, steps)
    return Recipe(b"", b"", {}, ContainerSpec(), plan, recipe.exposed, True, recipe.facts, 0)


def begins(blank: Supervised, recipe: Recipe) -> bool:
    """Whether what a blank has done is what this plan begins with."""
    done = blank.plan.steps[:-1]
    return blank.plan.clone_flags == recipe.plan.clone_flags and done == recipe.plan.steps[: len(done)]


def become(blank: Supervised, recipe: Recipe) -> None:
    """Make the container that was asked for of a blank that waits.

    Raises
    ------
    UsageError, UnsupportedError, ImageError, OSError
        As for any container; the blank is to be discarded.
    """
    done = len(blank.plan.steps) - 1
    blank.recipe = recipe
    blank.hold()
    if recipe.uid:
        for fd in (blank.ends.stdin, blank.ends.stdout, blank.ends.stderr):
            os.fchown(fd, recipe.uid, -1)
    blank.state, blank.parked = "building", False
    core.tell(blank.ends.go, recipe.rest(blank.container_id, done))
    blank.cgroup.set(limits_of(recipe.spec, recipe.facts))  # while it builds
    blank.engine.note_guest(blank.cgroup, recipe.spec)

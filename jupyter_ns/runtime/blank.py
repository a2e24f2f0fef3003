"""A child kept ready for a container that nobody has asked for yet: cloned into new namespaces, no more.

Containers of which one waits, parked, need nothing else. For one in new words, making namespaces and cgroups
is a third of the work, and does not depend on the words: so that a child stands ready, in a cgroup without
limits, and waits for its plan (`Op.PLAN`). Nothing has been done in it and nothing has run in it.
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

_FDS = tuple((name, number) for number, name in enumerate(("stdin", "stdout", "stderr", "report", "go")))
_STEPS = (Step(Op.FDS, (_FDS,)), Step(Op.PLAN, ("plan",)))


def fits(recipe: Recipe) -> bool:
    """Whether a container of this kind may be made of a blank: a program, in a cgroup with no other rules.

    A Python cell has a channel, and a blank none; with ``--state fork`` it is no fork of the zygote either.
    """
    spec = recipe.spec
    own_rules = spec.cgroup_parent or spec.limits.device_rules or spec.devices or spec.privileged
    return not (spec.python or recipe.remapped or spec.tty or own_rules)


def recipe_like(recipe: Recipe) -> Recipe:
    """Return the recipe of a blank with the same namespaces."""
    return Recipe(b"", b"", ContainerSpec(), Plan(recipe.plan.clone_flags, _STEPS), (), True, recipe.facts, 0)


def become(blank: Supervised, recipe: Recipe) -> None:
    """Make the container that was asked for of a blank that waits.

    Raises
    ------
    UsageError, UnsupportedError, ImageError, OSError
        As for any container; the blank is to be discarded.
    """
    blank.recipe = recipe
    blank.cgroup.set(limits_of(recipe.spec, recipe.facts))
    blank.engine.note_guest(blank.cgroup, recipe.spec)
    blank.hold()
    if recipe.uid:
        for fd in (blank.ends.stdin, blank.ends.stdout, blank.ends.stderr):
            os.fchown(fd, recipe.uid, -1)
    blank.state, blank.parked = "building", False
    image = recipe.image_for(blank.container_id, dict(_FDS))
    core.tell(blank.ends.go, core.further_plan(image, len(recipe.plan.steps)))

"""What can be kept from one container to the next that is asked for in the same words.

A recipe holds everything about a container that does not depend on its identity: the plan's
image with a stand-in for the container's ID, which has a fixed length and is put in later.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgpack

from ..host import HostFacts
from ..plan import Plan, build_plan
from ..spec import ContainerSpec
from .inputs import resolve_inputs

STAND_IN = "f0e1d2c3b4a5"
"""Twelve hexadecimal digits, where the container's own will be."""
MAX_RECIPES = 64
_FDS_OFFSET = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to make containers of one kind.

    Attributes
    ----------
    key : bytes
        The request, packed.
    spec : ContainerSpec
        What was asked for.
    plan : Plan
        With the stand-in for the ID.
    image : bytes
        Of `plan`, with descriptor numbers that are still to be filled in.
    exposed : tuple of str
        As in `PlanInputs`.
    bare : bool
        As in `PlanInputs`.
    facts : HostFacts
        What `plan` was made from.
    uid : int
        The payload's user ID, as the engine counts.
    lower : tuple of str
        As in `PlanInputs`.
    above : tuple of str
        The layers of an image over the host's own files, topmost first.
    held : tuple of str
        The files whose shared locks keep the image and the volumes from being removed.
    once : bool
        Whether there will be no second container of the kind, for it has a volume of its own, or shares a namespace
        with one that may have ended.
    """

    key: bytes
    spec: ContainerSpec
    plan: Plan
    image: bytes
    exposed: tuple[str, ...]
    bare: bool
    facts: HostFacts
    uid: int
    lower: tuple[str, ...] = ()
    above: tuple[str, ...] = ()
    held: tuple[str, ...] = ()
    once: bool = False

    @property
    def remapped(self) -> bool:
        """Whether the host's root builds it, and then it enters a user namespace: `plan.build`."""
        return self.spec.userns == "private" and not self.facts.rootless

    @property
    def descriptors(self) -> tuple[str, ...]:
        """Names of the descriptors that the plan needs."""
        return tuple(name for name, _ in self.plan.steps[0].args[0])

    @property
    def in_zygote(self) -> bool:
        """Whether a fork of the zygote becomes the container."""
        return self.spec.python and not self.bare

    def image_for(self, container: str, fds: Mapping[str, int]) -> bytes:
        """Put a container's ID and descriptors into the image."""
        image = bytearray(self.image.replace(STAND_IN.encode(), container[:12].encode()))
        # The first step is JNS_FDS; its pairs stand at its s0: see core.h.
        (at,) = _FDS_OFFSET.unpack_from(image, 48)
        for name, number in self.plan.steps[0].args[0]:
            struct.pack_into("<ii", image, at, fds[name], number)
            at += 8
        return bytes(image)


def entering_recipe(spec: ContainerSpec, plan: Plan, exposed: tuple[str, ...], facts: HostFacts, uid: int) -> Recipe:
    """Return the recipe, used once, of a process that enters what is there already."""
    names = dict.fromkeys((name for name, _ in plan.steps[0].args[0]), 0)
    return Recipe(b"", spec, plan, plan.image(names), exposed, False, facts, uid)


class Recipes:
    """Recipes by request, the latest used last; bounded."""

    def __init__(self) -> None:
        self._recipes: OrderedDict[bytes, Recipe] = OrderedDict()

    def get(
        self,
        request: dict[str, Any],
        facts_for: Callable[[ContainerSpec], HostFacts],
        join_files: Callable[[ContainerSpec, bool], tuple[str, ...]],
    ) -> Recipe:
        """Return the recipe for a request.

        Parameters
        ----------
        request : dict
            As the kernel sent it.
        facts_for : callable
            From a spec, what the host can do for it.
        join_files : callable
            From a spec, and whether a fork becomes the container, the files through which a container
            named `STAND_IN` would join its cgroups.

        Raises
        ------
        UsageError, UnsupportedError
            As `resolve_inputs` and `build_plan`.
        """
        key = msgpack.packb(request)
        recipe = self._recipes.get(key)
        if recipe is None:
            spec = ContainerSpec.from_dict(request["spec"])
            facts = facts_for(spec)
            inputs = resolve_inputs(STAND_IN, spec, facts, request)
            inputs = replace(inputs, cgroup_join=join_files(spec, spec.python and not inputs.bare))
            plan = build_plan(spec, facts, inputs)
            names = dict.fromkeys((name for name, _ in plan.steps[0].args[0]), 0)
            recipe = Recipe(
                key,
                spec,
                plan,
                plan.image(names),
                inputs.exposed,
                inputs.bare,
                facts,
                inputs.uid,
                lower=inputs.lower,
                above=inputs.above.get("/", ()),
                held=tuple(request.get("held", ())),
                once="anonymous" in request or bool(spec.joins),
            )
            if recipe.remapped:
                recipe = replace(recipe, uid=facts.private_ids[0] + inputs.uid)
            # These look at files that may change meanwhile, or at a cgroup that may be made anew.
            if not (spec.mounts or spec.user or spec.groups or spec.devices or spec.cgroup_parent):
                self._recipes[key] = recipe
        else:
            self._recipes.move_to_end(key)
        while len(self._recipes) > MAX_RECIPES:
            self._recipes.popitem(last=False)
        return recipe

    def clear(self) -> None:
        """Drop all, because the host has changed."""
        self._recipes.clear()

    def forget(self, key: bytes) -> None:
        """Drop a recipe, because it failed."""
        self._recipes.pop(key, None)

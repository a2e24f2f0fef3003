"""What can be kept from one container to the next that is asked for in the same words.

A recipe holds everything about a container that does not depend on its identity: the plan's
image with a stand-in for the container's ID, which has a fixed length and is put in later.
Requests for programs that differ in `WORDS` only are of one *kind*, whose plans differ in their last step.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from .. import core
from ..host import HostFacts
from ..plan import Plan, build_plan
from ..plan.finish import LAST_WAIT, exec_step
from ..plan.steps import Op, Step
from ..spec import ContainerSpec
from .changes import Layer
from .inputs import environment_of, resolve_inputs
from .protocol import pack, unpack

STAND_IN = "f0e1d2c3b4a5"
"""Twelve hexadecimal digits, where the container's own will be."""
WORDS = ("argv", "entrypoint", "environment")
"""What of a spec only the last step of a program's plan depends on, as it does on the notebook's environment."""
LAST_STEPS = 2
"""Of a program's plan: from the last wait on."""
MAX_RECIPES = 64
_FDS_OFFSET = struct.Struct("<I")


@dataclass(frozen=True)
class Recipe:
    """How to make containers of one kind.

    Attributes
    ----------
    key : bytes
        The request, as it came.
    kind : bytes
        The same without `WORDS`, where a program is asked for: until the last wait, all of a kind are built alike.
    request : dict
        The request.
    spec : ContainerSpec
        What was asked for.
    plan : Plan
        With the stand-in for the ID.
    exposed : tuple of str
        As in `PlanInputs`.
    bare : bool
        As in `PlanInputs`.
    facts : HostFacts
        What `plan` was made from.
    uid : int
        The payload's user ID, as the engine counts.
    home : str
        As in `PlanInputs`.
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
    kind: bytes
    request: dict[str, Any]
    spec: ContainerSpec
    plan: Plan
    exposed: tuple[str, ...]
    bare: bool
    facts: HostFacts
    uid: int
    home: str = ""
    lower: tuple[str, ...] = ()
    above: tuple[str, ...] = ()
    held: tuple[str, ...] = ()
    once: bool = False
    _rest: dict[int, bytes] = field(default_factory=dict, init=False, compare=False, repr=False)
    """Images of what is left of the plan at some step, once they were needed."""
    _alike: list[Recipe] = field(default_factory=list, compare=False, repr=False)
    """`unfinished`, once it was needed; recipes of a kind share it."""

    @cached_property
    def remapped(self) -> bool:
        """Whether the host's root builds it, and then it enters a user namespace: `plan.build`."""
        return self.spec.userns == "private" and not self.facts.rootless

    @cached_property
    def descriptors(self) -> tuple[str, ...]:
        """Names of the descriptors that the plan needs."""
        return tuple(name for name, _ in self.plan.steps[0].args[0])

    @cached_property
    def in_zygote(self) -> bool:
        """Whether a fork of the zygote becomes the container."""
        return self.spec.python and not self.bare

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The upper directories, and the paths of the overlays that they belong to."""
        if self.lower:
            return (Layer("u0", "/"),)
        submounts = self.facts.submounts
        overlaid = {s.path for s in submounts if s.how == "overlay"}
        overlaid |= {path for path in self.exposed if not self.facts.bound(path)}
        paths = enumerate([*(s.path for s in submounts), *self.exposed], start=1)
        return Layer("u0", "/"), *(Layer(f"u{i}", path) for i, path in paths if path in overlaid)

    @cached_property
    def made(self) -> frozenset[str]:
        """Directories and files made in an empty root, for the host's to be mounted on."""
        return frozenset(e.path for e in self.facts.root_entries if e.kind != "link")

    @cached_property
    def built(self) -> dict[str, Any]:
        """What `collect_changes` needs to know of what building a container did to its layers."""
        first_ids = self.facts.private_ids[:2] if self.remapped else (0, 0)
        destinations = frozenset(m.destination for m in self.spec.mounts)
        if self.lower:
            return {"own": destinations, "first_ids": first_ids}
        # A link that stands there is compared with the host's: it can be replaced, what is mounted on cannot.
        standing = frozenset(e.path for e in self.facts.root_entries)
        return {"own": self.made | destinations, "standing": standing, "first_ids": first_ids}

    @cached_property
    def _last_wait(self) -> int:
        """Index of the step at which a program's container waits to be wanted; 0 for a cell, which is no program."""
        last = len(self.plan.steps) - LAST_STEPS
        return last if last > 0 and self.plan.steps[last] == LAST_WAIT and self.plan.steps[-1].op is Op.EXEC else 0

    def unfinished(self) -> Recipe:
        """Return the recipe of a container that waits for any request of this kind: with what is left of the plan."""
        if not self._last_wait:
            return self
        if not self._alike:
            done = self.plan.steps[: self._last_wait]
            plan = replace(self.plan, steps=(*done, Step(Op.PLAN, LAST_WAIT.args, why="for what depends on the words")))
            self._alike.append(replace(self, plan=plan, _alike=[]))
        return self._alike[0]

    def fits(self, made: Recipe) -> bool:
        """Whether a container that was built by `made.unfinished` is, so far, what this recipe gives."""
        done = self._last_wait or len(self.plan.steps)
        return made.uid == self.uid and made.plan.steps[:done] == self.plan.steps[:done]

    def go_ahead(self, container: str) -> bytes:
        """Return what a container that was built by `unfinished` is told when it is wanted."""
        return self.rest(container, self._last_wait + 1) if self._last_wait else core.GO

    def rest(self, container: str, first: int) -> bytes:
        """Return what a child is told that has carried out the plan up to the step `first`."""
        if first not in self._rest:
            self._rest[first] = Plan(0, self.plan.steps[first:]).image({})
        image = self._rest[first].replace(STAND_IN.encode(), container[:12].encode())
        return core.further_plan(image, len(self.plan.steps) - first, first)

    @cached_property
    def _whole(self) -> bytes:
        """The plan's image, with numbers of descriptors that are still to be filled in."""
        return self.plan.image(dict.fromkeys(self.descriptors, 0))

    def image_for(self, container: str, fds: Mapping[str, int]) -> bytes:
        """Put a container's ID and descriptors into the image."""
        image = bytearray(self._whole.replace(STAND_IN.encode(), container[:12].encode()))
        # The first step is JNS_FDS; its pairs stand at its s0: see core.h.
        (at,) = _FDS_OFFSET.unpack_from(image, 48)
        for name, number in self.plan.steps[0].args[0]:
            struct.pack_into("<ii", image, at, fds[name], number)
            at += 8
        return bytes(image)


def kind_of(request: dict[str, Any], key: bytes) -> bytes:
    """Return `Recipe.kind` of a request that packs to `key`."""
    spec = request["spec"]
    if spec.get("python"):
        return key
    rest = {k: v for k, v in spec.items() if k not in WORDS}
    return pack(request | {"spec": rest, "environ": None})


def entering_recipe(spec: ContainerSpec, plan: Plan, exposed: tuple[str, ...], facts: HostFacts, uid: int) -> Recipe:
    """Return the recipe, used once, of a process that enters what is there already."""
    return Recipe(b"", b"", {}, spec, plan, exposed, False, facts, uid)


class Recipes:
    """Recipes by request, the latest used last; bounded."""

    def __init__(self) -> None:
        self._recipes: OrderedDict[bytes, Recipe] = OrderedDict()
        self._kinds: OrderedDict[bytes, Recipe] = OrderedDict()

    def get(
        self,
        key: bytes,
        facts_for: Callable[[ContainerSpec], HostFacts],
        join_files: Callable[[ContainerSpec, bool], tuple[str, ...]],
    ) -> Recipe:
        """Return the recipe for a request.

        Parameters
        ----------
        key : bytes
            The request, as the kernel sent it: `jupyter_ns.request.request_for`.
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
        recipe = self._recipes.get(key)
        if recipe is None:
            request = unpack(key)
            kind = kind_of(request, key)
            like = self._kinds.get(kind)
            recipe = self._alike(like, key, request) if like else self._new(key, kind, request, facts_for, join_files)
            spec = recipe.spec
            # These look at files that may change meanwhile, or at a cgroup that may be made anew.
            if not (spec.mounts or spec.user or spec.groups or spec.devices or spec.cgroup_parent):
                self._recipes[key] = self._kinds[kind] = recipe
        for known, asked in ((self._recipes, key), (self._kinds, recipe.kind)):
            if asked in known:
                known.move_to_end(asked)
            while len(known) > MAX_RECIPES:
                known.popitem(last=False)
        return recipe

    @staticmethod
    def _new(
        key: bytes,
        kind: bytes,
        request: dict[str, Any],
        facts_for: Callable[[ContainerSpec], HostFacts],
        join_files: Callable[[ContainerSpec, bool], tuple[str, ...]],
    ) -> Recipe:
        spec = ContainerSpec.from_dict(request["spec"])
        facts = facts_for(spec)
        inputs = resolve_inputs(STAND_IN, spec, facts, request)
        inputs = replace(inputs, cgroup_join=join_files(spec, spec.python and not inputs.bare))
        recipe = Recipe(
            key,
            kind,
            request,
            spec,
            build_plan(spec, facts, inputs),
            inputs.exposed,
            inputs.bare,
            facts,
            inputs.uid,
            home=inputs.home,
            lower=inputs.lower,
            above=inputs.above.get("/", ()),
            held=tuple(request.get("held", ())),
            once="anonymous" in request or bool(spec.joins),
        )
        return replace(recipe, uid=facts.private_ids[0] + inputs.uid) if recipe.remapped else recipe

    @staticmethod
    def _alike(like: Recipe, key: bytes, request: dict[str, Any]) -> Recipe:
        """Return the recipe of another request of a kind that is known: only the program and its words are new."""
        spec = ContainerSpec.from_dict(request["spec"])
        environment = environment_of(STAND_IN, spec, request.get("environ", {}), like.home)
        plan = replace(like.plan, steps=(*like.plan.steps[:-1], exec_step(spec, environment)))
        return replace(like, key=key, request=request, spec=spec, plan=plan)

    def clear(self) -> None:
        """Drop all, because the host has changed."""
        self._recipes.clear()
        self._kinds.clear()

    def forget(self, recipe: Recipe) -> None:
        """Drop a recipe, because it failed."""
        self._recipes.pop(recipe.key, None)
        self._kinds.pop(recipe.kind, None)

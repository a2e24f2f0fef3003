"""Plans: what the core will do, as data. Pure: no I/O and no system call in here."""

from .build import build_plan
from .devices import DeviceNode
from .inputs import PlanInputs
from .steps import Op, Plan, Step

__all__ = ["DeviceNode", "Op", "Plan", "PlanInputs", "Step", "build_plan"]

"""Plans: what the core will do, as data. Pure: no I/O and no system call in here."""

from .build import PlanInputs, build_plan
from .steps import Op, Plan, Step

__all__ = ["Op", "Plan", "PlanInputs", "Step", "build_plan"]

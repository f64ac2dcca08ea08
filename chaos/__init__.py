"""Fault injection for tests: real faults at named points, without a change to the code under test."""

from .kill import KillPoint, KillSwitch, kill_at

__all__ = ["KillPoint", "KillSwitch", "kill_at"]

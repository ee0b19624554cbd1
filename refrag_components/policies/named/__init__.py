"""Policies that a name stands for, one per module: ``late_interaction`` is "late-interaction"."""

"""Learned simulators of a humanoid robot's camera."""

__version__ = "0.1.0"

"""Learned simulators of a humanoid robot's camera."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hwm.interact import make_env
    from hwm.interact.world import evaluate, load
    from hwm.sim.simulate import simulate

__version__ = "0.1.0"
__all__ = ["__version__", "evaluate", "load", "make_env", "simulate"]


def __getattr__(name: str) -> Any:
    """The public names, loaded when they are asked for: what is behind them is heavy, torch first of all."""
    match name:
        case "load":
            from hwm.interact.world import load

            return load
        case "evaluate":
            import hwm.evaluate as room

            return room
        case "make_env":
            from hwm.interact import make_env

            return make_env
        case "simulate":
            from hwm.sim.simulate import simulate

            return simulate
    raise AttributeError(f"module 'hwm' has no attribute {name!r}; it offers {', '.join(__all__)}")


def _evaluate(*given: Any, **options: Any) -> Any:
    """What `hwm.evaluate` does when it is called."""
    from hwm.interact.world import evaluate

    return evaluate(*given, **options)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

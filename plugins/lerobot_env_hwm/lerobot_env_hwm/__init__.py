"""World models of hwm for `lerobot-eval --env.type=hwm`, which imports this package because of its name."""

from importlib.util import find_spec

from lerobot_env_hwm.policies import ForPolicies

__all__ = ["ForPolicies"]

if find_spec("lerobot"):
    from lerobot_env_hwm.configuration import HwmEnv

    __all__ += ["HwmEnv"]

"""Clips of the built-in world in which things that left come back, after a silence: what an event memory is for.

Command:  python -m launch.prepare --config=configs/data/world_returns.py --out=data/returns
          python -m launch.prepare --config=configs/data/world_returns.py:crossing --out=data/crossing
Hardware: 2 CPU cores.
Time:     under two minutes each.
Result:   24-second clips of the plain look. In `crossing` things only come and go, so that half of all phrases are
          about one that comes; of every five that come about two have been there before.
"""

from ml_collections import ConfigDict, config_dict

from configs.data import world


def get_config(kind: str = "") -> ConfigDict:
    """The configuration of `launch.prepare`.

    Args:
      kind: "" for all that happens in the plain look, "crossing" (behind the file's name and a colon) for things that
        only come and go.

    Raises:
      ValueError: there is no such kind.
    """
    if kind not in ("", "crossing"):
        raise ValueError(f"configs/data/world_returns.py:{kind}: there is only `crossing`")
    c = world.get_config()
    c.clip_s = 24.0
    c.clips = 4000 if kind else 2000
    dynamics = c.world.dynamics
    dynamics.update(
        ConfigDict({"returns": 0.6, "quiet_s": (0.0, 8.0), "initial_things": config_dict.placeholder(tuple)})
    )
    if kind:
        dynamics.kinds = ("enters", "leaves")
        dynamics.max_things = 2
        dynamics.initial_things = (0, 1)
        dynamics.busy_gap_s = (1.7, 2.2)
    return c

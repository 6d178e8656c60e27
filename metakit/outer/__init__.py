"""The outer loop: learn what the inner loop starts from and works with.

Each outer step *estimates* the meta-gradient of a batch of tasks, *combines* what its chunks and ranks found, and
*moves* by a stock optimiser. ``Training`` is stepped through, ``fit`` drains it.
"""

from metakit.outer.estimate import direct
from metakit.outer.evolution import Evolution, PersistentEvolution, Truncated
from metakit.outer.fit import fit
from metakit.outer.run import DivergedError, History, Run
from metakit.outer.step import OuterStep
from metakit.outer.training import Training

__all__ = [
    "DivergedError",
    "Evolution",
    "History",
    "OuterStep",
    "PersistentEvolution",
    "Run",
    "Training",
    "Truncated",
    "direct",
    "fit",
]

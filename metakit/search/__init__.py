"""The outer loop over structures: a space, a strategy, and a population that is trained as one batch.

s = strategy.start(space, seed=0);  candidates = s.ask(n);  s.tell(candidates, scores)
"""

from metakit.search.adapters import Optuna, SuccessiveHalving
from metakit.search.architecture import Architecture
from metakit.search.differentiable import Derived, Differentiable
from metakit.search.loop import Result, Search, Trial, compare, run, train
from metakit.search.population import Population
from metakit.search.space import Candidate, Space, log, per_layer
from metakit.search.strategies import CrossEntropy, Evolution, Random, Reinforce

__all__ = [
    "Architecture",
    "Candidate",
    "CrossEntropy",
    "Derived",
    "Differentiable",
    "Evolution",
    "Optuna",
    "Population",
    "Random",
    "Reinforce",
    "Result",
    "Search",
    "Space",
    "SuccessiveHalving",
    "Trial",
    "compare",
    "log",
    "per_layer",
    "run",
    "train",
]

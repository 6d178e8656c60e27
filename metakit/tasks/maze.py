"""Mazes: small worlds seen in pictures, in which it pays to remember where one has been."""

from __future__ import annotations

import dataclasses
import functools

import torch
from torch import Tensor, nn

from metakit.checks import Device, drawing, placed, real, whole
from metakit.contracts import Turn

_MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))  # up, right, down, left
_ROUNDS = 1000


def distances(walls: Tensor, source: Tensor) -> Tensor:
    """Steps of the shortest way from each cell to the source, around the walls; size squared where there is none.

    Arguments:
        walls: ``[T, size, size]``, boolean.
        source: a cell for each maze, ``[T]``, counted row by row.

    Example:
        >>> walls = torch.tensor([[[False, True, False], [False, True, False], [False, False, False]]])
        >>> distances(walls, torch.tensor([0]))[0]
        tensor([[0, 9, 6],
                [1, 9, 5],
                [2, 3, 4]])

    Source: breadth-first search, Moore 1959; here all cells of all mazes at once.
    """
    n_tasks, size, _ = walls.shape
    reached = nn.functional.one_hot(source, size * size).view(n_tasks, size, size).bool()
    found = torch.where(reached, 0, size * size)
    for k in range(1, size * size):
        wide = nn.functional.pad(reached, (1, 1, 1, 1))
        around = wide[:, :-2, 1:-1] | wide[:, 2:, 1:-1] | wide[:, 1:-1, :-2] | wide[:, 1:-1, 2:]
        fresh = around & ~walls & ~reached
        if not bool(fresh.any()):
            break
        found, reached = torch.where(fresh, k, found), reached | fresh
    return found


@dataclasses.dataclass(frozen=True)
class MazeBatch:
    """T mazes of one size, a ``contracts.Worlds``: what ``Mazes`` draws.

    Actions are up, right, down and left; who walks into a wall stays. Seen is a picture of the cells around,
    ``[T, 2, view, view]``: where walls are, all that lies outside among them, and where the goal is.

    Arguments:
        walls: ``[T, size, size]``, boolean, hidden but for the cells around.
        start, goal: a cell of each maze, ``[T]``, counted row by row; no step is longer than one cell.
        view: cells seen across, an odd number: the one stood on is in the middle.
        steps: actions in a trial.
        limit: the most steps in an episode.
        cost: taken from the reward at each step.

    Example:
        >>> corridor = torch.tensor([[[False, False, False]] + 2 * [[True] * 3]])
        >>> worlds = MazeBatch(corridor, torch.tensor([0]), torch.tensor([2]), view=3, steps=7, limit=5, cost=0.0)
        >>> worlds.shortest, worlds.optimum
        (tensor([2]), tensor([3.]))
        >>> state, seen = worlds.begin()
        >>> seen[0, 0]
        tensor([[1., 1., 1.],
                [1., 0., 0.],
                [1., 1., 1.]])
    """

    walls: Tensor
    start: Tensor
    goal: Tensor
    view: int
    steps: int
    limit: int
    cost: float

    @property
    def actions(self) -> int:
        return len(_MOVES)

    @property
    def size(self) -> int:
        """Cells across."""
        return self.walls.shape[-1]

    @functools.cached_property
    def to_goal(self) -> Tensor:
        """Steps of the shortest way to the goal from each cell, counted row by row, ``[T, size * size]``."""
        return distances(self.walls, self.goal).flatten(1)

    @property
    def shortest(self) -> Tensor:
        """Steps of the shortest way from start to goal, ``[T]``."""
        return self.to_goal.gather(1, self.start[:, None])[:, 0]

    @property
    def optimum(self) -> Tensor:
        """The return of a trial of one who knows the maze, ``[T]``: the goal as often as the steps allow."""
        return (self.steps // self.shortest).float() - self.cost * self.steps

    def begin(self) -> tuple[dict[str, Tensor], Tensor]:
        nothing = torch.zeros_like(self.start)
        return {"at": self.start, "k": nothing, "h": nothing}, self._seen(self.start)

    def step(self, state: dict[str, Tensor], action: Tensor) -> tuple[dict[str, Tensor], Turn]:
        now, k, h = state["at"], state["k"], state["h"]
        move, edge = torch.tensor(_MOVES, device=self.device)[action], self.view // 2
        row, column = now // self.size + move[:, 0], now % self.size + move[:, 1]
        free = ~self._walled[self._each, row + edge, column + edge]
        after = torch.where(free, row * self.size + column, now)
        reached = after == self.goal
        done = reached | (h + 1 == self.limit)
        before = self._goals(now, self.steps - k, self.limit - h)
        at, k, h = torch.where(done, self.start, after), k + 1, torch.where(done, 0, h + 1)
        merit = reached.float() + self._goals(at, self.steps - k, self.limit - h) - before
        return {"at": at, "k": k, "h": h}, Turn(reached.float() - self.cost, self._seen(at), done, merit)

    def _goals(self, at: Tensor, left: Tensor, limit: Tensor) -> Tensor:
        """How often the goal can still be reached, ``[T]``, with so many steps left in the trial and in the episode."""
        away = self.to_goal.gather(1, at[:, None])[:, 0]
        near = away <= limit  # who is farther can but wait to be put back
        spare = left - torch.where(near, away, limit)
        return torch.where(spare < 0, 0, near + spare // self.shortest).float()

    def _seen(self, at: Tensor) -> Tensor:
        around, edge = torch.arange(self.view, device=self.device), self.view // 2
        rows = (at // self.size)[:, None, None] + around[:, None]  # of the mazes with an edge around them
        columns = (at % self.size)[:, None, None] + around
        walls = self._walled[self._each[:, None, None], rows, columns]
        row, column = self.goal // self.size + edge, self.goal % self.size + edge
        goal = (rows == row[:, None, None]) & (columns == column[:, None, None])
        return torch.stack([walls, goal], 1).float()

    @functools.cached_property
    def _walled(self) -> Tensor:
        return nn.functional.pad(self.walls, (self.view // 2,) * 4, value=True)

    @property
    def _each(self) -> Tensor:
        return torch.arange(len(self), device=self.device)

    def __len__(self) -> int:
        return len(self.walls)

    def __getitem__(self, index: slice | Tensor) -> MazeBatch:
        return dataclasses.replace(self, walls=self.walls[index], start=self.start[index], goal=self.goal[index])

    def to(self, device: torch.device | str | None) -> MazeBatch:
        tensors = {name: getattr(self, name).to(device) for name in ("walls", "start", "goal")}
        return dataclasses.replace(self, **tensors)

    @property
    def device(self) -> torch.device:
        return self.walls.device

    def numel(self) -> int:
        return self.walls.numel()


@dataclasses.dataclass(frozen=True)
class Mazes:
    """A distribution of mazes: random walls, and a goal that lies out of sight of the start and can be reached.

    An episode ends at the goal, which pays 1, or after ``limit`` steps, and the next begins at the same start: who
    remembers the way is there sooner. Take ``mk.RL2(4, (2, view, view))``, or give it a ``body`` for pictures.

    Arguments:
        size: cells across.
        view: cells seen across, an odd number of at least 3.
        walls: the chance of a cell to be a wall.
        steps: actions in a trial, over as many episodes as fit into it.
        limit: the most steps in an episode.
        cost: taken from the reward at each step.

    Raises:
        TypeError: if a number is not a number.
        ValueError: if a number is out of its range, or the view or the walls leave no place for a goal out of sight.

    Example:
        >>> worlds = Mazes(size=5, view=3).sample(100, seed=0)
        >>> worlds.begin()[1].shape, bool((worlds.shortest >= 2).all())
        (torch.Size([100, 2, 3, 3]), True)

    Source: mazes with a memory kept over episodes, Duan et al. 2016, section 3.3; these small ones are our own.
    """

    size: int = 7
    view: int = 5
    _: dataclasses.KW_ONLY
    walls: float = 0.25
    steps: int = 100
    limit: int = 30
    cost: float = 0.01

    def __post_init__(self) -> None:
        for name, least in (("size", 3), ("view", 3), ("steps", 1), ("limit", 1)):
            object.__setattr__(self, name, whole(name, getattr(self, name), least=least))
        object.__setattr__(self, "walls", real("walls", self.walls, least=0.0, most=1.0))
        object.__setattr__(self, "cost", real("cost", self.cost, least=0.0))
        widest = 2 * min(self.size - 2, self.limit - 1) + 1
        if self.view % 2 == 0 or self.view > widest:
            raise ValueError(
                f"view must be odd and, for a goal out of sight at size {self.size} within {self.limit} steps, at most "
                f"{widest}, got {self.view}. Choose another view, size or limit."
            )

    @property
    def drawn_at_once(self) -> int:
        """Mazes to judge on at once: they are small."""
        return 500

    def sample(
        self,
        n_tasks: int,
        *,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        device: Device = None,
    ) -> MazeBatch:
        """T mazes of one size; randomness as in ``Sinusoids.sample``."""
        n_tasks, generator, place, target = drawing(n_tasks, generator, seed, device)
        walls, start, goal, good = self._drawn(n_tasks, generator, place)
        for _ in range(_ROUNDS):
            if bool(good.all()):
                break
            again = self._drawn(n_tasks, generator, place)
            walls = torch.where(good[:, None, None], walls, again[0])
            start, goal, good = (
                torch.where(good, old, new) for old, new in zip((start, goal, good), again[1:], strict=True)
            )
        else:
            raise ValueError(
                f"hardly any maze has a goal out of sight and within {self.limit} steps, with walls={self.walls}. "
                "Choose fewer walls, a smaller view or a higher limit."
            )
        batch = MazeBatch(walls, start, goal, self.view, self.steps, self.limit, self.cost)
        return placed(batch, target)

    def _drawn(
        self, n_tasks: int, generator: torch.Generator | None, place: torch.device | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Walls, starts and goals, and whether they can be taken."""
        chance = torch.rand(3, n_tasks, self.size**2, generator=generator, device=place)
        free = chance[0] >= self.walls
        start = (chance[1] + free.float()).argmax(1)  # any of the free cells
        walls = ~free.view(n_tasks, self.size, self.size)
        away = distances(walls, start).flatten(1)
        cell, edge = torch.arange(self.size**2, device=chance.device), self.view // 2
        rows, columns = (
            cell // self.size - (start // self.size)[:, None],
            cell % self.size - (start % self.size)[:, None],
        )
        fits = free & (away <= self.limit) & (away < self.size**2) & (torch.maximum(rows.abs(), columns.abs()) > edge)
        return walls, start, (chance[2] + fits.float()).argmax(1), fits.any(1)

"""N-way K-shot tasks from any labelled data, drawn by index on the device that holds them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from metakit.checks import Device, as_device, as_generator, whole
from metakit.data.labelled import LabelledData, as_real
from metakit.tasks.batch import TaskBatch

Augment = Callable[[Tensor, torch.Generator | None], Tensor]


class Episodes:
    """N-way K-shot classification: each task has N classes, K support rows and Q query rows of each.

    Every set of N classes, in every order, is equally likely, and so is every choice of K + Q distinct rows of a
    class; the order of the classes gives the labels 0 to N - 1. Rows come class by class: ``N K`` support rows
    ``[class 0 (K rows), class 1, ...]`` and ``N Q`` query rows likewise.

    Arguments:
        data: ``LabelledData``, or a pair ``(x [n, ...], y [n])`` of tensors.
        ways: classes per task, N.
        shots: support rows per class, K.
        queries: query rows per class, Q.
        within: ``"alphabet"`` draws the classes of a task from one alphabet, each alphabet that has N classes being
            equally likely; ``None`` from all classes.
        drawers: ``"different"`` draws K + Q row numbers for a task, the same for all its classes: row d of a class is
            by drawer d, so the support rows are by K drawers and the query rows by Q others. ``None`` draws the rows of
            each class on their own.
        restyle: makes new classes of old ones: called as ``restyle(x, generator)`` on ``[T N, (K + Q) C, H, W]``, where
            the rows of a class are the channels of one picture, so that a random change is the same for all of them.
        augment: called as ``augment(x, generator)`` on all rows ``[T N (K + Q), ...]`` of a batch; returns as many.

    Raises:
        TypeError: if ``data`` or a count is of another kind.
        ValueError: if there are fewer classes than ways, a class has fewer than shots + queries rows, or
            ``drawers="different"`` is asked of classes with unequal numbers of rows, or ``restyle`` of rows that are no
            pictures.

    Example:
        >>> x, y = torch.rand(60, 1, 8, 8), torch.arange(60) % 6
        >>> tasks = Episodes((x, y), ways=5, shots=1, queries=3)
        >>> batch = tasks.sample(4, seed=0)
        >>> batch.support_x.shape, batch.query_x.shape, batch.support_y[0].tolist(), batch.ways
        (torch.Size([4, 5, 1, 8, 8]), torch.Size([4, 15, 1, 8, 8]), [0, 1, 2, 3, 4], 5)

    Source: O. Vinyals et al., Matching Networks for One Shot Learning, 2016, section 2.2. Different drawers: B. Lake et
    al., Human-level concept learning through probabilistic program induction, 2015, figure 1B. Classes changed into new
    ones: A. Santoro et al., 2016, section 4.1, there by quarter turns.
    """

    def __init__(
        self,
        data: LabelledData | tuple[Tensor, Tensor],
        ways: int,
        shots: int,
        queries: int,
        *,
        within: str | None = None,
        drawers: str | None = None,
        restyle: Augment | None = None,
        augment: Augment | None = None,
    ) -> None:
        if isinstance(data, tuple | list) and len(data) == 2:
            data = LabelledData(*data)
        if not isinstance(data, LabelledData):
            raise TypeError(f"data must be LabelledData or a pair (x, y) of tensors, got {type(data).__name__}.")
        for name, change in (("restyle", restyle), ("augment", augment)):
            if change is not None and not callable(change):
                raise TypeError(f"{name} must be a callable (x, generator) -> x, got {type(change).__name__}.")
        if restyle is not None and data.rows.dim() != 4:
            raise ValueError(f"restyle needs pictures, rows [C, H, W], got rows {list(data.rows.shape[1:])}. Drop it.")
        self.data = data
        self.ways, self.shots, self.queries = whole("ways", ways), whole("shots", shots), whole("queries", queries)
        self.within, self.drawers, self.restyle, self.augment = within, drawers, restyle, augment
        counts = data.counts
        self._check_rows(counts)
        self._check_drawers()
        self._most = int(counts.max())
        self._copies = {data.device: data.rows}
        self._indices = {data.device: (counts.cumsum(0) - counts, counts, self._eligible())}

    def __repr__(self) -> str:
        options = "".join(f", {name}={vars(self)[name]!r}" for name in ("within", "drawers") if vars(self)[name])
        sizes = f"ways={self.ways}, shots={self.shots}, queries={self.queries}"
        return f"Episodes({self.data!r}, {sizes}{options})"

    def sample(
        self,
        n_tasks: int,
        *,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        device: Device = None,
    ) -> TaskBatch:
        """T tasks: ``support_x [T, N K, ...]``, ``support_y [T, N K]``, and the query with N Q rows likewise.

        Arguments:
            n_tasks: number of tasks T.
            generator: source of randomness, on any device.
            seed: a number instead of a generator; neither means torch's default generator.
            device: where the batch shall be; by default where the data are. On the first call for another device the
                data are copied there once and stay.

        Raises:
            TypeError: if ``n_tasks`` or ``seed`` is not a whole number, or ``generator`` is not a generator.
            ValueError: if ``n_tasks`` is below 1, both seed and generator are given, or ``augment`` changed a shape.
        """
        place = self._place(device)
        generator = as_generator(generator, seed, place)
        return self.gather(self.pick(n_tasks, generator=generator), generator=generator, device=place)

    def pick(self, n_tasks: int, *, generator: torch.Generator | None = None) -> Tensor:
        """The tasks as row numbers into ``data.rows``, ``[T, N, K + Q]``, the K support rows of a class first."""
        n_tasks, per_class = whole("n_tasks", n_tasks), self.shots + self.queries
        place = self.data.device if generator is None else generator.device
        starts, counts, homes = self._tables(place)
        keys = _keys(n_tasks, len(self.data), generator, place)
        if homes is not None:
            chosen = torch.randint(len(homes), (n_tasks,), generator=generator, device=place)
            keys.masked_fill_(~homes[chosen], -1.0)
        classes = keys.topk(self.ways).indices  # [T, N]
        rows = 1 if self.drawers else self.ways  # one choice of rows for all classes, or one for each
        keys = _keys(n_tasks * rows, self._most, generator, place)
        if self.data.y is not None:
            beyond = torch.arange(self._most, device=place) >= counts[classes.flatten()].unsqueeze(1)
            keys.masked_fill_(beyond, -1.0)
        places = keys.topk(per_class).indices.view(n_tasks, rows, per_class)
        return places + starts[classes].unsqueeze(-1)

    def gather(self, picks: Tensor, *, generator: torch.Generator | None = None, device: Device = None) -> TaskBatch:
        """The batch of the tasks picked; ``generator`` is handed to ``augment``."""
        place = self._place(device)
        n_tasks, cut = picks.shape[0], self.ways * self.shots
        # Support rows of all classes first, then the query rows: one gather serves both sides.
        sides = (picks[..., : self.shots].flatten(1), picks[..., self.shots :].flatten(1))
        index = torch.cat(sides, dim=1).to(place)
        x = as_real(self._rows_on(place).index_select(0, index.flatten()))
        if self.restyle is not None:
            x = self._restyled(x.unflatten(0, index.shape), self.restyle, generator).flatten(0, 1)
        if self.augment is not None:
            x = _changed(x, "augment", self.augment, generator)
        x = x.unflatten(0, index.shape)
        label = torch.arange(self.ways, device=place)
        support_y, query_y = (
            label.repeat_interleave(rows).expand(n_tasks, -1).contiguous() for rows in (self.shots, self.queries)
        )
        support_x, query_x = x[:, :cut].contiguous(), x[:, cut:].contiguous()
        return TaskBatch.trusted(support_x, support_y, query_x, query_y, ways=self.ways)

    def _restyled(self, x: Tensor, restyle: Augment, generator: torch.Generator | None) -> Tensor:
        """Rows ``[T, N K + N Q, C, H, W]``, all those of a class changed alike."""
        sides = [side.unflatten(1, (self.ways, -1)) for side in x.tensor_split([self.ways * self.shots], 1)]
        classes = torch.cat(sides, 2)  # [T, N, K + Q, C, H, W]
        changed = _changed(classes.flatten(0, 1).flatten(1, 2), "restyle", restyle, generator).view_as(classes)
        return torch.cat([side.flatten(1, 2) for side in changed.tensor_split([self.shots], 2)], 1)

    def _place(self, device: Device) -> torch.device:
        place, home = as_device(device) or self.data.device, self.data.device
        # "cuda" without a number means the card that holds the data, if one does.
        return home if place.index is None and place.type == home.type else place

    def _rows_on(self, place: torch.device) -> Tensor:
        if place not in self._copies:
            self._copies[place] = self.data.rows.to(place)
        return self._copies[place]

    def _tables(self, place: torch.device) -> tuple[Tensor, Tensor, Tensor | None]:
        """First row and number of rows of each class, and which classes each eligible alphabet has, on ``place``."""
        if place not in self._indices:
            starts, counts, homes = self._indices[self.data.device]
            self._indices[place] = (starts.to(place), counts.to(place), None if homes is None else homes.to(place))
        return self._indices[place]

    def _check_rows(self, counts: Tensor) -> None:
        if self.ways > len(self.data):
            raise ValueError(
                f"ways must be at most {len(self.data)}, the number of classes, got {self.ways}. Lower it."
            )
        least = int(counts.argmin())
        if self.shots + self.queries > int(counts[least]):
            raise ValueError(
                f"shots + queries must be at most {int(counts[least])}, the rows of class {self.data.names[least]!r}, "
                f"got {self.shots} + {self.queries}. Lower one."
            )

    def _check_drawers(self) -> None:
        if self.drawers not in (None, "different"):
            raise ValueError(f"drawers must be 'different' or None, got {self.drawers!r}. Use one of these.")
        if self.drawers and self.data.y is not None:
            counts = self.data.counts
            raise ValueError(
                "drawers='different' needs as many rows in every class, row d by drawer d; "
                f"these have {int(counts.min())} to {int(counts.max())}. Drop it."
            )

    def _eligible(self) -> Tensor | None:
        """Which classes belong to each alphabet of at least N classes, ``[alphabets, classes]`` booleans."""
        if self.within is None:
            return None
        if self.within != "alphabet":
            raise ValueError(f"within must be 'alphabet' or None, got {self.within!r}. Use one of these.")
        alphabet = self.data.alphabet
        if alphabet is None:
            raise ValueError("within='alphabet' needs the alphabet of each class; these data know none. Drop it.")
        homes = alphabet.unique()[:, None] == alphabet
        sizes = homes.sum(1)
        if int(sizes.max()) < self.ways:
            raise ValueError(
                f"within='alphabet' needs an alphabet of at least {self.ways} classes; the largest has "
                f"{int(sizes.max())}. Lower ways."
            )
        return homes[sizes >= self.ways]


def _changed(x: Tensor, name: str, change: Augment, generator: torch.Generator | None) -> Tensor:
    changed = change(x, generator)
    if changed.shape != x.shape:
        raise ValueError(f"{name} must keep the shape {list(x.shape)}, got {list(changed.shape)}. Check its return.")
    return changed


def _keys(rows: int, columns: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Random keys whose largest m are m distinct columns, in random order. In float64, so that ties do not occur."""
    return torch.rand(rows, columns, dtype=torch.float64, generator=generator, device=device)

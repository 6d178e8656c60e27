"""N-way K-shot tasks from any labelled data, drawn by index on the device that holds them."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from metakit.checks import Device, as_device, as_generator, choice, whole, whole_span
from metakit.data.labelled import LabelledData, as_real
from metakit.tasks.batch import TaskBatch

Augment = Callable[[Tensor, torch.Generator | None], Tensor]
Count = int | tuple[int, int]
_DRAWERS = ("different", None)


class Episodes:
    """N-way K-shot classification: each task has N classes, K support rows and Q query rows of each.

    Every set of N classes, in every order, is equally likely, and so is every choice of K + Q distinct rows of a
    class; the order of the classes gives the labels 0 to N - 1. Rows come class by class: ``N K`` support rows
    ``[class 0 (K rows), class 1, ...]`` and ``N Q`` query rows likewise. The batch's ``classes`` tell which they were.

    A class of fewer than K + Q rows is left out, which is said once. From ranges each task draws an N and a K of its
    own, uniformly; the batch has room for the largest, and its masks tell which places are taken.

    Arguments:
        data: ``LabelledData``, or a pair ``(x [n, ...], y [n])`` of tensors.
        ways: classes per task, N, or a range ``(low, high)``.
        shots: support rows per class, K, or a range.
        queries: query rows per class, Q.
        within: ``"alphabet"`` draws the classes of a task from one alphabet, each alphabet that has enough classes for
            the largest task being equally likely; ``None`` from all classes.
        drawers: ``"different"`` draws K + Q row numbers for a task, the same for all its classes: row d of a class is
            by drawer d, so the support rows are by K drawers and the query rows by Q others. ``None`` draws the rows of
            each class on their own.
        restyle: makes new classes of old ones: called as ``restyle(x, generator)`` on ``[T N, (K + Q) C, H, W]``, where
            the rows of a class are the channels of one picture, so that a random change is the same for all of them.
        augment: called as ``augment(x, generator)`` on all rows ``[T N (K + Q), ...]`` of a batch; returns as many.

    Raises:
        TypeError: if ``data`` or a count is of another kind, or a change does not take ``(x, generator)``.
        ValueError: if fewer classes than ways have shots + queries rows, ``drawers="different"`` is asked of classes
            with unequal numbers of rows, or ``restyle`` of rows that are no pictures.

    Warns:
        UserWarning: if a class is too small for a task.

    Example:
        >>> x, y = torch.rand(60, 1, 8, 8), torch.arange(60) % 6
        >>> tasks = Episodes((x, y), ways=5, shots=1, queries=3)
        >>> batch = tasks.sample(4, seed=0)
        >>> batch.support_x.shape, batch.query_x.shape, batch.support_y[0].tolist(), batch.ways
        (torch.Size([4, 5, 1, 8, 8]), torch.Size([4, 15, 1, 8, 8]), [0, 1, 2, 3, 4], 5)

    Source: O. Vinyals et al., Matching Networks for One Shot Learning, 2016, section 2.2. Different drawers: B. Lake et
    al., Human-level concept learning through probabilistic program induction, 2015, figure 1B. Classes changed into new
    ones: A. Santoro et al., 2016, section 4.1, there by quarter turns. Ranges: E. Triantafillou et al., Meta-Dataset,
    2020, section 3.2.
    """

    def __init__(
        self,
        data: LabelledData | tuple[Tensor, Tensor],
        ways: Count,
        shots: Count,
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
        _check_change("restyle", restyle)
        _check_change("augment", augment)
        if restyle is not None and data.rows.dim() != 4:
            raise ValueError(f"restyle needs pictures, rows [C, H, W], got rows {list(data.rows.shape[1:])}. Drop it.")
        self.data = data
        self._ways, self._shots = whole_span("ways", ways), whole_span("shots", shots)
        self.ways, self.shots = (low if low == high else (low, high) for low, high in (self._ways, self._shots))
        self.queries = whole("queries", queries)
        self.within, self.drawers = choice("within", within, ("alphabet", None)), choice("drawers", drawers, _DRAWERS)
        self.restyle, self.augment = restyle, augment
        self._varied = self._ways[0] < self._ways[1] or self._shots[0] < self._shots[1]
        counts = data.counts
        self._small, self._most = self._check_counts(counts), int(counts.max())
        self._copies = {data.device: data.rows}
        self._indices = {data.device: (counts.cumsum(0) - counts, counts, self._eligible(counts))}

    def __repr__(self) -> str:
        options = "".join(f", {name}={vars(self)[name]!r}" for name in ("within", "drawers") if vars(self)[name])
        options += f", {self._small} classes too small" if self._small else ""
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
        """The tasks as row numbers into ``data.rows``, ``[T, N, K + Q]``, the K support rows of a class first.

        From ranges, N and K are the largest, and places that a smaller task leaves free hold -1.
        """
        n_tasks, per_class = whole("n_tasks", n_tasks), self._shots[1] + self.queries
        place = self.data.device if generator is None else generator.device
        starts, counts, homes = self._tables(place)
        ways, shots = (_sizes(span, n_tasks, generator, place) for span in (self._ways, self._shots))
        keys = _keys(n_tasks, len(self.data), generator, place)
        if homes is not None:
            chosen = torch.randint(len(homes), (n_tasks,), generator=generator, device=place)
            keys.masked_fill_(~homes[chosen], -1.0)
        if self._small:
            keys.masked_fill_(counts < shots + self.queries, -1.0)
        classes = keys.topk(self._ways[1]).indices  # [T, N]
        rows = 1 if self.drawers else self._ways[1]  # one choice of rows for all classes, or one for each
        keys = _keys(n_tasks * rows, self._most, generator, place)
        if self.data.y is not None:
            beyond = torch.arange(self._most, device=place) >= counts[classes.flatten()].unsqueeze(1)
            keys.masked_fill_(beyond, -1.0)
        places = keys.topk(per_class).indices.view(n_tasks, rows, per_class)
        picks = places + starts[classes].unsqueeze(-1)
        return self._cut(picks, ways, shots) if self._varied else picks

    def _cut(self, picks: Tensor, ways: Tensor | int, shots: Tensor | int) -> Tensor:
        """Picks cut with -1 to each task's own ``ways`` and ``shots``, which are ``[T, 1]`` or one number."""
        picks = picks.roll(-self.queries, -1)  # the first places are sure to be rows: let the queries have them
        row, label = (torch.arange(size, device=picks.device) for size in (picks.shape[2], picks.shape[1]))
        beyond = ((row >= shots) & (row < self._shots[1])).view(-1, 1, len(row))
        return picks.masked_fill(beyond | (label >= ways).view(-1, len(label), 1), -1)

    def gather(self, picks: Tensor, *, generator: torch.Generator | None = None, device: Device = None) -> TaskBatch:
        """The batch of the tasks picked; ``generator`` is handed to ``restyle`` and ``augment``."""
        place, (ways, shots) = self._place(device), (self._ways[1], self._shots[1])
        starts, _, _ = self._tables(picks.device)
        classes = torch.bucketize(picks[..., -1].contiguous(), starts[1:], right=True)
        # Support rows of all classes first, then the query rows: one gather serves both sides.
        index = torch.cat([picks[..., :shots].flatten(1), picks[..., shots:].flatten(1)], dim=1).to(place)
        masks: list[Tensor | None] = [None, None]
        if self._varied:
            classes = classes.masked_fill(picks[..., -1] < 0, -1)
            masks = [side.contiguous() for side in (index >= 0).tensor_split([ways * shots], 1)]
            index = index.clamp(min=0)
        x = as_real(self._rows_on(place).index_select(0, index.flatten()))
        if self.restyle is not None:
            x = self._restyled(x.unflatten(0, index.shape), self.restyle, generator).flatten(0, 1)
        if self.augment is not None:
            x = _changed(x, "augment", self.augment, generator)
        support_x, query_x = (side.contiguous() for side in x.unflatten(0, index.shape).tensor_split([ways * shots], 1))
        label = torch.arange(ways, device=place)
        labels = (label.repeat_interleave(rows).expand(len(picks), -1) for rows in (shots, self.queries))
        support_y, query_y = (
            y.contiguous() if mask is None else y * mask for y, mask in zip(labels, masks, strict=True)
        )
        return TaskBatch.trusted(
            support_x,
            support_y,
            query_x,
            query_y,
            ways=ways,
            support_mask=masks[0],
            query_mask=masks[1],
            classes=classes.to(place),
        )

    def _restyled(self, x: Tensor, restyle: Augment, generator: torch.Generator | None) -> Tensor:
        """Rows ``[T, N K + N Q, C, H, W]``, all those of a class changed alike."""
        ways, shots = self._ways[1], self._shots[1]
        sides = [side.unflatten(1, (ways, -1)) for side in x.tensor_split([ways * shots], 1)]
        classes = torch.cat(sides, 2)  # [T, N, K + Q, C, H, W]
        changed = _changed(classes.flatten(0, 1).flatten(1, 2), "restyle", restyle, generator).view_as(classes)
        return torch.cat([side.flatten(1, 2) for side in changed.tensor_split([shots], 2)], 1)

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

    def _check_counts(self, counts: Tensor) -> int:
        """How many classes are too small for the largest task; refused if the others are too few."""
        (_, ways), (_, shots), most = self._ways, self._shots, int(counts.max())
        if ways > len(self.data):
            raise ValueError(f"ways must be at most {len(self.data)}, the number of classes, got {ways}. Lower it.")
        if self.drawers and self.data.y is not None:
            raise ValueError(
                "drawers='different' needs as many rows in every class, row d by drawer d; "
                f"these have {int(counts.min())} to {most}. Drop it."
            )
        small = int((counts < shots + self.queries).sum())
        if len(counts) - small < ways:
            raise ValueError(
                f"shots + queries must be at most the rows of {ways} classes, got {shots} + {self.queries}; "
                f"{len(counts) - small} have as many, the largest has {most}. Lower one, or ways."
            )
        if small:
            least = int(counts.argmin())
            more = " that need more" if self._varied else ""
            warnings.warn(
                f"{small} of {len(counts)} classes have fewer than shots + queries = {shots} + {self.queries} rows and "
                f"are left out of tasks{more}; the smallest, {self.data.names[least]!r}, has {int(counts[least])}.",
                stacklevel=3,
            )
        return small

    def _eligible(self, counts: Tensor) -> Tensor | None:
        """Which classes belong to each alphabet that can serve the largest task, ``[alphabets, classes]`` booleans."""
        if self.within is None:
            return None
        alphabet, ways = self.data.alphabet, self._ways[1]
        if alphabet is None:
            raise ValueError("within='alphabet' needs the alphabet of each class; these data know none. Drop it.")
        homes = alphabet.unique()[:, None] == alphabet
        sizes = (homes & (counts >= self._shots[1] + self.queries)).sum(1)
        if int(sizes.max()) < ways:
            raise ValueError(
                f"within='alphabet' needs an alphabet of at least {ways} classes; the largest has "
                f"{int(sizes.max())}. Lower ways."
            )
        return homes[sizes >= ways]


def _check_change(name: str, change: Augment | None) -> None:
    """Refuse what cannot be called as ``change(x, generator)``, as far as it says how it is called."""
    if change is None:
        return
    if not callable(change):
        raise TypeError(f"{name} must be a callable (x, generator) -> x, got {type(change).__name__}.")
    try:
        signature = inspect.signature(getattr(change, "forward", change))
    except (TypeError, ValueError):  # something built in that does not say
        return
    try:
        signature.bind(None, None)
    except TypeError:
        raise TypeError(
            f"{name} is called as {name}(x, generator), but takes {signature}. Wrap it: lambda x, generator: ..."
        ) from None


def _changed(x: Tensor, name: str, change: Augment, generator: torch.Generator | None) -> Tensor:
    changed = change(x, generator)
    if not isinstance(changed, Tensor):
        raise TypeError(f"{name} must return a tensor, got {type(changed).__name__}. Check its return.")
    if changed.shape != x.shape or changed.dtype != x.dtype:
        raise ValueError(
            f"{name} must keep the shape {list(x.shape)} and {x.dtype}, got {list(changed.shape)} and {changed.dtype}. "
            "Check its return."
        )
    return changed


def _sizes(
    span: tuple[int, int], n_tasks: int, generator: torch.Generator | None, device: torch.device
) -> Tensor | int:
    """A size for each task, uniform in the span, ``[T, 1]``; the one there is if there is but one."""
    low, high = span
    return low if low == high else torch.randint(low, high + 1, (n_tasks, 1), generator=generator, device=device)


def _keys(rows: int, columns: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Random keys whose largest m are m distinct columns, in random order. In float64, so that ties do not occur."""
    return torch.rand(rows, columns, dtype=torch.float64, generator=generator, device=device)

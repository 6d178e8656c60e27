"""Learning in context: a network reads the support set and answers; nothing of it adapts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metakit.checks import whole
from metakit.contracts import ACCURACY, LOSS, Scores
from metakit.inner import task_loss
from metakit.learners.bins import LOG_SCORE, Binned, Mixture, normal_bins, sample_bins
from metakit.learners.common import Supervised, check_batch, check_ways, one_hot, unanswered
from metakit.nn import Linear
from metakit.nn.lending import check_network, shadow
from metakit.saving import saved
from metakit.tasks.batch import TaskBatch

SIZES = (0, 1, 2, 5, 10, 20)
Answer = Binned | Mixture | Tensor
"""Distributions for the query rows ``[T, Q]``; numbers ``[T, Q, outputs]``; or scores of classes, ``[T, Q, N]``."""


class Reads(Protocol):
    """A network that reads a context: ``network(query_x, context_x, context_y, mask)`` to ``[T, Q, features]``.

    ``targets`` is how many numbers a target has in ``context_y [T, S, targets]``; classes come one-hot.
    """

    targets: int

    @property
    def features(self) -> int: ...


class Contextual(Supervised):
    """A learner that is judged by what it answers from the first support rows: none, one, two and so on.

    Its own is ``respond``. A distribution is scored by its log density and the squared error of its mean, which is
    called ``loss``, as that of every learner of real targets; classes by accuracy and cross-entropy.

    Arguments:
        sizes: context sizes to judge at, beside the whole support set.
    """

    axis = "context rows"

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__(None, "inductive")
        self.sizes = tuple(sorted({whole("every size of a context", size, least=0) for size in sizes}))

    @property
    def network(self) -> nn.Module:
        return self

    @property
    def answers_together(self) -> bool:
        """Never: no query row knows another."""
        return False

    def respond(self, batch: TaskBatch, rows: int | None = None) -> Answer:
        """What is answered to the query rows from so many of the support rows, the first, or from all."""
        raise NotImplementedError

    def know(self, batch: TaskBatch, steps: int | None) -> None:
        """The support rows themselves are read anew for each answer."""

    def answer(self, known: None, batch: TaskBatch, protocol: str) -> Tensor:
        return point(self.respond(batch))

    def outputs(self, batch: TaskBatch, steps: int | None = None, protocol: str | None = None) -> Iterator[Tensor]:
        """Yield the outputs for the query rows once: means ``[T, Q, outputs]``, or scores of classes ``[T, Q, N]``."""
        yield point(self.respond(batch, steps))

    def forward(self, batch: TaskBatch) -> Tensor:
        answer = self.respond(batch)
        return (
            task_loss(answer, batch.query_y, batch.query_mask)
            if isinstance(answer, Tensor)
            else -log_score(answer, batch)
        )

    def scores(
        self, batch: TaskBatch, steps: int | None = None, protocol: str | None = None
    ) -> Iterator[tuple[int, Scores]]:
        """Yield the scores of each task after each context size; ``steps`` is the greatest."""
        most = batch.support_x.shape[1] if steps is None else min(steps, batch.support_x.shape[1])
        for rows in (*(size for size in self.sizes if size < most), most):
            yield rows, scores_of(self.respond(batch, rows), batch)

    def distribution(self, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Answer:
        """The whole answer to the query rows: a distribution for each, or in classification the chance of each class.

        Shapes as in ``predict``.

        Raises:
            ValueError: if this learner answers with numbers alone, or the tensors are not those of a task.
        """
        batch, single = unanswered(support_x, support_y, query_x)
        with torch.no_grad():
            answer = shadow(self).respond(batch)
        if isinstance(answer, Tensor):
            if batch.ways is None:
                raise ValueError(f"this {type(self).__name__} answers with numbers alone. Make one with bins=100.")
            answer = answer.softmax(-1)
        return answer[0] if single else answer


def point(answer: Answer) -> Tensor:
    """An answer as the outputs of a network: the mean of a distribution, ``[T, Q, 1]``; others as they are."""
    return answer if isinstance(answer, Tensor) else answer.mean[..., None]


def log_score(answer: Binned | Mixture, batch: TaskBatch) -> Tensor:
    """The mean log density of the query targets of each task, ``[T]``."""
    if batch.ways is not None or batch.query_y.shape[-1] != 1:
        got = "class numbers" if batch.ways is not None else f"{batch.query_y.shape[-1]} numbers a row"
        raise ValueError(f"a distribution of one number answers one real target a row, got {got}. Take ways=, or one.")
    rows = answer.log_density(batch.query_y[..., 0]).to(batch.query_y.dtype)
    mask = batch.query_mask
    return rows.mean(1) if mask is None else torch.where(mask, rows, 0).sum(1) / mask.sum(1)


def scores_of(answer: Answer, batch: TaskBatch) -> Scores:
    """All that an answer is judged by, the headline first; each ``[T]``."""
    squares = task_loss(point(answer).to(batch.query_x.dtype), batch.query_y, batch.query_mask)
    if not isinstance(answer, Tensor):
        return {LOG_SCORE: log_score(answer, batch), LOSS: squares}
    if batch.ways is None:
        return {LOSS: squares}
    right, mask = (answer.argmax(-1) == batch.query_y).float(), batch.query_mask
    return {ACCURACY: right.mean(1) if mask is None else (right * mask).sum(1) / mask.sum(1), LOSS: squares}


@saved
class InContext(Contextual):
    """A network that learns in context: it reads the support set as its context, and answers at once.

        loss_t = - mean_q log p(y_q | x_q, context t)

    What it is trained for is the forecast of the prior's own targets, and the best there is Bayes' rule: the loss is
    smallest where p is the posterior predictive distribution of the prior that the tasks come from. No weight adapts.

    Real targets are answered by a distribution over ``bins``, equal in mass under a standard normal: call ``calibrate``
    where the prior's targets are distributed otherwise. With ``ways`` it tells classes, of which those that a task has
    not get nothing. With neither it answers with numbers, trained by their squared error.

    Arguments:
        network: called as ``network(query_x, context_x, context_y, mask)``, and says its ``features`` and ``targets``:
            ``mk.models.SetTransformer``. Classes come one-hot: make it with ``targets=ways``.
        bins: bins of the distribution of one real target.
        ways: greatest number of classes of a task.
        sizes: context sizes to judge at, beside the whole support set.

    Raises:
        TypeError: if the network does not say its features and targets.
        ValueError: if both bins and ways are given, or the network's targets are not as many as they ask for.

    Example:
        >>> import metakit as mk
        >>> from metakit.models.transformer import SetTransformer
        >>> from metakit.tasks.gaussian_processes import GaussianProcesses
        >>> learner = InContext(SetTransformer(1, width=16, layers=2), bins=50)
        >>> result = mk.evaluate(learner, GaussianProcesses().at(5), n_tasks=4)
        >>> result.at, result.axis, sorted(str(measure) for measure in result.scores)
        ((0, 1, 2, 5), 'context rows', ['log score', 'loss'])
        >>> x = torch.linspace(-1, 1, 5)[:, None]
        >>> learner.distribution(x, x, x).quantile(0.5).shape, learner.predict(x, x, x).shape
        (torch.Size([5]), torch.Size([5, 1]))

    Source: Mueller, Hollmann, Pineda Arango, Grabocka and Hutter 2022, section 3; numbers alone, Garg, Tsipras, Liang
    and Valiant 2022, section 2.
    """

    outer_optimizer, outer_lr = torch.optim.AdamW, 2e-3
    borders: Tensor
    tails: Tensor
    shift: Tensor
    scale: Tensor

    def __init__(
        self, network: nn.Module, *, bins: int | None = None, ways: int | None = None, sizes: Sequence[int] = SIZES
    ) -> None:
        super().__init__(sizes)
        check_network(network)
        if bins is not None and ways is not None:
            raise ValueError(f"give bins for real targets or ways for classes, not both; got {bins!r} and {ways!r}.")
        self.bins = None if bins is None else whole("bins", bins, least=3)
        self.ways = None if ways is None else whole("ways", ways, least=2)
        features, targets = _told(network)
        wanted = 1 if self.bins else self.ways or targets
        if targets != wanted:
            raise ValueError(
                f"the network reads {targets} numbers of a target, and {'bins ask' if self.bins else 'ways ask'} for "
                f"{wanted}. Make it with targets={wanted}."
            )
        self.reader, self.head = network, Linear(features, self.bins or wanted)
        borders, tails = normal_bins(self.bins or 3)
        for name, value in (
            ("borders", borders),
            ("tails", tails),
            ("shift", torch.zeros(())),
            ("scale", torch.ones(())),
        ):
            self.register_buffer(name, value)

    @property
    def network(self) -> nn.Module:
        return self.reader

    def calibrate(self, tasks: object, *, n_tasks: int = 1000, seed: int = 0) -> InContext:
        """Take the borders of the bins, and the scale that the network sees targets in, from a prior's own sample.

        Before training: weights learned under other borders mean other distributions. Returns the learner itself.

        Arguments:
            tasks: the prior.
            n_tasks: tasks drawn from it, in batches of 50.
            seed: of the sample.

        Raises:
            ValueError: if the targets are classes, or take too few values for so many bins.

        Example:
            >>> from metakit.models.transformer import SetTransformer
            >>> from metakit.tasks.regression import LinearRegression
            >>> learner = InContext(SetTransformer(16), bins=50).calibrate(LinearRegression(features=16))
            >>> round(float(learner.scale))
            4
        """
        generator = torch.Generator().manual_seed(whole("seed", seed, least=0))
        drawn = -(-whole("n_tasks", n_tasks) // 50)
        targets = [tasks.sample(50, generator=generator).query_y for _ in range(drawn)]  # type: ignore[attr-defined]
        if self.ways is not None or not targets[0].is_floating_point():
            raise ValueError("calibrate is for real targets; classes have no scale. Train it as it is.")
        y = torch.cat([target.flatten() for target in targets])
        found = {"shift": y.mean(), "scale": y.std()}
        if self.bins is not None:
            found["borders"], found["tails"] = sample_bins(self.bins, y)
        for name, value in found.items():
            getattr(self, name).copy_(value)
        return self

    def respond(self, batch: TaskBatch, rows: int | None = None) -> Answer:
        check_batch(self.reader, batch)
        x, mask = batch.support_x[:, :rows], batch.support_mask
        hidden = self.reader(batch.query_x, x, self._targets(batch)[:, :rows], mask if mask is None else mask[:, :rows])
        out = self.head(hidden)
        if self.bins is not None:
            return Binned(out, self.borders, self.tails)
        if self.ways is None:
            return out * self.scale + self.shift
        absent = one_hot(batch, out.dtype).amax(1) == 0  # of the whole task: a class without rows yet may still come
        return out.masked_fill(F.pad(absent, (0, self.ways - absent.shape[1]), value=True)[:, None], -torch.inf)

    def _targets(self, batch: TaskBatch) -> Tensor:
        """The targets of the context as the network reads them, ``[T, S, targets]``."""
        if self.ways is not None:
            if check_ways(batch) > self.ways:
                raise ValueError(
                    f"the tasks have {batch.ways} classes, this learner {self.ways}. Make it with more ways."
                )
            members = one_hot(batch, batch.query_x.dtype)
            return F.pad(members, (0, self.ways - members.shape[-1]))
        if batch.ways is not None:
            raise ValueError(f"the targets are classes: make InContext(network, ways={batch.ways}), without bins.")
        return (batch.support_y - self.shift) / self.scale


def _told(network: nn.Module) -> tuple[int, int]:
    """The features that a network puts out and the numbers of a target that it reads, as it says itself."""
    told = [getattr(network, name, None) for name in ("features", "targets")]
    if not all(isinstance(number, int) for number in told):
        raise TypeError(
            f"the network must say its features and targets, got {type(network).__name__}, which does not. Take "
            "mk.models.SetTransformer, or give yours these two attributes."
        )
    return told[0], told[1]  # type: ignore[return-value]

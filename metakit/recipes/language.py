"""New intents from a few questions each: what counts in a question is learned from intents of other domains.

A question is a row of hashed n-grams (``mk.tasks.texts``). The outer loop learns a gain for each of their places, by
episodes of a prototypical network; a new set of intents is then learned by logistic regression on the weighted rows.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metakit.checks import real, whole
from metakit.data.labelled import LabelledData
from metakit.learners import ProtoNet
from metakit.models import Gains
from metakit.outer import History, fit
from metakit.tasks.episodes import Episodes

WAYS, SHOTS, QUERIES = 30, (1, 10), 3
OUTER: dict[str, Any] = {"meta_batch": 1, "lr": 1e-2, "schedule": "CosineAnnealingLR"}


def start(data: LabelledData) -> ProtoNet:
    """A learner whose gains are the roots of inverse document frequencies in these texts, not trained further.

        gain_j = sqrt(log(n / (1 + n_j))),    n_j of n rows having anything in place j

    Arguments:
        data: rows of texts ``[D]``.

    Raises:
        ValueError: if the rows are not vectors.

    Example:
        >>> from metakit.tasks import texts
        >>> data = texts(["my card is lost", "my card is here", "top up failed"], ["card", "card", "money"])
        >>> start(data).embedding.features
        4096
    """
    rows = data.rows
    if rows.dim() != 2:
        raise ValueError(f"texts must be rows of numbers [n, D], got {list(rows.shape)}. Make them by mk.tasks.texts.")
    embedding = Gains(rows.shape[1])
    rarity = (len(rows) / (1.0 + (rows != 0).sum(0))).log().clamp(min=0.1)
    with torch.no_grad():
        embedding.log_gain.copy_(rarity.log() / 2)
    return ProtoNet(embedding, distance="cosine")


def train(
    data: LabelledData, *, steps: int = 300, seed: int = 0, progress: bool = True, **options: Any
) -> tuple[ProtoNet, History]:
    """A learner of new intents, trained on the intents of these texts, in half a minute.

    Arguments:
        data: texts as rows; 30 intents at least, of 13 texts or more.
        steps: outer steps, an episode each.
        seed: of the tasks.
        progress: show a bar.
        options: of ``fit``, in place of those here.

    Raises:
        ValueError: if the steps are below 1, or the intents or their texts too few.

    Example:
        >>> data = mk.tasks.texts(*mk.tasks.clinc150())  # doctest: +SKIP
        >>> learner, history = mk.recipes.language.train(data)  # doctest: +SKIP
    """
    learner, tasks = start(data), Episodes(data, WAYS, SHOTS, QUERIES)
    history = fit(learner, tasks, steps=steps, seed=seed, progress=progress, **(OUTER | options))
    return learner.eval(), history


def nearest_centroid() -> ProtoNet:
    """What needs no training: the nearest mean of the rows as they are, by cosine."""
    return ProtoNet(nn.Identity(), distance="cosine")


class Logistic:
    """Logistic regression on embedded rows, fitted to the few of each task; it needs scikit-learn.

    Arguments:
        embedding: what a row is turned into first, ``learner.embedding`` of a trained learner; ``None`` leaves rows as
            they are: what is used today.
        strength: inverse of the penalty, scikit-learn's C.

    Raises:
        ValueError: if the strength is not above 0.

    Example:
        >>> x = torch.eye(3).repeat_interleave(2, 0)
        >>> Logistic().predict(x, torch.arange(3).repeat_interleave(2), torch.eye(3)).argmax(1)
        tensor([0, 1, 2])
    """

    def __init__(self, embedding: nn.Module | None = None, *, strength: float = 100.0) -> None:
        self.embedding, self.strength = embedding, real("strength", strength, above=0.0)

    def predict(self, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
        """Log chances of the classes, ``[Q, N]``, from rows ``[S, D]`` of classes ``[S]`` and ``[Q, D]``."""
        from sklearn.linear_model import LogisticRegression

        if self.embedding is not None:
            with torch.no_grad():
                support_x, query_x = self.embedding(support_x), self.embedding(query_x)
        model = LogisticRegression(C=self.strength, max_iter=300)
        numbers, asked = support_x.double().numpy(), query_x.double().numpy()
        with warnings.catch_warnings():  # of few examples, every second of which is a class of its own
            warnings.filterwarnings("ignore", message="The number of unique classes", category=UserWarning)
            return torch.from_numpy(model.fit(numbers, support_y.numpy()).predict_log_proba(asked))


def told(
    learner: Any,
    known: LabelledData,
    asked: LabelledData,
    shots: int,
    *,
    draws: int,
    ways: int | None = None,
    seed: int = 0,
) -> Tensor:
    """Accuracy for each of several draws of so many examples an intent, ``[draws]``.

    Arguments:
        learner: whatever has ``predict(support_x, support_y, query_x)``, which gives scores ``[Q, N]``.
        known: the texts that examples are drawn from.
        asked: those that are asked, of the same intents in the same order.
        shots: examples of an intent.
        draws: how often.
        ways: intents of a draw, drawn anew each time; all of them when left out.
        seed: of the draws.

    Raises:
        ValueError: if the two have other intents, or too few of them, or one has fewer texts than ``shots``.

    Example:
        >>> data = LabelledData(torch.eye(3).repeat_interleave(2, 0), torch.arange(3).repeat_interleave(2))
        >>> told(nearest_centroid(), data, data, 1, draws=2)
        tensor([1., 1.])
    """
    shots, ways, counts = whole("shots", shots), whole("ways", ways or len(known), least=2), known.counts
    if known.names != asked.names or int(counts.min()) < shots or ways > len(known):
        raise ValueError(
            f"both need the same intents, at least {ways}, and {shots} texts of each to learn from; got {len(known)} "
            f"and {len(asked)} intents, and {int(counts.min())} texts. Ask for fewer, or split one set of texts."
        )
    first, ask_first = (F.pad(side.counts.cumsum(0), (1, 0)).tolist() for side in (known, asked))
    generator = torch.Generator().manual_seed(whole("seed", seed, least=0))
    labels, right = torch.arange(ways), []
    for _ in range(whole("draws", draws)):
        intents = torch.randperm(len(known), generator=generator)[:ways].tolist()
        support = torch.cat([torch.randperm(int(counts[i]), generator=generator)[:shots] + first[i] for i in intents])
        query = torch.cat([torch.arange(ask_first[i], ask_first[i + 1]) for i in intents])
        answers = learner.predict(known.rows[support], labels.repeat_interleave(shots), asked.rows[query])
        right.append((answers.argmax(-1) == labels.repeat_interleave(asked.counts[intents])).float().mean())
    return torch.stack(right)

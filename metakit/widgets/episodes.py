"""The episode explorer: one N-way K-shot task, its pictures, and which of them a learner names rightly."""

from __future__ import annotations

from typing import Any

import ipywidgets as ipw
from matplotlib.figure import Figure

from metakit import plots, records
from metakit.tasks import Episodes, LabelledData
from metakit.widgets.explorer import LINE, VIEWED, Explorer, another, by_name


def episode(
    learner: Any,
    data: LabelledData,
    *,
    ways: int = 5,
    shots: int = 1,
    queries: int = 5,
    alphabet: int = 0,
    seed: int = 0,
    name: str = "the learner",
) -> records.Episode:
    """Draw one task from one alphabet and let a learner name its query pictures, each by itself.

    Arguments:
        learner: anything with ``predict(support_x, support_y, query_x)``.
        data: classes of pictures ``[1, H, W]``; those without alphabets count as one.
        ways: classes N.
        shots: support pictures K of each class.
        queries: query pictures of each class.
        alphabet: which one, from 0, in the order of their numbers.
        seed: of the classes and drawings.
        name: of the learner.

    Raises:
        ValueError: if there is no such alphabet, or it has too few characters or drawings.

    Example:
        >>> import metakit as mk
        >>> record = episode(mk.NearestNeighbour(), mk.tasks.Glyphs(alphabets=1), ways=3, queries=2)
        >>> record.scores.shape, record.ways, record.shots
        (torch.Size([6, 3]), 3, 1)
    """
    homes = _alphabets(data)
    if not 0 <= alphabet < len(homes):
        raise ValueError(f"alphabet must be from 0 to {len(homes) - 1}, got {alphabet}. Choose one of these.")
    number, home = homes[alphabet]
    task = Episodes(home, ways, shots, queries).sample(1, seed=seed)
    support_x, support_y, query_x, query_y = (tensor[0] for tensor in task.tensors)
    place = next((p.device for p in learner.parameters()), support_x.device)
    scores = learner.predict(support_x.to(place), support_y.to(place), query_x.to(place))
    return records.Episode(
        support_x=support_x.cpu(),
        support_y=support_y.cpu(),
        query_x=query_x.cpu(),
        query_y=query_y.cpu(),
        scores=scores.detach().cpu()[:, :ways],  # a learner made for more classes scores those too
        learner=name,
        alphabet=data.alphabets[number] if number < len(data.alphabets) else "",
    )


def _alphabets(data: LabelledData) -> list[tuple[int, LabelledData]]:
    """The alphabets' numbers and classes."""
    if data.alphabet is None:
        return [(0, data)]
    return [(int(n), data.classes((data.alphabet == n).nonzero()[:, 0])) for n in data.alphabet.unique()]


class EpisodeExplorer:
    """Choose a learner, an alphabet, ways and shots; see an episode and which queries were named rightly.

    Arguments:
        learner: a trained learner of pictures, or several by name to choose from.
        data: classes of pictures, best ones that no learner has seen.
        most_ways: the largest N to choose.

    After each change ``.record`` is the ``records.Episode`` shown, and ``.error`` the exception if there was one.
    Controls by name: learner, alphabet, ways, shots, seed.

    Raises:
        ValueError: if there is no learner to show.

    Example:
        >>> import metakit as mk
        >>> explorer = EpisodeExplorer(mk.NearestNeighbour(), mk.tasks.Glyphs(alphabets=2))
        >>> explorer.controls["shots"].value = 3
        >>> explorer.record.shots, explorer.error
        (3, None)
    """

    controls, record, error, widget, static, _ipython_display_ = VIEWED

    def __init__(self, learner: Any, data: LabelledData, *, most_ways: int = 5) -> None:
        self.learners, self.data = by_name(learner), data
        homes = len(_alphabets(data))
        controls = {
            "learner": ipw.Dropdown(description="Learner", options=list(self.learners), **LINE),
            "alphabet": ipw.IntSlider(description="Alphabet", min=0, max=homes - 1, value=0, **LINE),
            "ways": ipw.IntSlider(description="Ways (classes)", min=2, max=most_ways, value=most_ways, **LINE),
            "shots": ipw.IntSlider(description="Shots (each)", min=1, max=5, value=1, **LINE),
            "seed": ipw.IntText(value=0),
        }
        again = another(controls["seed"], "Other episode", "Draw other characters and drawings")
        hidden = {"seed"} | ({"learner"} if len(self.learners) == 1 else set())
        hidden |= {"alphabet"} if homes == 1 else set()
        rows = [*(control for name, control in controls.items() if name not in hidden), again]
        told = "An explorer with sliders for alphabet, ways and shots"
        self._view = Explorer(controls, self.compute, self.draw, rows=rows, instead=told)
        self._view.refresh()

    def compute(
        self, *, learner: str | None = None, alphabet: int = 0, ways: int = 5, shots: int = 1, seed: int = 0
    ) -> records.Episode:
        """The record for one setting of the controls; see ``episode``. Left out, the first learner is shown."""
        name = next(iter(self.learners)) if learner is None else learner
        chosen = self.learners[name]
        return episode(chosen, self.data, ways=ways, shots=shots, alphabet=alphabet, seed=seed, name=name)

    @staticmethod
    def draw(fig: Figure, record: records.Episode) -> None:
        """The episode on a whole figure."""
        fig.set(figwidth=7.6, figheight=3.9, dpi=100, facecolor="white")
        ax = fig.subplots()
        fig.subplots_adjust(left=0.01, right=0.99, top=0.92, bottom=0.02)
        plots.draw_episode(ax, record)

"""Results of trials: how well each of the same settings did on each of many data sets; a data set is a task."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metakit.checks import Device, as_device, drawing, placed, whole
from metakit.data import _store
from metakit.tasks.batch import TaskBatch

_NAMES = (
    "A9A W8A abalone appendicitis australian automobile banana bands breast-cancer bupa car chess cod-rna coil2000 "
    "colon-cancer crx diabetes ecoli german-numer haberman housevotes ijcnn1 kr-vs-k led7digit letter lymphography "
    "magic monk-2 pendigits phoneme pima ring saheart segment seismic shuttle sonar-scale spambase spectfheart splice "
    "tic-tac-toe titanic twonorm usps vehicle wdbc wine winequality-red wisconsin yeast"
)
_SETS = tuple(_NAMES.split())
_COMMIT = "5477f55fee5397cfd8c77be9f263b5a063fdc6eb"
_URL = f"https://raw.githubusercontent.com/nicoschilling/ECML2016/{_COMMIT}/data/svm"
_DIGEST = "afc999e26659a2652b4aa96c87d46213"
_ABSENT = -1.0  # where a setting has no such number, as a linear kernel has no gamma
_SVM = 6  # numbers of a setting: one of three kernels, C, gamma, degree


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class TrialTables:
    """Scores of M settings on N data sets: tasks of regression, a data set each, whose rows are settings.

    Arguments:
        settings: settings as rows of like scale, ``[M, D]``.
        scores: what each reached on each data set, the higher the better, ``[N, M]``.
        names: a name for each data set.
        candidates: each setting as a person would write it, M of them, such as ``{"kernel": "rbf", "C": 1.0}``.
        shots: support rows of a task: settings that were tried.
        queries: query rows: others.

    Raises:
        TypeError: if settings or scores are no tensors.
        ValueError: if shapes do not fit, a number is not finite, a name or setting comes twice, or there are fewer
            settings than rows of a task.

    Example:
        >>> tables = TrialTables(
        ...     settings=torch.rand(9, 2), scores=torch.rand(4, 9), names=tuple("abcd"), shots=3, queries=6
        ... )
        >>> tables, tables.without("b").names, tables.sample(5, seed=0).support_x.shape
        (TrialTables(4 data sets x 9 settings of 2 numbers), ('a', 'c', 'd'), torch.Size([5, 3, 2]))
    """

    settings: Tensor
    scores: Tensor
    names: tuple[str, ...]
    candidates: tuple[Mapping[str, Any], ...] = ()
    shots: int = 5
    queries: int = 20

    def __post_init__(self) -> None:
        for name in ("settings", "scores"):
            value = getattr(self, name)
            if not isinstance(value, Tensor) or not value.is_floating_point():
                raise TypeError(f"{name} must be a tensor of real numbers, got {type(value).__name__}. Convert it.")
            if value.dim() != 2 or value.numel() == 0 or not value.isfinite().all():
                raise ValueError(f"{name} must be a table of finite numbers, got {list(value.shape)}. Mend the rows.")
        (sets, count), given = self.scores.shape, len(self.candidates)
        if len(self.settings) != count or len(self.names) != sets or given not in (0, count):
            raise ValueError(
                f"scores [{sets}, {count}] need {count} settings and {sets} names, got {len(self.settings)} and "
                f"{len(self.names)}, and {given} candidates. Give one for each."
            )
        if len(self.settings.unique(dim=0)) < count or len(set(self.names)) < sets:
            raise ValueError("settings and names must each be given once; one came twice. Merge the two.")
        for name in ("shots", "queries"):
            object.__setattr__(self, name, whole(name, getattr(self, name)))
        if self.shots + self.queries > count:
            raise ValueError(f"a task takes {self.shots} + {self.queries} settings, there are {count}. Take fewer.")

    @classmethod
    def of(cls, trials: Sequence[Mapping[str, Any]], *, name: str = "dataset", score: str = "score") -> TrialTables:
        """Tables of trials in a list, each a mapping: its data set, its score, and all else is its setting.

        A number of a setting becomes its rank among those that occur, from 0 to 1; a word a
        place for each that occurs. A setting may lack a number that others have.

        Arguments:
            trials: every setting once on every data set, in any order.
            name: where a trial says its data set.
            score: where it says its score, the higher the better.

        Raises:
            ValueError: if a trial says neither, or a setting is missing on a data set, or there twice.

        Example:
            >>> trials = [{"dataset": d, "C": c, "score": c * d} for d in (1, 2) for c in (0.1, 1.0, 10.0)]
            >>> tables = TrialTables.of(trials)
            >>> tables.scores.tolist()[1], tables.candidates[0]
            ([0.20000000298023224, 2.0, 20.0], {'C': 0.1})
        """
        found: dict[str, dict[tuple[tuple[str, Any], ...], float]] = {}
        for trial in trials:
            if name not in trial or score not in trial:
                raise ValueError(f"every trial must say its {name} and its {score}, got {dict(trial)}.")
            setting = tuple((key, value) for key, value in trial.items() if key not in (name, score))
            scores = found.setdefault(str(trial[name]), {})
            if setting in scores:
                raise ValueError(f"{dict(setting)} is there twice on {trial[name]}. Keep one, or their mean.")
            scores[setting] = float(trial[score])
        settings = list(next(iter(found.values()), {}))
        for data_set, scores in found.items():
            if missing := set(settings) ^ set(scores):
                raise ValueError(f"{dict(min(missing, key=str))} is not there on every data set ({data_set}). Add it.")
        if not settings or not settings[0]:
            raise ValueError(f"there must be a trial, with a setting besides {name} and {score}.")
        table = torch.tensor([[scores[setting] for setting in settings] for scores in found.values()])
        count, candidates = len(settings), tuple(map(dict, settings))
        queries = max(1, count // 2)
        return cls(
            settings=_coded(candidates),
            scores=table,
            names=tuple(found),
            candidates=candidates,
            shots=min(5, max(1, count - queries)),
            queries=min(20, queries),
        )

    def __len__(self) -> int:
        return len(self.scores)

    def __repr__(self) -> str:
        return f"TrialTables({len(self)} data sets x {len(self.settings)} settings of {self.settings.shape[1]} numbers)"

    def only(self, *names: str) -> TrialTables:
        """Those of the data sets of these names, in this order."""
        if unknown := [name for name in names if name not in self.names]:
            raise ValueError(f"no data set is called {unknown[0]!r}. They are: {', '.join(self.names)}.")
        if not names:
            raise ValueError("at least one data set must stay. Name it.")
        return dataclasses.replace(self, scores=self.scores[[self.names.index(name) for name in names]], names=names)

    def without(self, *names: str) -> TrialTables:
        """All but these data sets."""
        self.only(*names)
        return self.only(*(name for name in self.names if name not in names))

    def to(self, device: Device) -> TrialTables:
        """The same tables on another device."""
        place = as_device(device) or self.scores.device
        return dataclasses.replace(self, settings=self.settings.to(place), scores=self.scores.to(place))

    def sample(
        self,
        n_tasks: int,
        *,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        device: Device = None,
    ) -> TaskBatch:
        """T tasks: a data set each, some of its settings with their scores to learn from, others to be told.

        Shapes: support_x ``[T, shots, D]``, support_y ``[T, shots, 1]``, query likewise.
        """
        n_tasks, source, place, target = drawing(n_tasks, generator, seed, device)
        which = torch.randint(len(self), (n_tasks,), generator=source, device=place).to(self.scores.device)
        keys = torch.rand(n_tasks, len(self.settings), generator=source, device=place).to(self.scores.device)
        rows = keys.topk(self.shots + self.queries).indices
        x, y = self.settings[rows], self.scores[which].gather(1, rows)[..., None]
        s = self.shots
        sides = x[:, :s], y[:, :s], x[:, s:], y[:, s:]
        return placed(TaskBatch.trusted(*sides), target)


def svm_trials(*, root: str | os.PathLike[str] | None = None, download: bool = False) -> TrialTables:
    """Accuracies of a support vector machine on 50 data sets with 288 settings: kernel, C, gamma, degree.

    Arguments:
        root: folder of data, which holds ``ecml2016_svm/svm.zip`` or the 50 files in ``ecml2016_svm/svm/``; when left
            out, that of ``METAKIT_DATA``, or the user's cache.
        download: fetch what is missing.

    Raises:
        FileNotFoundError: if it is not there and ``download`` is off.
        ConnectionError: if a download fails.
        ValueError: if a file is not the official one.

    Example:
        >>> tables = svm_trials()  # doctest: +SKIP
        >>> tables.candidates[0]  # doctest: +SKIP
        {'kernel': 'rbf', 'C': 0.03125, 'gamma': 0.0001}

    Source: N. Schilling, M. Wistuba, L. Schmidt-Thieme, Scalable Hyperparameter Optimization with Products of Gaussian
    Process Experts, 2016, section 5.
    """
    texts = _texts(_store.data_root(root), download)
    try:
        tables = [[_row(line) for line in texts[name].splitlines()] for name in _SETS]
        numbers = torch.tensor(tables)  # [50, 288, 1 + 6]
    except (ValueError, KeyError) as error:
        raise ValueError(_other(f"a line cannot be read: {error}")) from None
    if numbers.dim() != 3 or _digest(numbers) != _DIGEST:
        raise ValueError(_other(f"other numbers, {list(numbers.shape)}"))
    settings = numbers[0, :, 1:]
    candidates = tuple(map(_candidate, settings.tolist()))
    return TrialTables(settings=settings, scores=numbers[..., 0], names=tuple(_SETS), candidates=candidates)


def _coded(candidates: Sequence[Mapping[str, Any]]) -> Tensor:
    """Settings as rows: numbers by their rank, from 0 to 1, and -1 where there is none; a place for each word."""
    columns = []
    for key in dict.fromkeys(key for candidate in candidates for key in candidate):
        values = [candidate.get(key) for candidate in candidates]
        if all(value is None or isinstance(value, int | float) for value in values):
            known = sorted({value for value in values if value is not None})
            rank = {value: i / max(1, len(known) - 1) for i, value in enumerate(known)}
            columns.append(torch.tensor([_ABSENT if value is None else rank[value] for value in values]))
        else:
            words = sorted({str(value) for value in values if value is not None})
            columns += [torch.tensor([float(str(value) == word) for value in values]) for word in words]
    return torch.stack(columns, 1)


def _texts(base: Path, download: bool) -> dict[str, str]:
    archive, folder = base / "ecml2016_svm" / "svm.zip", base / "ecml2016_svm" / "svm"
    if archive.is_file():
        try:
            with zipfile.ZipFile(archive) as file:
                return {name: file.read(name).decode("ascii") for name in _SETS}
        except (zipfile.BadZipFile, KeyError, UnicodeDecodeError) as error:
            raise ValueError(_other(f"{archive}: {error}")) from None
    return {
        name: _store.located(folder, (name,), f"{_URL}/{name}", None, download).read_text(encoding="ascii")
        for name in _SETS
    }


def _row(line: str) -> list[float]:
    """The accuracy and the six numbers of the setting, of a line ``accuracy index:value index:value ...``."""
    score, *rest = line.split()
    given = dict(part.split(":", 1) for part in rest)
    return [float(score), *(float(given.get(str(i), 0.0)) for i in range(_SVM))]


def _candidate(setting: Sequence[float]) -> dict[str, Any]:
    """A setting in its own units: C was written as log2(C) / 6, gamma as log10(gamma) / 4, degree as log10(degree)."""
    rbf, polynomial, _, c, gamma, degree = setting
    found: dict[str, Any] = {"kernel": "rbf" if rbf else "poly" if polynomial else "linear", "C": 2.0 ** round(6 * c)}
    if rbf:
        found["gamma"] = float(f"{10 ** (4 * gamma):.1g}")
    if polynomial:
        found["degree"] = round(10**degree)
    return found


def _digest(numbers: Tensor) -> str:
    return hashlib.md5(numbers.numpy().tobytes(), usedforsecurity=False).hexdigest()


def _other(reason: str) -> str:
    return f"not the 50 official files of SVM trials ({reason}). Delete them and fetch them again with download=True."

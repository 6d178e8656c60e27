"""Trained learners in files: architecture, options and weights, as data in which nothing can be executed."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import torch
from torch import Tensor, nn

from metakit import inner, learners, models
from metakit.files import read_checkpoint, write_checkpoint

_FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Kind:
    """A class that a file may name, and the options of its constructor, kept in attributes of the same name."""

    make: type[nn.Module]
    options: tuple[str, ...] = ()


# These keep their options in ``config``.
_MODELS: tuple[type[nn.Module], ...] = (models.MLP, *models.IMAGE_NETWORKS)
_KINDS = (
    *(Kind(model) for model in _MODELS),
    Kind(models.Views, ("embedding", "turn", "stretch", "shear", "rounds")),
    Kind(models.Whitened, ("embedding", "features", "shrink")),
    Kind(learners.MAML, ("model", "rule", "steps", "order", "adapt", "loss", "protocol")),
    Kind(learners.Reptile, ("model", "rule", "steps", "loss", "protocol")),
    Kind(learners.MultiStep, ("maml", "anneal_steps")),
    Kind(learners.FineTune, ("model", "rule", "steps", "adapt", "loss", "protocol")),
    Kind(learners.ProtoNet, ("embedding", "distance", "centred", "refine", "loss", "protocol")),
    Kind(learners.Matching, ("embedding", "scale", "learn_scale", "loss", "protocol")),
    Kind(learners.Ridge, ("embedding", "penalty", "scale", "loss", "protocol")),
    Kind(learners.NearestNeighbour),
    Kind(inner.SGD, ("lr",)),
    Kind(inner.Momentum, ("lr", "momentum")),
    Kind(inner.RMSProp, ("lr", "decay", "eps")),
    Kind(inner.Adam, ("lr", "betas", "eps")),
    Kind(inner.LearnedSGD, ("lr", "per", "per_step")),
)
_KEPT_AS = {"adapt": "adapted"}  # save for this one: ``adapt`` is a method
KINDS = {kind.make.__name__: kind for kind in _KINDS}


def save(learner: nn.Module, path: str | pathlib.Path) -> None:
    """Write a trained learner to a file that ``load`` makes it from again: architecture, options and weights.

    Arguments:
        learner: a learner of metakit, with a model of ``metakit.models`` and, if it has one, a rule of metakit.
        path: the file; written beside and renamed over, so that an earlier one is replaced whole or not at all.

    Raises:
        ValueError: if it holds something that a file of data cannot carry: a module or loss of your own, or a model
            changed after it was made. Nothing is written then.
        OSError: if the file cannot be written.

    Example:
        >>> import metakit as mk, pathlib, tempfile
        >>> learner = mk.ProtoNet(mk.models.MLP(2, [8], 4))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     mk.save(learner, pathlib.Path(folder) / "learner.pt")
        ...     print(mk.load(pathlib.Path(folder) / "learner.pt").embedding.config["hidden"])
        [8]
    """
    description = _describe(learner, "the learner")
    weights = {name: tensor.detach().cpu() for name, tensor in learner.state_dict().items()}
    try:
        same = repr(_make(description, weights)) == repr(learner)
    except (ValueError, TypeError, RuntimeError):
        same = False
    if not same:
        raise ValueError(
            f"this {type(learner).__name__} was changed after it was made: its options no longer describe it, so it "
            "cannot be saved. Make it with the options it shall have, and train that."
        )
    write_checkpoint(path, {"kind": "learner", "format": _FORMAT, "learner": description, "weights": weights})


def load(path: str | pathlib.Path) -> Any:
    """The learner that ``save`` wrote, on the CPU; its predictions are those of the saved one, bit for bit.

    The file is read as data (``weights_only=True``): none of it is executed, whoever wrote it.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, holds something else than a learner, or one that this version does not know.
    """
    content = read_checkpoint(path, "learner")
    if content.get("format") != _FORMAT:
        raise ValueError(f"{path} has format {content.get('format')!r}, this metakit reads {_FORMAT}. Update metakit.")
    try:
        return _make(content["learner"], content["weights"])
    except _UnknownKindError as error:
        raise ValueError(f"{path} holds a {error}, which this metakit does not know. Update metakit.") from None
    except (ValueError, TypeError, RuntimeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: {error}. Use an earlier copy.") from error


class _UnknownKindError(LookupError):
    """A file names a class that is not in the table."""


def _describe(value: Any, what: str) -> Any:
    """A learner, rule or model as plain data."""
    if value is inner.task_loss:
        return None
    if not isinstance(value, nn.Module):
        if _is_plain(value):
            return value
        own = getattr(value, "__name__", type(value).__name__)
        raise ValueError(f"{what} is {own!r}, code of your own, which cannot be saved. Leave {what} out, or {_ADVICE}")
    kind = KINDS.get(type(value).__name__)
    if kind is None or kind.make is not type(value):
        raise ValueError(
            f"{what} is a {type(value).__name__}, which is not one of {', '.join(KINDS)}. Use one, or {_ADVICE}"
        )
    if isinstance(value, _MODELS):
        options = dict(value.config)  # type: ignore[arg-type]
    else:
        options = {name: _describe(getattr(value, _KEPT_AS.get(name, name)), name) for name in kind.options}
    return {"module": kind.make.__name__, "options": options}


_ADVICE = "keep its weights alone: torch.save(learner.state_dict(), path)."


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)


def _make(description: Any, weights: dict[str, Tensor]) -> nn.Module:
    """The described module with these weights; made without memory or random numbers, then filled."""
    with torch.device("meta"):
        learner = _build(description)
    learner.load_state_dict(weights, assign=True)
    return learner


def _build(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if value["module"] not in KINDS:
        raise _UnknownKindError(value["module"])
    options = {name: _build(option) for name, option in value["options"].items()}
    return KINDS[value["module"]].make(**options)

"""Trained learners in files: how they are made, and their weights, as data in which nothing can be executed.

A class says itself how it is made, by ``@saved``: its options are those of its constructor, each kept in an attribute.
"""

from __future__ import annotations

import inspect
import pathlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar, overload

import torch
from torch import Tensor, nn

from metakit.files import read_checkpoint, write_checkpoint

_FORMAT = 1
_Made = TypeVar("_Made", bound=Callable[..., Any])
_known: dict[str, Any] = {}  # classes and functions, by their names
_kept: dict[Any, dict[str, str]] = {}  # of each of them, and of those that they replaced: where it keeps its options
_IN_WEIGHTS = ("device", "dtype")
_DEPRECATED = ("size_average", "reduce")


@overload
def saved(made: _Made, /) -> _Made: ...
@overload
def saved(**kept_as: str) -> Callable[[_Made], _Made]: ...
def saved(made: Any = None, /, **kept_as: str) -> Any:
    """Class decorator: ``save`` and ``load`` know this module by its name, and make it again from its options.

    An option is an argument of the constructor. Its value is read from ``self.config[option]`` if there, else from the
    attribute of its name. A plain function, such as a loss, can be decorated too, and is saved by its name.

    Arguments:
        made: the class of modules, or the function.
        kept_as: for an option kept in an attribute of another name, that name.

    Raises:
        TypeError: if the constructor takes ``*args`` or ``**kwargs``, which have no names to be saved under.
        ValueError: if another class or function has this name already. Defining the same one again replaces it.

    Example:
        >>> @saved(width="units")
        ... class Wide(nn.Module):
        ...     def __init__(self, inner: nn.Module, width: int) -> None:
        ...         super().__init__()
        ...         self.inner, self.units = inner, width
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(Wide(nn.Linear(3, 2), 7), pathlib.Path(folder) / "wide.pt")
        ...     print(load(pathlib.Path(folder) / "wide.pt").units)
        7
    """
    if made is None:
        return lambda made: _register(made, kept_as)
    return _register(made, kept_as)


def _register(made: Any, kept_as: dict[str, str]) -> Any:
    name = made.__name__
    if not name.isidentifier():
        raise TypeError(f"{name} has no name to be saved under. Define it with def.")
    other = _known.get(name, made)
    if _place(other) != _place(made):
        raise ValueError(f"the name {name} is taken by {_place(other)}. Give {_place(made)} another one.")
    options = {option: option for option in _signature(made)} if isinstance(made, type) else {}
    if unknown := kept_as.keys() - options.keys():
        raise TypeError(f"{name} has no option {min(unknown)!r}. Its options: {', '.join(options) or 'none'}.")
    _known[name], _kept[made] = made, options | kept_as
    return made


def _place(made: Any) -> str:
    return f"{made.__module__}.{made.__qualname__}"


def _signature(made: type) -> list[str]:
    """The options of a constructor that say something beyond the weights."""
    if made.__init__ is nn.Module.__init__:  # type: ignore[misc]
        return []
    options = list(inspect.signature(made.__init__).parameters.values())[1:]  # type: ignore[misc]
    for option in options:
        if option.kind in (option.VAR_POSITIONAL, option.VAR_KEYWORD):
            raise TypeError(f"{made.__name__} takes {option}, which has no names to be saved under; name its options")
    return [o.name for o in options if o.name not in _IN_WEIGHTS + _DEPRECATED and not o.name.startswith("_")]


def save(learner: nn.Module, path: str | pathlib.Path) -> None:
    """Write a trained learner to a file that ``load`` makes it from again: architecture, options and weights.

    Arguments:
        learner: a learner of classes that say how they are made: those of metakit, layers of ``torch.nn``, and your
            own, decorated with ``@mk.saved``.
        path: the file; written beside and renamed over, so that an earlier one is replaced whole or not at all.

    Raises:
        ValueError: if it holds something that a file of data cannot carry: a class or function that does not say how
            it is made, or a model changed after it was made. Nothing is written then.
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
        reason = "" if repr(_make(description, weights)) == repr(learner) else "it looks otherwise"
    except Exception as error:  # a constructor of anybody's can stumble by any kind of error
        reason = str(error)
    if reason:
        raise ValueError(
            f"this {type(learner).__name__} was changed after it was made: its options no longer describe it, so it "
            f"cannot be saved. Make it with the options it shall have, and train that. Made again from them: {reason}"
        )
    write_checkpoint(path, {"kind": "learner", "format": _FORMAT, "learner": description, "weights": weights})


def load(path: str | pathlib.Path) -> Any:
    """The learner that ``save`` wrote, on the CPU; its predictions are those of the saved one, bit for bit.

    The file is read as data (``weights_only=True``): none of it is executed, whoever wrote it, and nothing is imported.
    A class of your own must be defined, or its module imported, before.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, holds something else than a learner, or a class that is not known here.
    """
    content = read_checkpoint(path, "learner")
    if content.get("format") != _FORMAT:
        raise ValueError(f"{path} has format {content.get('format')!r}, this metakit reads {_FORMAT}. Update metakit.")
    try:
        return _make(content["learner"], content["weights"])
    except _UnknownError as error:
        raise ValueError(
            f"{path} holds a {error}, which is not known here. Define or import it, decorated with @mk.saved, and "
            "load again; if it is metakit's, update metakit."
        ) from None
    except Exception as error:
        raise ValueError(f"{path} is damaged: {error}. Use an earlier copy.") from error


class _UnknownError(LookupError):
    """A file names a class or function that is not known."""


# --- From a learner to a description, and back. ---


def _describe(value: Any, what: str) -> Any:
    """A learner, rule, model or option as plain data."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, list | tuple | nn.ModuleList):
        items = [_describe(item, what) for item in value]
        return tuple(items) if isinstance(value, tuple) else items
    made = type(value) if isinstance(value, nn.Module) else value
    own = getattr(made, "__name__", type(value).__name__)
    try:
        if made is value:
            return {"function": _name(made)}
        options = {option: _describe(kept, option) for option, kept in _options(value).items()}
        # Frozen weights and modules in evaluation mode bear on what is made of a module: they go with it.
        frozen = [name for name, p in value.named_parameters() if not p.requires_grad]
        resting = [name for name, module in value.named_modules() if not module.training]
        return {"module": _name(made), "options": options, "frozen": frozen, "resting": resting}
    except (TypeError, AttributeError, _UnknownError) as error:
        raise ValueError(
            f"{what} is {own!r}, which cannot be saved: {error}. Decorate its definition, or that of a class of yours "
            "around it, with @mk.saved; or keep its weights alone: torch.save(learner.state_dict(), path)."
        ) from None


def _name(made: Any) -> str:
    """How a file names a class or function."""
    name = getattr(made, "__name__", None)
    if name is not None and made in _kept:
        return str(name)
    if name is None or _of_torch(name) is not made:
        raise _UnknownError("it does not say how it is made")
    return f"torch.{name}"


def _find(name: str) -> Any:
    """The class or function that a file names."""
    found = _of_torch(name.removeprefix("torch.")) if name.startswith("torch.") else _known.get(name)
    if found is None:
        raise _UnknownError(name)
    return found


def _of_torch(name: str) -> Any:
    """The module of ``torch.nn``, or the function of ``torch.nn.functional``, of this name, if there is one."""
    found = vars(nn).get(name) or vars(nn.functional).get(name)
    module = isinstance(found, type) and issubclass(found, nn.Module)
    return found if module or getattr(found, "__module__", None) == nn.functional.__name__ else None


def _options(module: nn.Module) -> dict[str, Any]:
    """The value of each option of a module."""
    made = type(module)
    _name(made)
    if made in (nn.Sequential, nn.Identity):
        return dict(module.named_children())
    config, values = vars(module).get("config"), {}
    for option, kept in (_kept.get(made) or {option: option for option in _signature(made)}).items():
        if isinstance(config, dict) and option in config:
            values[option] = config[option]
        elif not hasattr(module, kept):
            mend = f"; write self.{option} = {option} in its constructor, or name what does: @mk.saved({option}=...)"
            raise AttributeError(f"it does not keep its option {option!r}{mend if made in _kept else ''}")
        else:
            values[option] = getattr(module, kept)
    if isinstance(values.get("bias"), nn.Parameter):  # torch's layers keep the weights under the name of the option
        values["bias"] = True
    return values


def _make(description: Any, weights: dict[str, Tensor]) -> Any:
    """The described module with these weights, on the CPU; random numbers stay as they were."""
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        learner = _build(description)
    for name, tensor in learner.state_dict(keep_vars=True).items():
        if name in weights:  # in place, so that tied weights stay tied
            tensor.data = tensor.data.to(weights[name].dtype)
    learner.load_state_dict(weights)
    return learner


def _build(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_build(item) for item in value)
    if not isinstance(value, dict):
        return value
    if "function" in value:
        return _find(value["function"])
    make, options = _find(value["module"]), {name: _build(option) for name, option in value["options"].items()}
    module = make(OrderedDict(options)) if make is nn.Sequential else make(**options)
    if "frozen" in value:  # files of version 0.1 say nothing
        for name, p in module.named_parameters():
            p.requires_grad_(name not in value["frozen"])
        for name, part in module.named_modules():
            part.training = name not in value["resting"]
    return module

"""The one place that lends weights to a module: any network as a function of its weights, for all tasks at once.

Nothing is written into the network: a *shadow* of it, which shares its tensors and copies its structure alone, is
given the weights, or another mode. So threads may share a network, and a failure leaves it as it was.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
import threading
import types
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from metakit.contracts import Weights

_ELEMENTWISE = (nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.ELU, nn.LeakyReLU, nn.Softplus, nn.Dropout)
_ROW_BY_ROW = {*_ELEMENTWISE, nn.Sequential, nn.Identity}  # of torch's own, whatever stands in front of a row
_EVERY_MODULE = frozenset(vars(nn.Module()))  # attributes that all modules have
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_PLAIN = (int, float, str, bytes, type(None), torch.dtype, torch.device)
_LOOKED_AT = 100  # things in a container that is searched for hidden weights
_log = logging.getLogger("metakit")

_known: dict[type[nn.Module], tuple[bool, bool]] = {}

Place = tuple[Any, Any]  # a container and a key in it
Kind = TypeVar("Kind", bound=nn.Module)


# --- Shadows. ---


class _Shadows:
    """Shadows of the modules of one tree, and the places in them where each of its parameters lies, by name."""

    def __init__(self, root: nn.Module, training: bool | None) -> None:
        self.training, self.stacks, self.mixes = training, True, False
        self.made: dict[int, nn.Module] = {}
        self.names: dict[int, str] = {}  # of a parameter: the first one found, if it is tied and lies in several places
        self.places: dict[str, list[Place]] = {}
        self.written: list[tuple[str, dict[str, Tensor | None]]] = []  # layers whose buffers training could write to
        self._odd: list[tuple[str, dict[str, Any], str]] = []
        self._held: dict[int, Any] = {}  # copies of lists and dictionaries
        self._tree: dict[int, nn.Module] | None = None
        self.root, self.top = root, self._shadow(root, "")
        for where, attributes, key in self._odd:
            attributes[key] = self._translated(attributes[key], where)

    def _shadow(self, module: nn.Module, prefix: str) -> nn.Module:
        if (done := self.made.get(id(module))) is not None:
            return done
        own = module.__dict__
        made: nn.Module = object.__new__(type(module))
        self.made[id(module)] = made
        fresh = own | {"_parameters": dict(own["_parameters"]), "_compiled_call_impl": None}
        object.__setattr__(made, "__dict__", fresh)
        for key, p in own["_parameters"].items():
            if p is not None:
                name = self.names.setdefault(id(p), prefix + key)
                self.places.setdefault(name, []).append((fresh["_parameters"], key))
        if own["_buffers"]:
            self._keep_buffers(module, fresh, prefix)
        if own["_modules"]:
            fresh["_modules"] = {
                key: None if child is None else self._shadow(child, f"{prefix}{key}.")
                for key, child in own["_modules"].items()
            }
        for key in own.keys() - _EVERY_MODULE:
            if not isinstance(own[key], _PLAIN):
                self._odd.append((prefix, fresh, key))
        hooked = [key for key in _HOOKS if own[key]]
        self._odd += [(prefix, fresh, key) for key in hooked]
        stacks, mixes = _traits(type(module))
        self.stacks = self.stacks and stacks and not hooked and "parametrizations" not in own["_modules"]
        self.mixes = self.mixes or (mixes and not keeps_statistics(module))
        if self.training is not None:
            fresh["training"] = self.training and not keeps_statistics(module)
        return made

    def _keep_buffers(self, module: nn.Module, fresh: dict[str, Any], prefix: str) -> None:
        """Buffers that a forward in training mode might write to are copied, so that it can be told, and lost."""
        buffers = dict(module._buffers)
        if module.training and self.training is None and not _traits(type(module))[0]:
            buffers = {key: None if b is None else b.clone() for key, b in buffers.items()}
            self.written.append((prefix[:-1], dict(buffers)))
        fresh["_buffers"] = buffers

    def _translated(self, value: Any, where: str) -> Any:
        """What an attribute holds, with shadows for the modules of the tree, and places for its parameters."""
        if isinstance(value, nn.Module):
            return self._shadow(value, where) if id(value) in self._of_tree() else value
        if isinstance(value, list | dict):
            return self._held[id(value)] if id(value) in self._held else self._copied(value, where)
        if type(value) in (tuple, set, frozenset) and not any(id(item) in self.names for item in value):
            return type(value)(self._translated(item, where) for item in value)
        if isinstance(value, functools.partial):
            called = self._translated((value.func, *value.args), where)
            return functools.partial(*called, **self._translated(value.keywords, where))
        if isinstance(value, types.MethodType):
            return types.MethodType(value.__func__, self._translated(value.__self__, where))
        if self.training is None and not isinstance(value, type | Tensor) and _may_hold(value):
            self._refuse_hidden(value, where)
        return value

    def _copied(self, value: Any, where: str) -> Any:
        """A copy of a list or dictionary, one for all who hold it, with shadows and places for what is in it."""
        held = self._held[id(value)] = copy.copy(value)
        for key, item in list(value.items() if isinstance(value, dict) else enumerate(value)):
            if not isinstance(item, _PLAIN):
                held[key] = self._translated(item, where)
                if id(item) in self.names:
                    self.places[self.names[id(item)]].append((held, key))
        return held

    def _refuse_hidden(self, value: Any, where: str) -> None:
        """Refuse a function or object that holds modules or parameters of the tree where none can take their place."""
        if isinstance(value, types.FunctionType):
            cells = [cell.cell_contents for cell in value.__closure__ or () if cell != types.CellType()]
            inside = [*cells, *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
        else:
            inside = list(vars(value).values() if hasattr(value, "__dict__") else value)
        for held in inside:
            each = held.values() if isinstance(held, dict) else held if isinstance(held, list | tuple) else [held]
            for item in [held, *each][:_LOOKED_AT]:
                item = item.__self__ if isinstance(item, types.MethodType) else item
                if id(item) in self._of_tree() or id(item) in self.names:
                    raise ValueError(
                        f"layer {where[:-1]!r} ({type(self.root).__name__}) keeps a {type(value).__name__} that holds "
                        "the network's own weights, where no others can be lent to it. Write a function as a method of "
                        "the module, and keep modules in attributes, lists or dictionaries."
                    )

    def _of_tree(self) -> dict[int, nn.Module]:
        if self._tree is None:
            self._tree = {id(module): module for module in self.root.modules()}
        return self._tree


def _may_hold(value: Any) -> bool:
    return hasattr(value, "__dict__") or isinstance(value, tuple | set | frozenset)


def _traits(kind: type[nn.Module]) -> tuple[bool, bool]:
    """Whether a class of layers accepts stacked weights, and whether it normalises rows together."""
    if (known := _known.get(kind)) is not None:
        return known
    stacks = kind in _ROW_BY_ROW or bool(getattr(kind, "stacks_tasks", False))
    mixes = bool(getattr(kind, "mixes_rows", False)) or issubclass(kind, nn.modules.batchnorm._BatchNorm)
    return _known.setdefault(kind, (stacks, mixes))


def shadow(module: Kind, *, training: bool = False) -> Kind:
    """The module in a mode, without touching it: another structure around the same tensors.

    Layers that keep running statistics are fixed ones: they stay in evaluation mode.

    Example:
        >>> network = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
        >>> shadow(network)[1].training, network[1].training
        (False, True)
    """
    return cast(Kind, _Shadows(module, training).top)


def lent(module: Kind, weights: Mapping[str, Tensor]) -> Kind:
    """The module with other tensors in the places of its parameters, by name; the module itself is not touched."""
    shadows = _Shadows(module, None)
    for name, w in weights.items():
        for container, key in shadows.places[name]:
            container[key] = w
    return cast(Kind, shadows.top)


def keeps_statistics(layer: nn.Module) -> bool:
    """Whether it is a batch norm with statistics of its own: a fixed layer, in evaluation mode whatever the rest is."""
    return getattr(layer, "running_mean", None) is not None


def train(module: nn.Module) -> None:
    """Put a module into training mode, but for layers that keep running statistics."""
    module.train()
    for layer in module.modules():
        if keeps_statistics(layer):
            layer.eval()


# --- Networks with weights lent to them. ---


def check_network(model: nn.Module) -> None:
    """Refuse what no weights can be lent to, or what would carry one task's data into the next, naming the layer."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}.")
    for name, layer in model.named_modules():
        where = f"layer {name!r} ({type(layer).__name__})" if name else type(layer).__name__
        if keeps_statistics(layer) and layer.training:
            raise ValueError(
                f"{where} keeps running statistics, which would carry one task's data into the next. Call .eval() on "
                "the network first: it is then a fixed layer with the statistics it has. To train with those of the "
                "rows at hand, use metakit.nn.BatchNorm1d or BatchNorm2d."
            )
        if isinstance(layer, torch.jit.ScriptModule):
            raise ValueError(f"{where} is compiled by TorchScript, and cannot be lent weights. Use the module itself.")
        if any(isinstance(p, nn.parameter.UninitializedParameter) for p in layer.parameters(recurse=False)):
            raise ValueError(f"{where} has no weights yet. Run the model once on a row of data first.")


def can_stack(model: nn.Module) -> bool:
    """Whether every layer of the model accepts weights stacked over tasks.

    Layers of ``metakit.nn`` and their subclasses do, and elementwise ones of torch. A module of your own qualifies by
    ``stacks_tasks = True`` as a class attribute: a promise that its ``forward`` treats ``x [T, N, ...]`` task by task.
    Others, and layers with hooks or parametrisations, are run one task at a time, exactly but slower.
    """
    return _Shadows(model, None).stacks


def mixes_rows(model: nn.Module) -> bool:
    """Whether any layer normalises rows together, so that an answer depends on the other rows."""
    return any(_traits(type(layer))[1] and not keeps_statistics(layer) for layer in model.modules())


def check_rows_apart(model: nn.Module) -> None:
    """Refuse a layer that normalises rows together and cannot be told which rows to take its statistics from."""
    for name, layer in model.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and not keeps_statistics(layer):
            raise ValueError(
                f"layer {name!r} ({type(layer).__name__}) normalises query rows together, so it cannot answer them one "
                "by one. mk.nn.convert(network) swaps it for metakit.nn's, which can; or judge it with "
                'protocol="transductive".'
            )


class Functional:
    """A network as a function of stacked weights, ``f(weights, x)``: ``x [T, N, ...]`` to ``[T, N, ...]``.

    ``weights`` ``{name: [T, ...]}`` stand in place of the network's own, which serve where a name is missing. Layers
    that stack run all tasks at once; other networks, and those that mix the rows of unequal tasks, run task by task, on
    just the rows ``[N, ...]`` that a task has, and say the same as by themselves.

    Arguments:
        model: the network; nothing is written into it.

    Raises:
        ValueError: if it writes into its buffers as it answers in training mode: one task's rows would reach the next.
        TypeError: if it does not return a tensor.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> Functional(model)({"bias": torch.zeros(3, 1)}, torch.zeros(3, 5, 2)).abs().max().item()
        0.0
    """

    def __init__(self, model: nn.Module) -> None:
        self.model, self._shadows = model, _Shadows(model, None)
        self.stacks, self.mixes = self._shadows.stacks, self._shadows.mixes
        self._lent: Weights = {}

    def __call__(self, weights: Weights, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.stacks and not (self.mixes and mask is not None):
            return self._run(weights, x)
        if not self.stacks and len(x) > _MANY:
            _hint(self.model)
        outputs = []
        with plain_attention():
            for t in range(len(x)):
                rows = x[t] if mask is None else x[t][mask[t]]
                one = {name: w[t : t + 1] if self.stacks else w[t] for name, w in weights.items()}
                y = self._run(one, rows[None])[0] if self.stacks else self._run(one, rows)
                outputs.append(y if mask is None else spread(y, mask[t]))
        self._check_buffers()
        return torch.stack(outputs)

    def _run(self, weights: Weights, x: Tensor) -> Tensor:
        back = {name: self.model.get_parameter(name) for name in self._lent.keys() - weights.keys()}
        for name, w in (weights | back).items():
            for container, key in self._shadows.places[name]:
                container[key] = w
        self._lent = weights
        y = self._shadows.top(x)
        if not isinstance(y, Tensor):
            raise TypeError(
                f"a network must return a tensor, one row for each of its input's, got {type(y).__name__} from "
                f"{type(self.model).__name__}. Wrap it in a module that returns the part you want: its forward ends in "
                "`return output[0]`, say, for what an nn.LSTM or nn.GRU puts out."
            )
        return y

    def _check_buffers(self) -> None:
        for name, before in self._shadows.written:
            layer = self.model.get_submodule(name)
            now = self._shadows.made[id(layer)]._buffers
            changed = [k for k, b in before.items() if now[k] is not b or (b is not None and b._version)]
            if changed:
                raise ValueError(
                    f"layer {name!r} ({type(layer).__name__}) writes into its buffer {changed[0]!r} as it answers in "
                    "training mode, which would carry one task's data into the next. Put it into evaluation mode where "
                    "it is a fixed layer, or use one that keeps nothing, as those of metakit.nn."
                )


def spread(rows: Tensor, mask: Tensor) -> Tensor:
    """Rows ``[n, ...]`` at the n places where ``mask [N]`` holds, zeros elsewhere: ``[N, ...]``."""
    return rows.new_zeros(len(mask), *rows.shape[1:]).index_put((mask,), rows)


def stacked(parameters: Mapping[str, Tensor], tasks: int) -> Weights:
    """The same weights for each of T tasks, ``[...]`` to ``[T, ...]``, without copying them."""
    return {name: p.expand(tasks, *p.shape) for name, p in parameters.items()}


def run(model: nn.Module, weights: Weights, x: Tensor) -> Tensor:
    """The model's outputs with stacked weights in place of its own; see ``Functional``."""
    return Functional(model)(weights, x)


_MANY = 7  # tasks one by one, of which a hint is given
_hinted: set[type] = set()


def _hint(model: nn.Module) -> None:
    if type(model) in _hinted:
        return
    _hinted.add(type(model))
    odd = sorted({type(layer).__name__ for layer in model.modules() if not _traits(type(layer))[0]})
    _log.warning(
        "%s runs one task at a time, exactly but often ten times slower than all at once, because of %s. "
        "mk.nn.convert(network) swaps what it can for layers of metakit.nn; a forward of your own promises "
        "stacks_tasks = True.",
        *(type(model).__name__, ", ".join(odd) or "hooks or parametrisations"),
    )


# --- Attention. ---

_attention = threading.Lock()
_plain: list[contextlib.ExitStack] = []
_users = 0


@contextlib.contextmanager
def plain_attention() -> Iterator[None]:
    """Attention without torch's fused kernels, which have no second derivative, while gradients are kept.

    The choice is the process's, not a thread's: the first to come makes it, and the last to go takes it back.
    """
    global _users
    if not torch.is_grad_enabled():
        yield
        return
    with _attention:
        if _users == 0:
            _plain.append(stack := contextlib.ExitStack())
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        _users += 1
    try:
        yield
    finally:
        with _attention:
            _users -= 1
            if _users == 0:
                _plain.pop().close()

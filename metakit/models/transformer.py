"""A transformer for sets: rows to learn from in any order, and rows to answer that see those and nothing else."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metakit.checks import whole
from metakit.nn.layers import Linear
from metakit.nn.norm import LayerNorm
from metakit.saving import saved

Memory = list[tuple[Tensor, Tensor]]
"""What a transformer keeps of a context: for each layer its keys and values, ``[..., heads, rows, width / heads]``."""


class Block(nn.Module):
    """A pre-norm layer of attention and a two-layer network; rows look at keys and values that are handed to it.

        h <- h + O softmax(q k' / sqrt(d)) v,    q from norm(h), k and v from norm(context)
        h <- h + W2 gelu(W1 norm(h))

    Arguments:
        width: numbers of a row.
        heads: heads of the attention; they share the width.

    Source: Vaswani et al. 2017, section 3.2; norms in front, Xiong et al. 2020.
    """

    stacks_tasks = True

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = LayerNorm(width), LayerNorm(width)
        self.query, self.keyvalue, self.out = Linear(width, width), Linear(width, 2 * width), Linear(width, width)
        self.rise, self.fall = Linear(width, 2 * width), Linear(2 * width, width)

    def remember(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the context rows."""
        keys, values = self.keyvalue(self.norm1(context)).chunk(2, -1)
        return self._by_head(keys), self._by_head(values)

    def forward(self, h: Tensor, memory: tuple[Tensor, Tensor], mask: Tensor | None, fused: bool) -> Tensor:
        seen = attention(self._by_head(self.query(self.norm1(h))), *memory, mask, fused=fused)
        h = h + self.out(seen.transpose(-2, -3).flatten(-2))
        return h + self.fall(F.gelu(self.rise(self.norm2(h))))

    def _by_head(self, rows: Tensor) -> Tensor:
        return rows.unflatten(-1, (self.heads, -1)).transpose(-2, -3)


class Blocks(nn.ModuleList):
    """Layers in a list, which says that they stack."""

    stacks_tasks = True


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, *, fused: bool = True) -> Tensor:
    """``softmax(q k' / sqrt(d)) v``, where ``mask`` holds; ``fused`` by torch's kernels, which differentiate once only.

    Shapes: ``query [..., Q, d]``, ``key`` and ``value`` ``[..., S, d]``, ``mask [..., 1, S]`` to ``[..., Q, d]``.

    Example:
        >>> q, k = torch.randn(2, 5, 4), torch.randn(2, 3, 4)
        >>> bool((attention(q, k, k) - attention(q, k, k, fused=False)).abs().max() < 1e-6)
        True
    """
    if fused:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    scores = query @ key.mT / query.shape[-1] ** 0.5
    return (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(-1) @ value


@saved
class SetTransformer(nn.Module):
    """A transformer that reads a support set as its context, in no order, and answers each query row by itself.

    A context row is one token, ``f(x) + g(y)``; a query row is ``f(x) + unknown``, with a learned vector in the place
    of its target. Context rows attend to the context; query rows attend to the context too, and not to each other. A
    learned token always stands in the context, so that it may be empty: ``model(x)`` alone is an ordinary network of
    rows, a base learner for MAML.

        f(x) = V z + a two-layer network of z,    z = [x, sin(w_j x), cos(w_j x)],    w_j = 2^(j - 2), j = 0, 1, ...

    Shapes: ``query_x [T, Q, inputs]``, ``context_x [T, S, inputs]``, ``context_y [T, S, targets]``, ``mask [T, S]``
    (True where a context row is real) to ``[T, Q, features]``. Without a context any ``x [..., N, inputs]``.

    Arguments:
        inputs: features D of a row.
        width: numbers of a token, a multiple of ``heads``.
        layers: layers of attention.
        heads: heads of each.
        targets: numbers of a target: 1 in regression, as many as classes in classification.
        frequencies: octaves of sines and cosines beside each feature; 0 for the features alone. They serve features of
            about unit size: the waves are from 25 units long down to 0.2 at the eighth octave.
        outputs: numbers put out for a query row; ``width`` when left out, for a head that another module has.

    Raises:
        ValueError: if a number is out of its range, or rows are not those that it was made for.

    Example:
        >>> model = SetTransformer(1, width=16, layers=2)
        >>> x = torch.zeros(3, 5, 1)
        >>> model(x).shape, model(x, x[:, :2], x[:, :2]).shape
        (torch.Size([3, 5, 16]), torch.Size([3, 5, 16]))

    Source: attention over sets without positions, Lee et al. 2019; rows as tokens, query rows apart, Mueller et al.
    2022, section 4; sines and cosines of the features, Tancik et al. 2020.
    """

    stacks_tasks = True

    def __init__(
        self,
        inputs: int,
        *,
        width: int = 64,
        layers: int = 4,
        heads: int = 4,
        targets: int = 1,
        frequencies: int = 8,
        outputs: int | None = None,
    ) -> None:
        super().__init__()
        self.inputs, self.targets = whole("inputs", inputs), whole("targets", targets)
        self.width, self.layers, self.heads = whole("width", width), whole("layers", layers), whole("heads", heads)
        self.frequencies = whole("frequencies", frequencies, least=0)
        self.outputs = None if outputs is None else whole("outputs", outputs)
        if self.width % self.heads:
            raise ValueError(
                f"width must be a multiple of heads, got width={self.width} and heads={self.heads}. Take "
                f"width={self.width + self.heads - self.width % self.heads}, or other heads."
            )
        waves = self.inputs * (1 + 2 * self.frequencies)
        self.plain = Linear(waves, self.width)
        self.rise, self.fall = Linear(waves, self.width), Linear(self.width, self.width)
        self.target = Linear(self.targets, self.width)
        self.unknown, self.empty = (nn.Parameter(0.1 * torch.randn(self.width)) for _ in range(2))
        self.blocks = Blocks(Block(self.width, self.heads) for _ in range(self.layers))
        self.norm = LayerNorm(self.width)
        self.head = nn.Identity() if self.outputs is None else Linear(self.width, self.outputs)
        self.row_shape, self._dims = (self.inputs,), sum(p.dim() for p in self.parameters())

    @property
    def features(self) -> int:
        """How many numbers are put out for a query row."""
        return self.outputs or self.width

    def forward(
        self,
        query_x: Tensor,
        context_x: Tensor | None = None,
        context_y: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        if context_x is None:
            self._check(query_x)
            context_x, context_y = query_x[..., :0, :], query_x.new_zeros(*query_x.shape[:-2], 0, self.targets)
        assert context_y is not None
        return self.answer(query_x, self.remember(context_x, context_y, mask), mask)

    def remember(self, context_x: Tensor, context_y: Tensor, mask: Tensor | None = None) -> Memory:
        """All that query rows look at: keys and values of the context in each layer."""
        self._check(context_x, context_y)
        empty = self._vector(self.empty, context_x).expand(*context_x.shape[:-2], 1, self.width)
        h = torch.cat([empty, self._embedded(context_x) + self.target(context_y)], -2)
        seen, fused, memory = self._seen(mask), self._fused(), []
        for i, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            memory.append(block.remember(h))
            if i + 1 < self.layers:  # nothing looks at the context after the last layer
                h = block(h, memory[-1], seen, fused)
        return memory

    def answer(self, query_x: Tensor, memory: Memory, mask: Tensor | None = None) -> Tensor:
        """What is put out for query rows that look at this memory."""
        self._check(query_x)
        h = self._embedded(query_x) + self._vector(self.unknown, query_x)
        seen, fused = self._seen(mask), self._fused()
        for block, kept in zip(self.blocks, memory, strict=True):
            h = block(h, kept, seen, fused)
        return self.head(self.norm(h))

    def _embedded(self, x: Tensor) -> Tensor:
        rates = 2.0 ** torch.arange(-2, self.frequencies - 2, device=x.device, dtype=x.dtype)
        waves = (x[..., None] * rates).flatten(-2)
        every = torch.cat([x, waves.sin(), waves.cos()], -1)
        return self.plain(every) + self.fall(F.gelu(self.rise(every)))

    @staticmethod
    def _vector(vector: Tensor, like: Tensor) -> Tensor:
        """A learned vector ``[W]``, or one for each task ``[T, W]``, shaped to broadcast with rows ``[T, ..., W]``."""
        return vector if vector.dim() == 1 else vector.reshape(len(vector), *[1] * (like.dim() - 2), vector.shape[1])

    @staticmethod
    def _seen(mask: Tensor | None) -> Tensor | None:
        """Which tokens may be looked at, ``[T, 1, 1, 1 + S]``: the empty one always."""
        return None if mask is None else F.pad(mask, (1, 0), value=True)[..., None, None, :]

    def _fused(self) -> bool:
        """Whether weights are shared by all tasks: torch's kernels have no second derivative, as stacked ones need."""
        return sum(p.dim() for p in self.parameters()) == self._dims

    def _check(self, x: Tensor, y: Tensor | None = None) -> None:
        if x.dim() < 2 or x.shape[-1] != self.inputs:
            raise ValueError(
                f"rows must be [..., N, {self.inputs}], got {list(x.shape)}. Make SetTransformer(inputs=...) for these."
            )
        if y is not None and y.shape != (*x.shape[:-1], self.targets):
            raise ValueError(
                f"targets of the context must be {[*x.shape[:-1], self.targets]}, got {list(y.shape)}. Make the "
                "transformer with targets= as many as a target has numbers."
            )

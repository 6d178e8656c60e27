"""Learners that embed: a network turns rows into vectors, and a head tells query vectors by support vectors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from metakit.checks import in_words, real
from metakit.contracts import Loss
from metakit.learners.common import Supervised, as_precise, by_protocol, check_batch, embedded
from metakit.nn import in_full
from metakit.nn.lending import Functional, check_network
from metakit.tasks.batch import TaskBatch


class Embedded(Supervised):
    """A learner with an embedding and a head: ``grasp`` the support vectors, ``compare`` query vectors with that.

    Nothing of the embedding adapts, so there are no inner steps.
    """

    def __init__(self, embedding: nn.Module, loss: Loss | None, protocol: str) -> None:
        check_network(embedding)
        super().__init__(loss, protocol)
        self.embedding = embedding

    @property
    def network(self) -> nn.Module:
        return self.embedding

    def grasp(self, support: Tensor, batch: TaskBatch) -> Any:
        """What the head keeps of the support vectors ``[T, S, D]``."""
        raise NotImplementedError

    def compare(self, query: Tensor, known: Any, batch: TaskBatch, protocol: str) -> Tensor:
        """The outputs for the query vectors ``[T, Q, D]``, from what is known of the support set."""
        raise NotImplementedError

    def outputs(self, batch: TaskBatch, steps: int | None = None, protocol: str | None = None) -> Iterator[Tensor]:
        """Yield the outputs for the query rows once, ``[T, Q, ...]``: there are no inner steps."""
        protocol = protocol or self.protocol
        support, query = embedded(self.embedding, batch, protocol)
        with in_full(support):
            outputs = self.compare(query, self.grasp(support, batch), batch, protocol)
        yield outputs

    def know(self, batch: TaskBatch, steps: int | None) -> Any:
        check_batch(self.embedding, batch)
        support = Functional(self.embedding)({}, batch.support_x, batch.support_mask)
        with in_full(support):
            return self.grasp(as_precise(support, batch.support_x), batch)

    def answer(self, known: Any, batch: TaskBatch, protocol: str) -> Tensor:
        check_batch(self.embedding, batch)
        query = as_precise(by_protocol(Functional(self.embedding), {}, batch, protocol)[1], batch.query_x)
        with in_full(query):
            return self.compare(query, known, batch, protocol)


def like(module: nn.Module, value: float) -> Tensor:
    """One number, of the dtype and on the device of a module's parameters, if it has any."""
    some = next((p.detach() for p in module.parameters() if p.is_floating_point()), torch.empty(1))
    return torch.full_like(some.flatten()[0], value)


def check_positive(name: str, value: Any) -> float:
    """The number, if it is finite and above 0."""
    message = f"{name} must be a finite number above 0, got {value!r}. 1.0 is a usual start."
    return in_words(message, lambda: real(name, value, above=0.0))

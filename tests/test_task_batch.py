"""TaskBatch: tasks of unequal size in one batch, what its inputs and targets may be, and what travels with it."""

import pytest
import torch

from metakit.tasks import LabelledData, Pooled
from metakit.tasks.batch import TaskBatch, as_inputs

FIELDS = ("support_x", "support_y", "query_x", "query_y", "support_mask", "query_mask", "classes")


def task(ways, shots, queries, *, classes=True, kind=torch.float32):
    """One task of classes, its rows in random order."""
    sides = []
    for rows in (shots, queries):
        y = torch.arange(ways).repeat_interleave(rows)[torch.randperm(ways * rows)]
        sides += [torch.rand(1, len(y), 3).to(kind) + 1, y[None]]
    return TaskBatch(*sides, classes=10 * torch.arange(ways)[None] if classes else None)


def numbers(rows, queries):
    """One task of regression."""
    x, q = torch.rand(1, rows, 2) + 1, torch.rand(1, queries, 2) + 1
    return TaskBatch(x, x.sin(), q, q.sin())


def same(one, two):
    """Whether two batches agree in every field."""
    pairs = [(getattr(one, name), getattr(two, name)) for name in FIELDS]
    return one.ways == two.ways and all(torch.equal(a, b) if a is not None else b is None for a, b in pairs)


@pytest.mark.parametrize(
    "alone",
    [
        [task(2, 3, 2), task(4, 1, 5), task(3, 2, 1)],
        [task(2, 3, 2), task(3, 2, 2)],  # as many support rows, not as many classes
        [task(2, 1, 1, classes=False), task(3, 4, 1, classes=False)],
        [numbers(5, 2), numbers(3, 4)],
        [task(2, 1, 1, kind=torch.int64), task(2, 3, 1, kind=torch.int64)],
    ],
    ids=["classes", "ways alone", "unknown classes", "numbers", "token ids"],
)
def test_tasks_put_together_come_out_as_they_went_in(alone):
    batch = TaskBatch.pad(alone)
    assert len(batch) == len(alone) and batch.ways == (max(t.ways for t in alone) if alone[0].ways else None)
    assert all(same(batch.task(t), one) for t, one in enumerate(alone))
    assert same(TaskBatch.pad([batch.task(t) for t in range(len(batch))]), batch)
    checked = TaskBatch(*batch.tensors, batch.ways, **{name: getattr(batch, name) for name in FIELDS[4:]})
    assert same(checked, batch)  # what comes out passes the door
    for mask, x, y in ((batch.support_mask, *batch.tensors[:2]), (batch.query_mask, *batch.tensors[2:])):
        assert mask is None or (not x[~mask].any() and not y[~mask].any() and x[mask].all())


def test_tasks_of_equal_size_need_no_masks_and_batches_of_several_tasks_go_together():
    alone = [task(3, 2, 2) for _ in range(4)]
    batch = TaskBatch.pad([TaskBatch.pad(alone[:3]), alone[3]])
    assert batch.support_mask is None and batch.query_mask is None
    assert torch.equal(batch.support_x, torch.cat([one.support_x for one in alone]))
    larger = TaskBatch.pad([batch, task(5, 1, 4)])
    assert larger.query_mask.sum(1).tolist() == [6, 6, 6, 6, 20] and same(larger[:4].task(2), alone[2])
    assert larger.classes[0].tolist() == [0, 10, 20, -1, -1]
    assert TaskBatch.pad([larger, task(2, 1, 1, classes=False)]).classes is None


def test_without_a_mask_every_task_has_all_classes():
    assert TaskBatch.pad([task(2, 3, 2), task(3, 2, 2)]).support_mask.all()


def test_every_field_travels_with_its_tasks():
    batch = TaskBatch.pad([task(2, 3, 2), task(4, 1, 5), task(3, 2, 1)])
    for name in FIELDS:
        whole = getattr(batch, name)
        assert torch.equal(getattr(batch[1:], name), whole[1:]) and torch.equal(getattr(batch[-1], name), whole[2:])
        assert torch.equal(torch.cat([getattr(piece, name) for piece in batch.chunks(2)]), whole)
        assert getattr(batch.to("meta"), name).device.type == "meta"
        double = getattr(batch.to(dtype=torch.float64), name)
        assert double.dtype == (torch.float64 if name.endswith("_x") else whole.dtype)
        copy = getattr(batch.each(torch.clone), name)
        assert torch.equal(copy, whole) and copy.data_ptr() != whole.data_ptr()
    assert batch.numel() == batch.support_x.numel() + batch.query_x.numel()
    assert {piece.ways for piece in batch.chunks(1)} == {4}


def test_tasks_of_one_batch_may_have_unequal_numbers_of_classes():
    x, y = torch.zeros(2, 3, 1), torch.tensor([[0, 1, 2], [0, 0, 1]])
    assert TaskBatch(x, y, x, y).ways == 3 and TaskBatch(x, y, x, y, ways=5).ways == 5
    assert TaskBatch(x, y, x, y).task(1).ways == 2


def test_a_class_whose_only_support_row_is_filled_up_is_refused():
    x, y = torch.zeros(1, 3, 1), torch.tensor([[0, 1, 0]])
    real = torch.tensor([[True, False, True]])
    TaskBatch(x, y * real, x, y * 0, support_mask=real)
    with pytest.raises(ValueError, match="class 1 of task 0 has no support row"):
        TaskBatch(x, y * real, x, y, support_mask=real)
    with pytest.raises(ValueError, match="class 0 of task 0 has no support row"):
        TaskBatch(x, torch.tensor([[1, 0, 1]]), x, y, support_mask=real)


def test_pictures_as_bytes_are_read_as_labelled_data_are():
    x, y = torch.randint(0, 256, (2, 4, 1, 5, 5), dtype=torch.uint8), torch.tensor([[0, 1, 0, 1]] * 2)
    batch = TaskBatch(x, y, x, y)
    assert torch.equal(batch.support_x[0], LabelledData(x)[0]) and batch.query_x.dtype == torch.float32
    assert batch.query_x.max() <= 1 and torch.equal(as_inputs(x), batch.support_x)


@pytest.mark.parametrize("dtype", [torch.int64, torch.float16, torch.bfloat16, torch.float64])
def test_other_inputs_stay_as_they_are(dtype):
    x, y = torch.arange(8).view(2, 4, 1).to(dtype), torch.tensor([[0, 1, 0, 1]] * 2)
    assert TaskBatch(x, y, x, y).support_x is x


def test_pooled_batches_tell_their_classes():
    batch = Pooled(LabelledData(torch.rand(6, 4, 2)), rows=3).sample(2, seed=0)
    assert batch.classes.tolist() == [list(range(6))] * 2 and batch.task(1).ways == 6


def test_tasks_are_chosen_by_a_tensor_of_numbers_too():
    x = torch.arange(12.0).view(4, 3, 1)
    batch = TaskBatch(x, x, x, x)
    chosen = batch[torch.tensor([2, 0, 2])]
    assert len(chosen) == 3 and torch.equal(chosen.support_x, x[[2, 0, 2]])
    assert len(batch[torch.tensor(1)]) == 1

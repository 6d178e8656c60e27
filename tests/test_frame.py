"""The frame: where a drawing lies and how large it is must not matter, what it shows must."""

import pytest
import torch

import metakit as mk


def drawing(size, shift=(0, 0)):
    """An L of `size` pixels, its corner at (6, 5) and moved by `shift`."""
    x = torch.zeros(1, 1, 40, 40, dtype=torch.float64)
    top, left = 6 + shift[0], 5 + shift[1]
    x[..., top : top + size, left : left + size // 4] = 1
    x[..., top + size - size // 4 : top + size, left : left + size] = 1
    return x


def test_a_drawing_moved_is_the_same_drawing():
    frame = mk.nn.Frame()
    torch.testing.assert_close(frame(drawing(12, (9, 4))), frame(drawing(12)), rtol=0, atol=1e-12)


def test_a_drawing_enlarged_is_nearly_the_same_and_another_is_not():
    frame = mk.nn.Frame()
    small, large, turned = (frame(x) for x in (drawing(12), drawing(24), drawing(12).rot90(1, (-2, -1))))
    assert (small - large).abs().mean() < 0.2 * (small - turned).abs().mean()


def test_the_ink_is_brought_to_the_middle_and_to_the_spread():
    x, place = mk.nn.Frame(0.3)(drawing(16)), (torch.arange(40, dtype=torch.float64) + 0.5) / 20 - 1
    rows, columns = x[0, 0].sum(1), x[0, 0].sum(0)
    means = [float((ink * place).sum() / ink.sum()) for ink in (rows, columns)]
    variance = sum(float((ink * place.square()).sum() / ink.sum()) for ink in (rows, columns)) / 2
    assert means == pytest.approx([0, 0], abs=0.01) and variance**0.5 == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize(
    "x", [torch.zeros(2, 3, 1, 28, 28), torch.zeros(1, 28, 28).index_fill(1, torch.tensor([3]), 0)]
)
def test_a_picture_without_ink_stays_as_it_is(x):
    assert torch.equal(mk.nn.Frame()(x), x)


def test_tasks_and_rows_in_front_are_kept():
    x = torch.rand(2, 3, 1, 28, 28)
    framed = mk.nn.Frame()(x)
    torch.testing.assert_close(framed[1, 2], mk.nn.Frame()(x[1, 2]))


@pytest.mark.parametrize("dim", [2, 3])
def test_a_picture_padded_to_another_shape_is_framed_as_it_was(dim):
    x = drawing(12)
    before, after = x.new_zeros(1, 1, 40, 3).movedim(3, dim), x.new_zeros(1, 1, 40, 9).movedim(3, dim)
    padded = mk.nn.Frame()(torch.cat([before, x, after], dim))
    torch.testing.assert_close(padded.narrow(dim, 6, 40), mk.nn.Frame()(x), rtol=0, atol=1e-12)


def test_a_framed_network_is_saved_with_its_frame(tmp_path):
    learner = mk.ProtoNet(mk.models.ConvNet(width=4, frame=True))
    mk.save(learner, tmp_path / "framed.pt")
    x, y = torch.rand(5, 1, 28, 28), torch.arange(5)
    loaded = mk.load(tmp_path / "framed.pt")
    assert isinstance(loaded.embedding.frame, mk.nn.Frame)
    assert torch.equal(loaded.predict(x, y, x), learner.predict(x, y, x))


@pytest.mark.parametrize("spread", [0, 1.5, "wide"])
def test_a_spread_out_of_range_is_refused(spread):
    with pytest.raises((ValueError, TypeError), match="spread must be"):
        mk.nn.Frame(spread)

"""Augment: each part against pictures moved by hand, and as a whole: seeded, bounded, picky about its input."""

import math

import pytest
import torch

from metakit.data.augment import affine, move, thicken
from metakit.tasks import Augment, Episodes, Glyphs

OFF = dict.fromkeys(("rotate", "scale", "shear", "shift", "elastic", "pen"), 0.0)


@pytest.fixture(scope="module")
def pictures():
    return Glyphs(2, 10, 3, seed=4).rows.double() / 255


def fixed(n, *, turn=0.0, factor=(1.0, 1.0), shear=0.0):
    """The same affine map for n pictures, float64."""
    turn, shear = (torch.full((n,), value, dtype=torch.float64) for value in (turn, shear))
    return affine(turn, torch.tensor(factor, dtype=torch.float64).expand(n, 2), shear)


def still(n):
    return torch.zeros(n, 2, dtype=torch.float64)


def test_without_strengths_the_picture_comes_back_as_it_is(pictures):
    assert torch.equal(Augment(**OFF)(pictures, torch.Generator().manual_seed(0)), pictures)


def test_a_map_that_moves_nothing_interpolates_nothing(pictures):
    n = len(pictures)
    field = torch.zeros(n, 2, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(move(pictures, fixed(n), still(n), field), pictures)


@pytest.mark.parametrize(("right", "down"), [(3, 0), (0, -2), (-1, 4)])
def test_a_shift_is_the_shifted_picture(pictures, right, down):
    n = len(pictures)
    shift = torch.tensor([right, down], dtype=torch.float64).expand(n, 2)
    expected = torch.nn.functional.pad(pictures, (right, -right, down, -down))
    torch.testing.assert_close(move(pictures, fixed(n), shift), expected)


def test_a_quarter_turn_is_clockwise_and_exact(pictures):
    turned = move(pictures, fixed(len(pictures), turn=math.pi / 2), still(len(pictures)))
    torch.testing.assert_close(turned, pictures.rot90(-1, (-2, -1)))
    shift = torch.tensor([3.0, 0.0], dtype=torch.float64).expand(len(pictures), 2)
    both = move(pictures, fixed(len(pictures), turn=math.pi / 2), shift)  # the shift comes after the turn
    torch.testing.assert_close(both, torch.nn.functional.pad(turned, (3, -3)))


def test_scale_and_shear_do_what_their_names_say():
    x = torch.zeros(1, 1, 21, 31, dtype=torch.float64)  # not square: units must not be mixed up
    x[..., 10, 20] = 1.0  # five pixels right of the middle (15, 10)
    assert move(x, fixed(1, factor=(2.0, 1.0)), still(1))[0, 0, 10, 25] == 1.0
    y = torch.zeros(1, 1, 21, 31, dtype=torch.float64)
    y[..., 14, 15] = 1.0  # four pixels below the middle
    torch.testing.assert_close(move(y, fixed(1, shear=0.5), still(1))[0, 0, 14, 17].item(), 1.0)
    assert move(y, fixed(1, factor=(1.0, 2.0)), still(1))[0, 0, 18, 15] == 1.0


def test_an_elastic_field_moves_each_place_by_its_own_displacement(pictures):
    n = len(pictures)
    field = torch.zeros(n, 2, 4, 4, dtype=torch.float64)
    field[:, 0], field[:, 1] = 2.0, -1.0
    torch.testing.assert_close(
        move(pictures, fixed(n), still(n), field), torch.nn.functional.pad(pictures, (2, -2, -1, 1))
    )
    x = torch.zeros(1, 1, 29, 29, dtype=torch.float64)
    x[..., 0, 5] = x[..., 28, 5] = 1.0
    field = torch.zeros(1, 2, 4, 4, dtype=torch.float64)
    field[:, 0, 0] = 3.0  # the upper rim goes right
    field[:, 1, 3] = -4.0  # the lower rim goes up
    moved = move(x, fixed(1), still(1), field)[0, 0]
    assert moved[0, 8] > 0.999 and moved[0].sum() < 1.001
    assert moved[28, 5] < 0.001 and moved[22:26, 5].max() > 0.5


def test_the_pen_thickens_and_thins(pictures):
    n = len(pictures)
    share = torch.linspace(-1, 1, 5, dtype=torch.float64)
    ink = [thicken(pictures, s.expand(n, 1, 1, 1)).mean().item() for s in share]
    assert ink == sorted(ink) and ink[0] < 0.9 * ink[2] and ink[4] > 1.5 * ink[2]
    assert torch.equal(thicken(pictures, torch.zeros(n, 1, 1, 1, dtype=torch.float64)), pictures)
    x = torch.zeros(1, 1, 5, 5)
    x[..., 2, 2] = 0.5
    cross = torch.tensor([[0.0, 0.25, 0.0], [0.25, 0.5, 0.25], [0.0, 0.25, 0.0]])
    assert torch.equal(thicken(x, torch.ones(1, 1, 1, 1))[0, 0, 1:4, 1:4], cross)
    assert thicken(x, -torch.ones(1, 1, 1, 1))[0, 0, 2, 2] == 0.25


@pytest.mark.parametrize("name", list(OFF))
def test_each_part_alone_changes_every_picture_differently_and_keeps_its_ink(pictures, name):
    strength = {"rotate": 15.0, "scale": 0.2, "shear": 0.2, "shift": 1.5, "elastic": 1.0, "pen": 0.3}[name]
    one = pictures[:1].expand(200, -1, -1, -1).float()
    changed = Augment(**OFF | {name: strength})(one, torch.Generator().manual_seed(0))
    assert len(changed.flatten(1).unique(dim=0)) == 200
    assert changed.min() >= 0 and changed.max() <= 1 + 1e-6
    assert 0.9 < changed.mean() / one.mean() < 1.15


def test_strengths_are_bounds_in_the_units_stated():
    x = torch.zeros(2000, 1, 29, 29)
    x[..., 14, 14] = 1.0
    where = torch.arange(29) - 14.0
    moved = Augment(**OFF | {"shift": 4.0})(x, torch.Generator().manual_seed(0))[:, 0]
    for profile in (moved.sum(1), moved.sum(2)):  # the centre of mass of one interpolated pixel is where it went
        places = profile @ where
        assert places.abs().max() <= 4.0 and abs(places.std().item() - 4 / 3**0.5) < 0.1
    x = torch.zeros(2000, 1, 29, 29)
    x[..., 14, 24] = 1.0
    turned = Augment(**OFF | {"rotate": 30.0})(x, torch.Generator().manual_seed(1))[:, 0]
    angle = torch.rad2deg(torch.atan2(turned.sum(2) @ where, turned.sum(1) @ where))
    assert 29 < angle.abs().max() < 31 and abs(angle.std().item() - 30 / 3**0.5) < 0.7


def test_it_is_seeded_by_the_generator_and_serves_episodes(pictures):
    x, augment = pictures.float(), Augment()
    one, two, other = (augment(x, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, two) and not torch.equal(one, other) and one.shape == x.shape
    tasks = Episodes(Glyphs(1, 6, 4), 5, 1, 2, augment=augment)
    batch, again = tasks.sample(3, seed=0), tasks.sample(3, seed=0)
    assert torch.equal(batch.query_x, again.query_x)
    plain = Episodes(Glyphs(1, 6, 4), 5, 1, 2).sample(3, seed=0)
    assert not torch.equal(batch.query_x, plain.query_x) and torch.equal(batch.query_y, plain.query_y)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"rotate": 181},
            "rotate must be finite and at least 0 and at most 180, got 181. Give a number in that range.",
        ),
        ({"scale": 1.5}, "scale must be finite and at least 0 and at most 1, got 1.5. Give a number in that range."),
        ({"shear": 2}, "shear must be finite and at least 0 and at most 1, got 2. Give a number in that range."),
        ({"pen": 1.1}, "pen must be finite and at least 0 and at most 1, got 1.1. Give a number in that range."),
        ({"shift": -1}, "shift must be finite and at least 0, got -1. Give a number in that range."),
        ({"elastic": float("nan")}, "elastic must be finite and at least 0, got nan. Give a number in that range."),
    ],
)
def test_strengths_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011, the message is compared
        Augment(**options)
    assert str(caught.value) == message


def test_what_is_no_strength_or_no_picture_is_refused():
    with pytest.raises(TypeError, match=r"^pen must be a real number, got 'thick'. Give a float.$"):
        Augment(pen="thick")
    with pytest.raises(TypeError, match=r"^x must be a tensor of real numbers, got torch.uint8. Convert it"):
        Augment()(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))
    with pytest.raises(TypeError, match=r"^x must be a tensor of real numbers, got list. Convert it"):
        Augment()([1.0])
    with pytest.raises(ValueError, match=r"^x must be \[n, C, H, W\], got \[1, 8, 8\]. One picture\?"):
        Augment()(torch.zeros(1, 8, 8))


@pytest.mark.gpu
def test_it_works_on_cuda():
    x = torch.rand(10, 1, 28, 28, device="cuda")
    one, two = (Augment()(x, torch.Generator("cuda").manual_seed(3)) for _ in range(2))
    assert one.device == x.device and torch.equal(one, two)
    assert Augment()(x, torch.Generator().manual_seed(3)).device == x.device

"""Labels straight from scores of patches: equal to the best of the enlarged scores, whatever the scores are."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mmseg_tr.nn.labels import Axis, enlarged_labels
from mmseg_tr.nn.segmenter import enlarge_scores

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def smooth(seed: int, batch: int, classes: int, grid: tuple[int, int]) -> torch.Tensor:
    """Scores as networks give them: regions of one class with borders between."""
    coarse = [max(side // 4, 1) for side in grid]
    noise = torch.randn(batch, classes, *coarse, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(3 * noise, size=grid, mode='bilinear')


def random(seed: int, batch: int, classes: int, grid: tuple[int, int]) -> torch.Tensor:
    return torch.randn(batch, classes, *grid, generator=torch.Generator().manual_seed(seed))


def tied(seed: int, batch: int, classes: int, grid: tuple[int, int]) -> torch.Tensor:
    """Few different numbers, so that many pixels have several best classes."""
    return smooth(seed, batch, classes, grid).round()


def broken(seed: int, batch: int, classes: int, grid: tuple[int, int]) -> torch.Tensor:
    scores = smooth(seed, batch, classes, grid)
    for number, value in enumerate((torch.nan, torch.inf, -torch.inf)):
        scores[number % batch, (seed + number) % classes, number % grid[0], seed % grid[1]] = value
    return scores


KINDS = dict(smooth=smooth, random=random, tied=tied, broken=broken)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    seed=st.integers(0, 10**6),
    batch=st.integers(1, 3),
    classes=st.integers(1, 12),
    grid=st.tuples(st.integers(1, 14), st.integers(1, 14)),
    patch=st.tuples(st.integers(2, 17), st.integers(2, 17)),
    cut=st.tuples(st.integers(0, 20), st.integers(0, 20)),
    straight=st.booleans(),
    dtype=st.sampled_from(DTYPES),
)
def test_labels_equal_the_best_of_the_enlarged_scores(kind, seed, batch, classes, grid, patch, cut, straight, dtype):
    scores = KINDS[kind](seed, batch, classes, grid).to(dtype)
    size = tuple(max(side * step - less, 1) for side, step, less in zip(grid, patch, cut))
    patch_size = None if straight else patch
    expected = enlarge_scores(scores, size, patch_size).argmax(1)
    assert torch.equal(enlarged_labels(scores, size, patch_size), expected)


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('classes', [2, 3, 4, 7])
def test_labels_are_exact_on_one_thread(one_thread, classes, dtype):
    """There torch enlarges three channels by other arithmetic than any other number."""
    for seed in range(20):
        for kind in (smooth, tied):
            scores = kind(seed, 2, classes, (10, 3)).to(dtype)
            expected = enlarge_scores(scores, (126, 40), None).argmax(1)
            assert torch.equal(enlarged_labels(scores, (126, 40), None), expected)


@pytest.mark.parametrize('kind', sorted(KINDS))
def test_labels_are_exact_at_the_published_sizes(kind):
    for classes, grid, size, patch_size in (
        (150, (32, 32), (512, 512), (16, 16)),
        (60, (30, 30), (475, 480), (16, 16)),
        (19, (64, 128), (512, 1024), None),
        (19, (33, 65), (500, 1001), None),
    ):
        scores = KINDS[kind](7, 1, classes, grid)
        expected = enlarge_scores(scores, size, patch_size).argmax(1)
        assert torch.equal(enlarged_labels(scores, size, patch_size), expected)


def test_full_scores_are_not_made_where_patches_agree(monkeypatch):
    enlarged = []

    def spy(scores, *args):
        enlarged.append(scores.shape[1])
        return enlarge_scores(scores, *args)

    monkeypatch.setattr('mmseg_tr.nn.labels.enlarge_scores', spy)
    regions = F.interpolate(random(0, 2, 150, (3, 3)), size=(32, 32), mode='bilinear')
    enlarged_labels(regions, (512, 512), (16, 16))
    assert all(channels < 30 for channels in enlarged)


def test_scores_laid_out_in_another_way_give_the_same_labels():
    scores = smooth(3, 2, 9, (12, 12))
    last = scores.contiguous(memory_format=torch.channels_last)
    assert torch.equal(enlarged_labels(last, (192, 192), None), enlarged_labels(scores, (192, 192), None))


def test_every_pixel_lies_in_one_cell_between_its_neighbouring_patches():
    axis = Axis.of(patches=5, whole=48, pixels=41, device=torch.device('cpu'))
    places = ((torch.arange(41) + 0.5) * 5 / 48 - 0.5).clamp(0)
    assert torch.equal(axis.sides[0][axis.cell], places.floor().long())
    pixels, own, _ = axis.pixels(torch.arange(6))
    assert sorted(pixels[own].tolist()) == list(range(41))

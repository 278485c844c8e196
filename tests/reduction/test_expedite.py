"""Expedite's clustering and reconstruction against the formulas written out, and the settings it refuses."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mmseg_tr.errors import ConfigError
from mmseg_tr.reduction.expedite import Expedite, Reconstruction, reconstruction_weights
from mmseg_tr.reduction.expedite.clustering import (
    cluster_patches,
    scaled_distances,
    start_cells,
    start_clusters,
    tile_axis,
)
from tests.reduction.methods import pictures, tiny_vit

few = settings(derandomize=True, deadline=None, max_examples=30)
sides = st.integers(1, 24)


def random_patches(grid: tuple[int, int], seed: int, batch: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, grid[0] * grid[1], 5, generator=generator, dtype=torch.float64)


def clustered_densely(x, grid, clusters, iterations, window, temperature):
    """All distances, those outside of the window made huge (section 2 of the method's description)."""
    cell, columns, number = start_cells(grid, clusters), clusters[1], torch.arange(clusters[0] * clusters[1])
    apart = [(cell[:, None] // columns - number // columns).abs(), (cell[:, None] % columns - number % columns).abs()]
    far = torch.maximum(*apart) > window // 2
    centres = start_clusters(x, grid, clusters)
    for _ in range(iterations):
        members = (-temperature * (scaled_distances(x, centres, 1) + far * 1e16)).softmax(-1).detach()
        centres = members.transpose(1, 2) @ x / members.sum(1)[..., None].clamp_min(1e-16)
    return centres


@pytest.mark.parametrize('length', range(1, 70, 3))
def test_start_cells_are_the_nearest_by_torch(length):
    for cells in range(1, 50):
        grid = torch.arange(cells).float()[None, None]
        assert torch.equal(start_cells((length, 1), (cells, 1)), F.interpolate(grid, size=length)[0, 0].long())


@pytest.mark.parametrize('length', [1, 2, 5, 16, 26, 44, 59])
def test_every_patch_belongs_to_one_tile_that_reads_all_it_may_reach(length):
    for cells, reach in itertools.product(range(1, 40, 4), range(4)):
        axis = tile_axis(length, cells, reach)
        far, own = axis.masks(torch.device('cpu'))
        cell = start_cells((length, 1), (cells, 1))
        owned = [start + place for start, row in zip(axis.patch_starts, own) for place in row.nonzero()[:, 0].tolist()]
        assert sorted(owned) == list(range(length))
        for tile, start in enumerate(axis.patch_starts):
            for place in own[tile].nonzero()[:, 0].tolist():
                reached = axis.cell_starts[tile] + (~far[tile, place]).nonzero()[:, 0]
                home = int(cell[start + place])
                assert reached.tolist() == list(range(max(home - reach, 0), min(home + reach + 1, cells)))


@few
@given(
    grid=st.tuples(sides, sides),
    clusters=st.tuples(sides, sides),
    iterations=st.integers(0, 3),
    window=st.sampled_from([1, 3, 5]),
    seed=st.integers(0, 99),
)
def test_clustering_in_tiles_is_clustering_with_all_distances(grid, clusters, iterations, window, seed):
    found, wanted = random_patches(grid, seed, 2).requires_grad_(), random_patches(grid, seed, 2).requires_grad_()
    args = (grid, clusters, iterations, window, 0.3)
    centres, densely = cluster_patches(found, *args), clustered_densely(wanted, *args)
    torch.testing.assert_close(centres, densely)
    centres.square().sum().backward()
    densely.square().sum().backward()
    torch.testing.assert_close(found.grad, wanted.grad)


def test_without_iterations_clusters_are_means_of_cells():
    x = random_patches((4, 6), 0)
    means = x.view(1, 2, 2, 3, 2, 5).mean((2, 4)).flatten(1, 2)
    torch.testing.assert_close(cluster_patches(x, (4, 6), (2, 3), iterations=0), means)


@pytest.mark.parametrize('weighting', ['l2', 'sum'])
@pytest.mark.parametrize('k', [1, 3, -1])
def test_weights_are_those_of_the_nearest(weighting, k):
    x = random_patches((4, 4), 0)
    patches, clusters = x[:, :10], x[:, 10:]
    weights = reconstruction_weights(patches, clusters, k, 0.3, weighting)
    for row, patch in zip(weights[0], patches[0]):
        distance = (patch - clusters[0]).square().sum(-1)
        nearest = distance.argsort()[: k if k > 0 else None]
        alone = (-0.3 * distance[nearest]).exp()
        wanted = torch.zeros(6, dtype=torch.float64)
        wanted[nearest] = alone / (alone.norm() if weighting == 'l2' else alone.sum())
        torch.testing.assert_close(row, wanted)


@pytest.mark.parametrize(('weighting', 'total'), [('l2', 3**0.5), ('sum', 1.0)])
def test_all_that_tie_with_the_kth_nearest_count(weighting, total):
    clusters = torch.tensor([[[1.0, 0], [-1, 0], [0, 1], [0, 5]]])
    weights = reconstruction_weights(torch.zeros(1, 1, 2), clusters, 2, 0.1, weighting)
    assert (weights > 0).tolist() == [[[True, True, True, False]]]
    torch.testing.assert_close(weights.sum(), torch.tensor(total))


def test_a_patch_far_from_every_cluster_is_zero_by_the_published_rule_and_the_nearest_by_the_other():
    far, clusters = torch.full((1, 1, 4), 1e3), torch.randn(1, 5, 4, generator=torch.Generator().manual_seed(0))
    assert reconstruction_weights(far, clusters, 2, 0.05, 'l2').eq(0).all()
    weights = reconstruction_weights(far, clusters, 2, 0.05, 'sum')
    torch.testing.assert_close(weights.sum(), torch.tensor(1.0))


def test_clusters_as_alike_as_rounding_are_told_apart():
    """In float32 both distances of the second patch would be equal, and both clusters its nearest."""
    clusters = torch.tensor([[[1.0, 100.0], [1.0000001, 100.0]]])
    weights = reconstruction_weights(torch.tensor([[[0.0, 0.0], [3.0, 0.0]]]), clusters, 1, 1e-6)
    assert (weights[0] > 0).tolist() == [[True, False], [False, True]]


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_reconstruction_under_autocast_is_in_float32(dtype):
    x = random_patches((4, 4), 0).float()
    with torch.autocast('cpu', dtype):
        weights = reconstruction_weights(x, x[:, :6], 3)
        values = Reconstruction(weights)(x[:, :6].to(dtype))
    assert weights.dtype == torch.float32 and values.dtype == dtype
    torch.testing.assert_close(weights, reconstruction_weights(x, x[:, :6], 3))


def test_layers_run_on_clusters_from_the_named_one_on():
    settings = dict(type='Expedite', layer=2, clusters=(3, 4), k=5)
    scores = tiny_vit(settings).forward_tokens(pictures(2, (8, 6)))
    assert scores.trace == ((65 - 16,) * 2,) + ((13,) * 2,) * 3
    inside = tiny_vit(settings | dict(reconstruct=3)).forward_tokens(pictures(2, (8, 6)))
    assert [counts[0] for counts in inside.trace] == [49, 13, 49, 49] and inside.reconstruct is None
    behind = tiny_vit(settings | dict(reconstruct='backbone')).forward_tokens(pictures(2, (8, 6)))
    assert behind.trace == scores.trace and behind.x.shape[1] == 49
    torch.testing.assert_close(behind.to_map(), scores.to_map())
    torch.testing.assert_close(behind.x[:, 0], scores.x[:, 0])


def test_clustering_leaves_the_prefix_as_it_is():
    vit = tiny_vit(dict(type='Expedite', layer=1, clusters=(2, 2), k=1), prefix=5)
    plain = tiny_vit(prefix=5)
    with torch.no_grad():
        clustered = vit.run(vit.embed(pictures(1, (8, 8))), 1)
        full = plain.run(plain.embed(pictures(1, (8, 8))), 1)
    torch.testing.assert_close(clustered.x[:, :5], full.x[:, :5])


def test_an_image_with_fewer_patches_than_clusters_is_the_plain_one():
    vit = tiny_vit(dict(type='Expedite', layer=1, clusters=(4, 4), k=3))
    image = pictures(2, (3, 5))
    with pytest.warns(UserWarning, match=r'grid \(3, 5\) has fewer patches than clusters=\(4, 4\)'):
        found = vit(image)[0]
    torch.testing.assert_close(found, tiny_vit()(image)[0])


def expedite(**changes) -> dict:
    return dict(type='Expedite', layer=2, clusters=(4, 4), k=5) | changes


@pytest.mark.parametrize(
    ('reduction', 'said'),
    [
        (expedite(layer=5), 'layer must be .*from 1 to 4.*got 5'),
        (expedite(layer=0), 'layer must be .*got 0'),
        (expedite(layer=2.0), 'layer must be .*got 2.0'),
        (expedite(layer=True), 'layer must be .*got True'),
        (expedite(clusters=16), r'clusters must be .*got 16'),
        (expedite(clusters=(4, 0)), 'clusters must be .rows, columns'),
        (expedite(clusters=(4, 4, 4)), 'clusters must be .rows, columns'),
        (expedite(clusters=(9, 8)), 'clusters must be at most the 64 patches'),
        (expedite(k=17), 'k must be at most the 16 clusters'),
        (expedite(k=0), 'k must be .*got 0'),
        (expedite(k=-2), 'k must be .*got -2'),
        (expedite(window=4), 'window must be .*got 4'),
        (expedite(window=0), 'window must be .*got 0'),
        (expedite(iterations=-1), 'iterations must be .*got -1'),
        (expedite(temperature=0), 'temperature must be .*got 0'),
        (expedite(temperature=float('nan')), 'temperature must be .*got nan'),
        (expedite(reconstruct_temperature=-1), 'reconstruct_temperature must be .*got -1'),
        (expedite(reconstruct='head'), "reconstruct must be 'scores', 'backbone' .*got 'head'"),
        (expedite(reconstruct=2), 'reconstruct must be .*got 2'),
        (expedite(reconstruct=4), "reconstruct must be 'backbone' .*got 4"),
        (expedite(reconstruct=5), 'reconstruct must be .*got 5'),
        (expedite(reconstruct=True), 'reconstruct must be .*got True'),
        (expedite(weighting='l1'), "weighting must be one of 'l2', 'sum', got 'l1'"),
        (expedite(num_spixels=16), "no setting 'num_spixels': its settings are layer, clusters"),
    ],
    ids=str,
)
def test_refused_when_the_model_is_built(reduction, said):
    with pytest.raises(ConfigError, match=said):
        tiny_vit(reduction)


@pytest.mark.parametrize(
    ('reduction', 'said'),
    [
        (expedite(clusters=(8, 8)), 'as many as patches: nothing is saved'),
        (expedite(layer=4, reconstruct='backbone'), 'no layer runs on clusters'),
    ],
    ids=str,
)
def test_settings_that_save_nothing_are_told_once(reduction, said):
    with pytest.warns(UserWarning, match=said) as told:
        tiny_vit(reduction)
    assert len(told) == 1


def test_published_settings_are_accepted_in_silence(recwarn):
    for clusters, layer, grid in [((28, 28), 10, (40, 40)), ((32, 32), 12, (48, 48)), ((15, 15), 12, (30, 30))]:
        Expedite(layer=layer, clusters=clusters).bind(24, grid, 1)
    assert not recwarn

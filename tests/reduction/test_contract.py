"""What every token-reduction method keeps, whatever it merges: one harness, a row a method (methods.py)."""

from __future__ import annotations

import threading
from contextlib import nullcontext

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mmseg_tr.nn import LinearDecoder, MaskTransformer, Segmenter
from tests.reduction.methods import METHODS, PATCH, PREFIXES, patch_sizes, pictures, places, shared_vit, tiny_vit

few = settings(derandomize=True, deadline=None, max_examples=12)
prefixes = st.sampled_from(sorted(PREFIXES))
grids = st.tuples(st.integers(2, 9), st.integers(2, 9))
batches = st.integers(1, 3)
seeds = st.integers(0, 99)
dtypes = st.sampled_from([torch.float32, torch.float64])
every_method = pytest.mark.parametrize('method', METHODS, ids=str)
joint_methods = pytest.mark.parametrize('method', [method for method in METHODS if method.joint], ids=str)
idle_methods = pytest.mark.parametrize('method', [method for method in METHODS if method.idle], ids=str)
conserving_methods = pytest.mark.parametrize('method', [method for method in METHODS if method.conserves], ids=str)


@every_method
def test_pictures_are_reduced_by_different_amounts(method):
    """The shared tests below would say little if nothing merged, or the same in every picture."""
    tokens = tiny_vit(method.settings).forward_tokens(pictures(3, (8, 8)))
    assert all((count < 65) == method.shortens for count in tokens.trace[-1])
    assert len(set(tokens.trace[-1])) > 1 or not method.joint


@every_method
@few
@given(prefix=prefixes, grid=grids, batch=st.integers(2, 3), seed=seeds, dtype=dtypes)
def test_result_is_independent_of_batch_mates(method, prefix, grid, batch, seed, dtype):
    assume(method.takes(prefix))
    vit, images = shared_vit(method.settings, prefix, grid, dtype), pictures(batch, grid, seed, dtype)
    with torch.no_grad():
        together = vit.forward_tokens(images)
        maps = together.to_map()
        for number, image in enumerate(images.split(1)):
            alone = vit.forward_tokens(image)
            assert [counts[number] for counts in together.trace] == [counts[0] for counts in alone.trace]
            torch.testing.assert_close(places(together)[number], places(alone)[0])
            torch.testing.assert_close(patch_sizes(together)[number], patch_sizes(alone)[0])
            torch.testing.assert_close(maps[number], alone.to_map()[0], atol=1e-5, rtol=1e-5)


@joint_methods
@few
@given(prefix=prefixes, grid=grids, batch=batches, seed=seeds)
@torch.no_grad()
def test_joint_rule_leaves_equally_many_tokens_in_every_image(method, prefix, grid, batch, seed):
    vit = shared_vit({**method.settings, 'batch': 'joint'}, prefix, grid)
    tokens = vit.forward_tokens(pictures(batch, grid, seed))
    assert tokens.lengths is None
    assert all(len(set(counts)) == 1 for counts in tokens.trace)


@joint_methods
@few
@given(prefix=prefixes, grid=grids, batch=batches, seed=seeds)
@torch.no_grad()
def test_joint_rule_reduces_as_little_as_the_least_reducible_image(method, prefix, grid, batch, seed):
    """True of the first merge, in front of which both rules see the same tokens."""
    images = pictures(batch, grid, seed)
    first = [
        shared_vit({**method.settings, 'batch': rule}, prefix, grid).forward_tokens(images).trace[0]
        for rule in ('per_image', 'joint')
    ]
    assert first[1] == (max(first[0]),) * batch


@conserving_methods
@few
@given(prefix=prefixes, grid=grids, batch=batches, seed=seeds)
@torch.no_grad()
def test_every_patch_has_exactly_one_token(method, prefix, grid, batch, seed):
    assume(method.takes(prefix))
    tokens = shared_vit(method.settings, prefix, grid).forward_tokens(pictures(batch, grid, seed))
    assert tokens.num_prefix == prefix
    for index, size, count in zip(places(tokens), patch_sizes(tokens), tokens.counts):
        assert len(size) == count - prefix
        assert index.min() >= 0 and index.max() < len(size)
        torch.testing.assert_close(torch.bincount(index, minlength=len(size)).float(), size)
        assert size.sum() == grid[0] * grid[1] and size.min() >= 1


@every_method
@few
@given(prefix=prefixes, grid=grids, batch=batches, seed=seeds)
@torch.no_grad()
def test_restoring_gives_every_patch_a_value(method, prefix, grid, batch, seed):
    assume(method.takes(prefix))
    vit = shared_vit(method.settings, prefix, grid)
    patches = vit.forward_tokens(pictures(batch, grid, seed)).patches()
    ones = patches.restore(torch.ones(*patches.x.shape[:2], 2))
    torch.testing.assert_close(ones, torch.ones(batch, grid[0] * grid[1], 2))
    (restored,) = vit(pictures(batch, grid, seed))
    assert restored.shape == (batch, 16, *grid) and restored.is_contiguous() and restored.isfinite().all()


@every_method
@few
@given(grid=grids, other=grids, batch=batches)
@pytest.mark.filterwarnings('ignore:ALGM', 'ignore:Expedite', 'ignore:EViT', 'ignore:.* merges none of')
@torch.no_grad()
def test_any_image_size_runs_on_any_network(method, grid, other, batch):
    """Grids that are odd, not square, other than the network's, and images that are no multiple of the patch."""
    vit = shared_vit(method.settings, grid=grid)
    image = pictures(batch, other)[..., : other[0] * PATCH - 1, : other[1] * PATCH - 3]
    assert vit(image)[0].shape == (batch, 16, *other)


@every_method
def test_images_smaller_than_anything_to_merge_run(method):
    vit = tiny_vit(method.settings)
    with pytest.warns(UserWarning, match=method.too_small) if method.too_small else nullcontext():
        assert vit(pictures(2, (1, 1)))[0].shape == (2, 16, 1, 1)


@every_method
def test_state_dict_is_that_of_the_plain_network(method):
    plain, reduced = tiny_vit().state_dict(), tiny_vit(method.settings).state_dict()
    assert list(plain) == list(reduced)
    assert all(torch.equal(plain[key], reduced[key]) for key in plain)


@every_method
def test_forwards_leave_nothing_on_modules(method):
    vit = tiny_vit(method.settings)
    before = {name: dict(vars(module)) for name, module in vit.named_modules()}
    of_method = dict(vars(vit.reduction))
    vit(pictures(3, (8, 8)))
    vit.train()(pictures(2, (5, 7)))[0].sum().backward()
    vit.eval().zero_grad()
    for name, module in vit.named_modules():
        assert vars(module) == before[name], name
    assert vars(vit.reduction) == of_method


@every_method
def test_two_threads_and_two_models_do_not_disturb_each_other(method):
    models = [tiny_vit(method.settings), tiny_vit(method.settings, prefix=5), tiny_vit()]
    inputs = [pictures(batch, grid, seed) for batch, grid, seed in [(3, (8, 8), 0), (1, (5, 7), 1), (2, (9, 4), 2)]]
    with torch.no_grad():
        alone = [[model(image)[0] for image in inputs] for model in models]
    together, barrier = {}, threading.Barrier(4)

    def work(thread: int) -> None:
        barrier.wait()
        for step in range(6):
            i, j = (thread + step) % 3, (thread + step // 3) % 3
            with torch.no_grad():
                together[thread, step] = i, j, models[i](inputs[j])[0]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(together) == 24 and len({pair[:2] for pair in together.values()}) == 9
    for i, j, found in together.values():
        torch.testing.assert_close(found, alone[i][j], atol=1e-6, rtol=1e-6)


@every_method
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
def test_decisions_stay_in_float32_under_autocast(method, dtype):
    vit, images = tiny_vit(method.settings), pictures(3, (8, 8))
    with torch.autocast('cpu', dtype), torch.no_grad():
        tokens = vit.forward_tokens(images)
    for step in tokens.steps:
        assert step.size.dtype == torch.float32
        assert all(similarity.dtype == torch.float32 for similarity in step.merge.similarity)
    assert tokens.to_map().isfinite().all()


@every_method
def test_half_precision_networks_run_and_decide_in_float32(method):
    tokens = tiny_vit(method.settings).bfloat16().forward_tokens(pictures(2, (8, 8)).bfloat16())
    assert tokens.x.dtype == torch.bfloat16
    assert all(similarity.dtype == torch.float32 for step in tokens.steps for similarity in step.merge.similarity)
    if method.conserves:
        of_images = torch.stack([size.sum() for size in patch_sizes(tokens)])
        torch.testing.assert_close(of_images, torch.full((2,), 64.0))


@every_method
@pytest.mark.parametrize('prefix', sorted(PREFIXES))
def test_gradients_reach_every_parameter(method, prefix):
    if not method.takes(prefix):
        pytest.skip(f'{method} needs a class token')
    vit = tiny_vit(method.settings, prefix).train()
    vit(pictures(3, (8, 8)))[0].square().sum().backward()
    for name, parameter in vit.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@idle_methods
@pytest.mark.filterwarnings('ignore:ALGM threshold', 'ignore:.* (merges|drops) none of')
def test_outputs_and_gradients_are_the_plain_ones_when_nothing_merges(method):
    images, found = pictures(2, (8, 8)), []
    for reduction in (None, method.idle):
        vit = tiny_vit(reduction)
        (maps,) = vit(images)
        maps.square().sum().backward()
        found.append((maps, [parameter.grad for parameter in vit.parameters()]))
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-5)


@every_method
def test_recomputing_blocks_changes_nothing(method):
    images, found = pictures(3, (8, 8)), []
    for with_cp in (False, True):
        vit = tiny_vit(method.settings, with_cp=with_cp).train()
        (maps,) = vit(images)
        maps.square().sum().backward()
        found.append((maps, [parameter.grad for parameter in vit.parameters()]))
    torch.testing.assert_close(*found)


@every_method
def test_every_level_is_restored_to_the_grid(method):
    vit = tiny_vit(method.settings, out_indices=(0, 2, -1))
    levels = vit(pictures(3, (8, 8)))
    assert [tuple(level.shape) for level in levels] == [(3, 16, 8, 8)] * 3
    (last,) = tiny_vit(method.settings)(pictures(3, (8, 8)))
    torch.testing.assert_close(levels[-1], last)


@every_method
@few
@given(prefix=prefixes, grid=grids, batch=batches, seed=seeds, decoder=st.sampled_from(['linear', 'mask']))
def test_decoders_score_every_patch_independently_of_batch_mates(method, prefix, grid, batch, seed, decoder):
    assume(method.takes(prefix))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = LinearDecoder(5, 16) if decoder == 'linear' else MaskTransformer(5, 16)
    model = Segmenter(shared_vit(method.settings, prefix, grid, out='tokens'), head).eval()
    images = pictures(batch, grid, seed)
    with torch.no_grad():
        scores, logits = model.scores(images), model(images)
        assert scores.shape == (batch, 5, *grid) and logits.shape == (batch, 5, *images.shape[-2:])
        for number, image in enumerate(images.split(1)):
            torch.testing.assert_close(scores[number], model.scores(image)[0], atol=1e-5, rtol=1e-5)


@every_method
def test_tokens_in_front_of_a_convolution_are_refused_in_words(method):
    (tokens,) = tiny_vit(method.settings, out='tokens')(pictures(2, (8, 8)))
    with pytest.raises(TypeError, match="conv2d.*out='maps'"):
        torch.nn.Conv2d(16, 3, 1)(tokens)


@every_method
def test_stochastic_depth_in_training_runs_on_packed_images(method):
    torch.manual_seed(0)
    vit = tiny_vit(method.settings, drop_path_rate=0.5, drop_rate=0.1).train()
    (maps,) = vit(pictures(3, (8, 8)))
    maps.sum().backward()
    assert maps.isfinite().all()

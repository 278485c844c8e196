"""What a host must survive: no images, failing descriptions, training mode, a network called within its own forward."""

import copy
from functools import partial

import pytest
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import mmseg_tr
from mmseg_tr.errors import ConfigError
from mmseg_tr.nn.attention import SelfAttention
from tests.hosts.checks import check_bare
from tests.hosts.test_timm import COMMON, METHODS, apply, images, network


@torch.no_grad()
def test_a_batch_of_no_images_gives_what_the_plain_network_gives():
    model, x = network(), images()
    want = model(x[:0])
    for name in METHODS:
        reduced = apply(model, name)(x)
        assert model(x[:0]).shape == want.shape == (0, COMMON['num_classes'])
        assert torch.equal(model(x), reduced)
        mmseg_tr.remove(model)


class Failing(SelfAttention):
    def __init__(self, module):
        if module.num_heads == 1:
            raise RuntimeError('no such attention')
        super().__init__(module)


def test_a_description_that_fails_in_the_middle_changes_nothing():
    model = network(num_classes=0)
    model.blocks[2].attn.num_heads = 1
    state, hooks = copy.deepcopy(model.state_dict()), [len(part._forward_pre_hooks) for part in model.modules()]
    host = mmseg_tr.Host(blocks='blocks', grid=(6, 8), attention=Failing)
    with pytest.raises(RuntimeError, match='no such attention'):
        mmseg_tr.apply(model, 'ALGM', host=host)
    check_bare(model, state)
    assert hooks == [len(part._forward_pre_hooks) for part in model.modules()]


def test_calibration_changes_no_statistics_and_no_mode():
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(3), network(dtype=torch.float32)).train()
    state = copy.deepcopy(model.state_dict())
    mmseg_tr.apply(model, 'ALGM', budget=0.8, calibrate=images(dtype=torch.float32))
    assert model.training and model[0].training
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_reentrant_checkpointing_is_refused_since_it_would_cut_gradients_off():
    model, x = network().train(), images()
    apply(model, 'ALGM')
    plain = [block.forward for block in model.blocks]
    for reentrant in (False, True):
        for block, forward in zip(model.blocks, plain):
            block.forward = partial(checkpointed, forward, reentrant)
        if reentrant:
            with pytest.raises(ConfigError, match='use_reentrant'):
                model(x)
            with torch.no_grad():
                model(x)
        else:
            model(x).sum().backward()


def checkpointed(forward, reentrant, x, **named):
    return checkpoint(partial(forward, **named), x, use_reentrant=reentrant)


def test_a_network_under_ddp_has_the_gradients_of_the_network(tmp_path):
    distributed.init_process_group('gloo', init_method=f'file://{tmp_path}/met', rank=0, world_size=1)
    try:
        x, gradients = images(), []
        for wrap in (lambda model: model, DistributedDataParallel):
            model = apply(network(), 'ALGM').train().requires_grad_()
            result = wrap(model)(x)
            result.square().sum().backward()
            gradients.append([result.detach(), *(weight.grad for weight in model.parameters())])
        for a, b in zip(*gradients, strict=True):
            torch.testing.assert_close(a, b)
    finally:
        distributed.destroy_process_group()


@torch.no_grad()
def test_a_network_called_within_its_own_forward_disturbs_nothing():
    pytest.importorskip('transformers')
    from tests.hosts import test_dense_heads

    for model, last in ((network('modern'), None), (test_dense_heads.network('EoMT'), 'layers.1')):
        x = images(size=(64, 64))
        mmseg_tr.apply(model, 'ALGM', **METHODS['ALGM'])
        read = (lambda found: found) if last is None else (lambda found: found.masks_queries_logits)
        want, other, seen = read(model(x)), read(model(x[:1])), []

        def again(module, args, output, model=model, read=read, x=x, seen=seen):
            if not seen:
                seen.append(None)
                seen[0] = read(model(x[:1]))

        place = model.patch_embed if last is None else model.get_submodule(last)
        hook = place.register_forward_hook(again)
        assert torch.equal(read(model(x)), want) and torch.equal(seen[0], other)
        hook.remove()

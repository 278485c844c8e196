"""What others wrap around a network: hooks on blocks, FSDP2 block by block, functional_call, TorchScript."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.distributed as dist
from torch.distributed import fsdp
from torch.func import functional_call, grad

from mmseg_tr import apply, remove
from mmseg_tr.errors import ExportError
from mmseg_tr.nn import MaskTransformer, MixVisionTransformer, Segmenter, ViT
from mmseg_tr.nn.encoders import timm
from tests.reduction.methods import METHODS, pictures, tiny_vit
from tests.torch_versions import GRADIENTS, needs_newer_torch

MIT = dict(embed_dims=8, num_layers=(1, 2), num_heads=(1, 2), patch_sizes=(7, 3), strides=(4, 2), sr_ratios=(2, 1))
NETWORKS = ['plain', *map(str, METHODS), 'MiT', 'MiT-bsm']


def network(name: str, **kwargs) -> ViT | MixVisionTransformer:
    if name.startswith('MiT'):
        keys = dict(kv_mode='bsm', kv_r=0.5, kv_sx=2, kv_sy=2)
        torch.manual_seed(0)
        return MixVisionTransformer(
            MIT, out_indices=(0, 1), reduction=[keys, keys] if name == 'MiT-bsm' else None
        ).eval()
    return tiny_vit(next((method.settings for method in METHODS if method.name == name), None), **kwargs)


def blocks_of(model: ViT | MixVisionTransformer) -> list[torch.nn.Module]:
    return (
        list(model.blocks) if isinstance(model, ViT) else [block for _, blocks, _ in model.layers for block in blocks]
    )


@pytest.mark.parametrize('name', NETWORKS)
@torch.no_grad()
def test_hooks_of_a_block_see_tensors_and_may_change_them(name):
    model, x = network(name), pictures(2, (8, 8))
    want, seen = model(x), []
    block = blocks_of(model)[1]
    handles = [
        block.register_forward_pre_hook(lambda module, args: seen.append((module, args[0].shape))),
        block.register_forward_hook(lambda module, args, out: seen.append((module, out))),
    ]
    torch.testing.assert_close(model(x), want, rtol=0, atol=0)
    (before, shape), (after, out) = seen
    out = out if isinstance(out, torch.Tensor) else out[0]
    assert before is after is block and out.dim() == 3 and shape[2] == out.shape[2]
    for handle in handles:
        handle.remove()

    def doubled(module, args, out):
        return 2 * out if isinstance(out, torch.Tensor) else (2 * out[0], *out[1:])

    block.register_forward_hook(doubled)
    assert not torch.equal(model(x)[-1], want[-1])


def test_a_hook_on_a_block_fires_as_often_and_on_the_same_tensors_as_on_timms():
    reference = timm.create_model('test_vit', num_classes=0, img_size=32).eval()
    model, x = ViT(reference).eval(), torch.rand(2, 3, 32, 32)
    seen = []
    reference.blocks[0].register_forward_hook(lambda module, args, out: seen.append((args[0], out)))
    reference.forward_features(x)
    model(x)
    (timms_in, timms_out), (ours_in, ours_out) = seen
    torch.testing.assert_close((ours_in, ours_out), (timms_in, timms_out), rtol=1e-5, atol=1e-6)
    gradients = []
    model.blocks[1].register_full_backward_hook(lambda module, ins, outs: gradients.append(outs[0].shape))
    model(x)[-1].sum().backward()
    assert gradients == [ours_out.shape]


@pytest.mark.parametrize('name', NETWORKS)
def test_functional_call_equals_a_network_with_those_weights(name):
    model, x = network(name), pictures(2, (8, 8))
    weights = {key: value.detach() * 1.1 for key, value in model.named_parameters()}
    other = copy.deepcopy(model)
    other.load_state_dict(weights, strict=False)
    torch.testing.assert_close(functional_call(model, weights, (x,)), other(x), rtol=0, atol=0)

    if name in ('ALGM', 'MPM', 'MPM-tokens', 'ACT'):
        needs_newer_torch(GRADIENTS)

    def loss(parameters: dict) -> torch.Tensor:
        return functional_call(model, parameters, (x,))[-1].square().mean()

    slope = grad(loss)(weights)
    loss_of_other = other(x)[-1].square().mean()
    loss_of_other.backward()
    for key, value in other.named_parameters():
        if value.grad is not None:
            torch.testing.assert_close(slope[key], value.grad, rtol=1e-4, atol=1e-6)


@pytest.fixture(scope='module')
def mesh(tmp_path_factory):
    store = dist.FileStore(str(tmp_path_factory.mktemp('store') / 'store'), 1)
    dist.init_process_group('gloo', rank=0, world_size=1, store=store)
    yield dist.device_mesh.init_device_mesh('cpu', (1,))
    dist.destroy_process_group()


needs_fsdp2 = pytest.mark.skipif(not hasattr(fsdp, 'fully_shard'), reason='FSDP2 is in torch 2.6 and newer')


@needs_fsdp2
@pytest.mark.parametrize('name', NETWORKS)
def test_sharding_block_by_block_trains_as_without(name, mesh):
    model, x = network(name).train(), pictures(2, (8, 8))
    sharded = copy.deepcopy(model)
    for block in blocks_of(sharded):
        fsdp.fully_shard(block, mesh=mesh)
    fsdp.fully_shard(sharded, mesh=mesh)
    outputs = []
    for net in (model, sharded):
        out = net(x)[-1]
        out.square().mean().backward()
        outputs.append(out.detach())
    torch.testing.assert_close(*outputs, rtol=0, atol=0)
    for (key, ours), (_, theirs) in zip(model.named_parameters(), sharded.named_parameters(), strict=True):
        if ours.grad is not None:
            torch.testing.assert_close(theirs.grad.full_tensor(), ours.grad, rtol=1e-5, atol=1e-7, msg=key)


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
@pytest.mark.parametrize('name', NETWORKS)
def test_torchscript_is_refused_or_right(name):
    model, x = network(name), pictures(2, (8, 8))
    with pytest.raises(ExportError, match='TorchScript'):
        torch.jit.script(model)
    if name in ('plain', 'MiT'):
        other = pictures(2, (8, 8), seed=1)
        traced = torch.jit.trace(model, x, check_trace=False)
        torch.testing.assert_close(traced(other), model(other), rtol=1e-5, atol=1e-6)
    else:
        with pytest.raises(ExportError, match='TorchScript'):
            torch.jit.trace(model, x)


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
def test_torchscript_is_refused_for_networks_around_and_for_hosts():
    encoder = tiny_vit(METHODS[0].settings, out='tokens')
    segmenter = Segmenter(encoder, MaskTransformer(3, encoder.embed_dim))
    host = timm.create_model('test_vit', num_classes=0, img_size=32).eval()
    apply(host, 'ALGM')
    for model in (segmenter, host):
        with pytest.raises(ExportError, match='TorchScript'):
            torch.jit.script(model)
    with pytest.raises(ExportError, match='TorchScript'):
        torch.jit.trace(host, torch.rand(1, 3, 32, 32))
    assert '__prepare_scriptable__' not in vars(remove(host).blocks[0])

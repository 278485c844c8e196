"""create_model and torch.hub: networks by name, published settings, weights of whole models and of backbones."""

import inspect

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import mmseg_tr
from mmseg_tr import create_model
from mmseg_tr.errors import CheckpointError, ConfigError, DatasetError
from mmseg_tr.nn import LinearDecoder
from mmseg_tr.nn.image_transform import ImageTransform
from mmseg_tr.reduction import default_settings, method_names
from mmseg_tr.weights.published import SEGMENTER
from tests.clean import OPENMMLAB, ROOT
from tests.fresh import run_fresh
from tests.nn.networks import image
from tests.releases import WIDTH, net_kwargs, write_release
from tests.segformers import ARCH, CHANNELS, nvidia, segformer
from tests.weights.test_mit import HF_ARCH, hugging_face

VIT = dict(embed_dim=WIDTH, depth=2, num_heads=2, patch_size=8)

HUB = """
import torch
from PIL import Image
from mmseg_tr import create_model
model = create_model('segformer_b0', 'bsm_hq', num_classes=19).eval()
with torch.no_grad():
    print(tuple(model(torch.rand(1, 3, 128, 192)).shape))
hub = dict(repo_or_dir={root!r}, source='local')
model = torch.hub.load(**hub, model='segformer_plusplus', backbone='b0', tome_strategy='bsm_fast', out_channels=4)
plain = torch.hub.load(**hub, model='segformer_plusplus', backbone='b0', tome_strategy=None, out_channels=4)
plain.load_state_dict(model.state_dict())
transform = torch.hub.load(**hub, model='data_transforms', resolution=(128, 160))
x = transform((torch.arange(90 * 120 * 3) % 251).view(90, 120, 3).byte().numpy())[None]
with torch.no_grad():
    a, b = model(x), plain(x)
print(tuple(x.shape), tuple(a.shape), model.training, torch.equal(a, b))
other = torch.hub.load(**hub, model='create_model', name='segformer_b0', num_classes=3)
with torch.no_grad():
    print(tuple(other.eval()(x).shape))
print(sorted(name for name in sys.modules if name in {openmmlab!r}))
try:
    torch.hub.load(**hub, model='segformer_plusplus', checkpoint_url='file:///nowhere/mit.pth')
except ValueError as error:
    print(type(error).__name__, str(error).count(chr(10)))
"""


def test_create_model_and_torch_hub_work_where_only_torch_and_timm_are_installed():
    code = HUB.format(root=str(ROOT), openmmlab=OPENMMLAB)
    lines = run_fresh(code, blocked=OPENMMLAB).splitlines()
    assert lines[-5:] == [
        '(1, 19, 128, 192)',
        '(1, 3, 128, 160) (1, 4, 32, 40) False False',  # fast merges, which the published hub entry did not
        '(1, 3, 128, 160)',
        '[]',
        'CheckpointError 0',
    ]


def test_only_what_exists_is_exported():
    with pytest.raises(AttributeError, match="no attribute 'create_modell'"):
        _ = mmseg_tr.create_modell


@pytest.mark.parametrize('method', ['bsm-hq', [dict(q_mode='n2d', q_s=(2, 2)), {}, {}, {}], 'downsample'])
def test_segformer_merges_as_asked_and_keeps_the_weights(method):
    torch.manual_seed(0)
    plain = create_model('segformer', arch=ARCH, num_classes=5).eval()
    merging = create_model('segformer', method, arch=ARCH, num_classes=5, in_channels=3, resolution='quarter').eval()
    merging.load_state_dict(plain.state_dict())
    x = image(1, 3, 128, 128)
    with torch.no_grad():
        scores = merging(x)
        assert scores.shape[2:] == ((16, 16) if method == 'downsample' else (32, 32))
        assert scores.shape != plain.scores(x).shape or not torch.equal(scores, plain.scores(x))


@pytest.mark.parametrize('head', ['conv', 'linear'])
def test_whole_segformers_are_loaded_with_the_head_they_have(tmp_path, head):
    source = segformer(head)
    state = nvidia(source.state_dict()) if head == 'linear' else source.state_dict()
    torch.save({'state_dict': state}, tmp_path / 'model.pth')
    model = create_model('segformer', arch=ARCH, num_classes=5, pretrained=tmp_path / 'model.pth').eval()
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in model.state_dict().items())
    assert model.backbone.layers[0][0].norm.eps == (1e-5 if head == 'linear' else 1e-6)
    assert model.backbone.layers[0][2].eps == 1e-6


def test_hugging_face_model_gives_its_own_logits(tmp_path):
    state, results = hugging_face()
    save_file(state, tmp_path / 'model.safetensors')
    kept = dict(arch=HF_ARCH, num_classes=5, resolution='quarter')
    model = create_model('segformer', pretrained=tmp_path / 'model.safetensors', **kept).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(results['x'].float() / 32), results['logits'], atol=2e-5, rtol=1e-4)


def test_backbone_weights_leave_the_head_as_it_is(tmp_path):
    source = segformer()
    torch.save(source.backbone.state_dict(), tmp_path / 'mit.pth')
    model = create_model('segformer', arch=ARCH, num_classes=7, channels=CHANNELS, pretrained=str(tmp_path / 'mit.pth'))
    assert torch.equal(model.backbone.layers[3][2].bias, source.backbone.layers[3][2].bias)
    assert model.decode_head.conv_seg.weight.shape[0] == 7


@pytest.mark.parametrize('decoder', ['mask', 'linear'])
@pytest.mark.parametrize('form', ['official', 'ours', 'own'])
def test_whole_segmenters_are_loaded_strictly(tmp_path, decoder, form):
    kwargs = net_kwargs('linear' if decoder == 'linear' else 'mask_transformer')
    path = write_release(tmp_path / 'release', dict(net_kwargs=kwargs))
    build = dict(arch=VIT, img_size=(32, 48), num_classes=5, decoder=decoder)
    build |= dict(decoder_depth=1) if decoder == 'mask' else {}
    model = create_model('segmenter', **build, pretrained=path.parent if form == 'official' else path)
    if form != 'official':
        state = model.state_dict()
        if form == 'ours':
            names = (('encoder.', 'backbone.'), ('decoder.', 'decode_head.decoder.'))
            state = {key.replace(*names[key.startswith('decoder.')], 1): value for key, value in state.items()}
        torch.save({'state_dict': state} if form == 'ours' else state, tmp_path / 'model.pth')
        again = create_model('segmenter', 'algm', **build, pretrained=tmp_path / 'model.pth')
        assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())
        with pytest.raises(CheckpointError, match='holds the weights of another network'):
            create_model('segmenter', **build | dict(num_classes=6), pretrained=tmp_path / 'model.pth')
    assert isinstance(model.decoder, LinearDecoder) == (decoder == 'linear')


@pytest.mark.filterwarnings('ignore:CTS')
@pytest.mark.parametrize('name', method_names('ViT'))
def test_every_method_by_name_runs_on_a_small_vit(name):
    arch = dict(embed_dim=32, depth=6, num_heads=2, patch_size=8)
    torch.manual_seed(0)
    model = create_model(
        'segmenter', name.lower(), arch=arch, img_size=(64, 96), num_classes=3, decoder='linear'
    ).eval()
    plain = create_model('segmenter', arch=arch, img_size=(64, 96), num_classes=3, decoder='linear').eval()
    assert model.encoder.reduction.name == name
    plain.load_state_dict({key: value for key, value in model.state_dict().items() if 'reduction' not in key})
    with torch.no_grad():
        logits = model(image(2, 3, 64, 96))
        assert logits.shape == (2, 3, 64, 96) and logits.isfinite().all()
        assert not torch.equal(logits, plain(image(2, 3, 64, 96)))


def test_methods_by_name_have_the_published_settings():
    """Those of the rows in local_configs."""
    grids = dict(small=(384, 12, (32, 32)), large=(1024, 24, (40, 40)))
    assert default_settings('algm', *grids['small']) == dict(type='ALGM', layers=(1, 5), window=(2, 2), threshold=0.88)
    assert default_settings('ALGM', *grids['large']) == dict(type='ALGM', layers=(1, 7), window=(2, 2), threshold=0.95)
    expedite = dict(type='Expedite', layer=10, clusters=(28, 28), k=20)
    assert default_settings('expedite', *grids['large']) == expedite
    assert default_settings('evit', *grids['large']) == dict(type='EViT', keep_rate=0.8, layers=(8, 14, 20))
    assert default_settings('evit', *grids['small'])['layers'] == (4, 7, 10)
    assert default_settings('original', *grids['small']) is None


def test_short_names_are_those_of_the_configs():
    with torch.device('meta'):
        model = create_model('segmenter_vit-ti16', 'tome', num_classes=150, img_size=512)
        same = create_model('segmenter_vit_tiny_patch16_384', 'tome', num_classes=150, img_size=512)
    assert model.encoder.reduction.form == 'dense'
    assert [value.shape for value in model.parameters()] == [value.shape for value in same.parameters()]
    for name in SEGMENTER:
        assert (ROOT / 'local_configs' / 'segmenter' / f'{name}.py').is_file()


@pytest.mark.parametrize(
    'args, options, words',
    [
        (('unet',), {}, "model 'unet' is unknown: names are segformer_b0"),
        (('segformer_b9',), {}, "'segformer_b9' is unknown"),
        (('segformer',), {}, 'arch=dict'),
        (('segformer_b0',), dict(arch=ARCH), 'dimensions once'),
        (('segformer_b0', 'bsm_r2D'), {}, "got 'bsm_r2D'"),
        (('segformer_b0',), dict(img_size=512), "no option 'img_size': they take arch, head, channels"),
        (('segformer_b0',), dict(num_classes=0), 'num_classes must be .*got 0'),
        (('segformer_b0',), dict(pretrained=7), 'pretrained=7'),
        (('segformer',), dict(arch=ARCH, pretrained=True), 'needs an arch by name'),
        (('segmenter_vit_smal_patch16_384',), {}, 'did you mean vit_small_patch16_384'),
        (('segmenter', 'tomes'), dict(arch=VIT, img_size=32), "got 'tomes': did you mean ToMe"),
        (('segmenter', dict(type='ToMe', s=1)), dict(arch=VIT, img_size=32), "no setting 's'"),
        (('segmenter',), dict(arch=VIT, img_size=32, decoder='fcn'), "decoder must be one of 'mask', 'linear'"),
        (('segmenter',), dict(arch=VIT, img_size=32, decoder='linear', decoder_depth=2), "no option 'decoder_depth'"),
    ],
)
def test_what_does_not_exist_is_refused(args, options, words):
    with pytest.raises(ConfigError, match=words):
        create_model(*args, **dict(num_classes=5) | options)


def test_head_of_another_form_than_the_weights_is_refused(tmp_path):
    torch.save(segformer().state_dict(), tmp_path / 'model.pth')
    with pytest.raises(ConfigError, match="whose head is of the form 'conv'"):
        create_model('segformer', arch=ARCH, num_classes=5, head='linear', pretrained=tmp_path / 'model.pth')
    with pytest.raises(CheckpointError, match='conv_seg.weight is 5x12x1x1 instead of 6x12x1x1'):
        create_model('segformer', arch=ARCH, num_classes=6, pretrained=tmp_path / 'model.pth')


def test_published_hub_arguments_are_accepted():
    import hubconf

    names = list(inspect.signature(hubconf.segformer_plusplus).parameters)
    assert names[:5] == ['backbone', 'tome_strategy', 'out_channels', 'pretrained', 'checkpoint_url']
    assert list(inspect.signature(hubconf.data_transforms).parameters) == ['resolution', 'mean', 'std']


def test_image_transform_takes_pictures_arrays_and_tensors():

    array = (torch.arange(20 * 30 * 3) % 256).view(20, 30, 3).byte()
    transform = ImageTransform((40, 45))
    results = [transform(Image.fromarray(array.numpy())), transform(array.numpy()), transform(array.movedim(-1, 0))]
    results.append(transform(array.movedim(-1, 0) / 255))
    for result in results:
        assert result.shape == (3, 40, 45)
        torch.testing.assert_close(result, results[0])
    kept = ImageTransform(None)(array.numpy())
    by_hand = (array.movedim(-1, 0).float() / 255 - transform.mean) / transform.std
    torch.testing.assert_close(kept, by_hand)
    for wrong in (array[..., 0].numpy(), array.numpy()[..., :2]):
        with pytest.raises(ConfigError, match='an image must be'):
            transform(wrong)
    with pytest.raises(ConfigError, match='resolution'):
        ImageTransform((0, 5))


def test_a_model_carries_the_normalisation_of_its_encoder(tmp_path):
    """Pixels in RGB become what the encoder's weights were trained on; other channels have no published numbers."""
    grey = np.full((32, 32, 3), 255, np.uint8)
    small = dict(num_classes=2, arch=dict(embed_dim=16, depth=1, num_heads=2, patch_size=8), img_size=32)
    for model, top in (
        (create_model('segmenter', **small), [1.0, 1.0, 1.0]),
        (create_model('segmenter_deit-b16', num_classes=2, img_size=32), [2.2489, 2.4286, 2.64]),
        (create_model('segformer_b0', num_classes=2), [2.2489, 2.4286, 2.64]),
    ):
        assert torch.allclose(model.transform(grey)[:, 0, 0], torch.tensor(top), atol=1e-4)
    assert create_model('segmenter', **small, in_chans=1).transform is None


def test_the_hub_measures_random_images_and_cityscapes(tmp_path):
    import hubconf

    model = create_model('segformer', num_classes=3, arch=dict(embed_dims=8, num_layers=[1] * 4, num_heads=[1] * 4),
                         channels=16).eval()  # fmt: skip
    found = hubconf.random_benchmark_entrypoint(model, [1, 2], (3, 64, 64), repeats=2)
    assert list(found) == ['3x64x64, batch 1', '3x64x64, batch 2']
    assert all(one['fps'] > 0 and one['gmacs'] > 0 for one in found.values())
    pictures = tmp_path / 'leftImg8bit' / 'val' / 'town'
    pictures.mkdir(parents=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 64, 3), dtype=np.uint8)).save(pictures / 'a.png')
    arguments = (model, tmp_path / 'leftImg8bit' / 'val', (64, 128))
    made = hubconf.cityscapes_benchmark(*arguments, reference=tmp_path / 'reference')
    assert made['agreement'] is None and (tmp_path / 'reference' / 'a.png').is_file()
    assert hubconf.cityscapes_benchmark(*arguments, reference=tmp_path / 'reference')['agreement'] == 100
    with pytest.raises(DatasetError, match='leftImg8bit'):
        hubconf.cityscapes_benchmark(model, tmp_path / 'nowhere')

"""Segmenter of mmsegmentation 1.x: its own model with random weights, converted, equals ours; and back, bit by bit."""

from functools import cache

import pytest
import torch

pytest.importorskip('mmseg')

import mmseg_tr.registry  # noqa: F401  # isort: skip (makes the OpenMMLab packages import)
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from mmseg_tr.checkpoints import convert, convert_file, describe, load_into
from mmseg_tr.checkpoints.config_text import read_config, unknown_types
from mmseg_tr.errors import CheckpointError
from tests.releases import net_kwargs, variant, write_release

WIDTH, CLASSES = 128, 5
LOSS = dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0)
MASK = dict(
    type='SegmenterMaskTransformerHead',
    in_channels=WIDTH,
    channels=WIDTH,
    num_classes=CLASSES,
    num_layers=2,
    num_heads=2,
    embed_dims=WIDTH,
    dropout_ratio=0.0,
    loss_decode=LOSS,
)
LINEAR = dict(
    type='FCNHead',
    in_channels=WIDTH,
    channels=WIDTH,
    num_convs=0,
    concat_input=False,
    dropout_ratio=0.0,
    num_classes=CLASSES,
    loss_decode=LOSS,
)
STATISTICS = dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5], bgr_to_rgb=True)


def model_config(head=MASK, changes=None, **backbone):
    """mmsegmentation's Segmenter, as its base config has it but tiny."""
    backbone = (
        dict(
            type='VisionTransformer',
            img_size=(32, 32),
            patch_size=8,
            embed_dims=WIDTH,
            num_layers=2,
            num_heads=2,
            drop_path_rate=0.1,
            final_norm=True,
            norm_cfg=dict(type='LN', eps=1e-6, requires_grad=True),
            interpolate_mode='bicubic',
        )
        | backbone
    )
    model = dict(
        type='EncoderDecoder',
        data_preprocessor=dict(type='SegDataPreProcessor', **STATISTICS, pad_val=0, seg_pad_val=255),
        backbone=backbone,
        decode_head=dict(head),
        test_cfg=dict(mode='slide', crop_size=(32, 32), stride=(24, 24)),
    )
    return model | (changes or {})


def built(model, seed=0):
    """Every weight random, LayerNorms and biases too."""
    init_default_scope('mmseg')
    model = MODELS.build(Config(dict(model=model)).model)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    model.train(False)
    return model


def saved(path, model, config=None, **meta):
    text = Config(dict(model=config)).pretty_text if config else None
    meta |= {'cfg': text} if text else {}
    torch.save({'state_dict': model.state_dict(), 'meta': meta}, path)
    return path


def loaded(path):
    config = Config.fromfile(path.with_suffix('.py'))
    init_default_scope('mmseg')
    model = MODELS.build(config.model)
    load_into(model, path)
    model.train(False)
    return model


def same(first, second, size, slide=False):
    patches = next(t for key, t in second.state_dict().items() if 'patch_embed' in key and t.dim() == 4)
    image = torch.randn(2, patches.shape[1], *size, generator=torch.Generator().manual_seed(1))
    metas = [dict(img_shape=size, ori_shape=size)] * 2
    with torch.no_grad():
        outputs = [
            model.inference(image, metas) if slide else model.encode_decode(image, metas) for model in (first, second)
        ]
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-5)


CASES = {
    'mask': model_config(),
    'linear': model_config(LINEAR),
    'patch_bias': model_config(patch_bias=True),
    'official_eps': model_config(norm_cfg=dict(type='LN', eps=1e-5), interpolate_mode='bilinear', patch_bias=True),
    'default_norm': model_config(norm_cfg=dict(type='LN')),
    'non_square': model_config(img_size=(24, 40)),
    'last_of_several_levels': model_config(out_indices=(0, 1)),
    'other_heads': model_config(MASK | dict(num_heads=4), num_heads=8),
    'four_channels': model_config(LINEAR, dict(data_preprocessor=dict(type='SegDataPreProcessor')), in_channels=4),
    'narrow_decoder': model_config(MASK | dict(embed_dims=64, num_heads=1)),
    'wide_decoder': model_config(MASK | dict(embed_dims=192)),
}


@pytest.mark.parametrize('config', CASES.values(), ids=CASES)
def test_converted_model_equals_mmsegs_own_and_back_is_bit_equal(tmp_path, config):
    theirs = built(config)
    convert_file(saved(tmp_path / 'mmseg.pth', theirs, config), tmp_path / 'ours.pth')
    ours = loaded(tmp_path / 'ours.pth')
    assert type(ours).__name__ == 'TokenSegmentor'
    # the own grid, another, no multiple of the patch; mmseg would take a turned grid, 5 x 3 for 3 x 5, for its own
    for size in ((32, 32), (48, 24), (30, 45)):
        same(theirs, ours, size)
    same(theirs, ours, (40, 61), slide=True)
    same(theirs, ours, (20, 45), slide=True)  # smaller than the window
    convert_file(tmp_path / 'ours.pth', tmp_path / 'back.pth', to='mmseg')
    given, back = theirs.state_dict(), torch.load(tmp_path / 'back.pth', weights_only=True)['state_dict']
    assert back.keys() == given.keys()
    assert all(torch.equal(back[key], given[key]) and back[key].shape == given[key].shape for key in given)
    again = loaded(tmp_path / 'back.pth')
    assert type(again).__name__ == 'EncoderDecoder'
    same(theirs, again, (48, 24))


BINARY = LINEAR | dict(
    num_classes=2, out_channels=1, loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0)
)
PREPROCESSORS = {
    'nothing': {},
    'no normalisation': dict(bgr_to_rgb=True),
    'no swap': dict(mean=[1.0, 2.0, 3.0], std=[50.0, 60.0, 70.0]),
    'the other swap': dict(mean=[1.0, 2.0, 3.0], std=[50.0, 60.0, 70.0], rgb_to_bgr=True),
    'padded to a size': dict(**STATISTICS, pad_val=9, test_cfg=dict(size=(48, 56))),
    'padded to a multiple': dict(**STATISTICS, pad_val=3, test_cfg=dict(size_divisor=32)),
    'sizes of training': dict(**STATISTICS, size=(40, 40), pad_val=7, seg_pad_val=0),
}
HEADS = {
    'mask': MASK,
    'linear': LINEAR,
    'binary': BINARY,
    'binary cut at 0.5': BINARY | dict(threshold=0.5),
    'ignoring': LINEAR | dict(ignore_index=7),
}


def same_predictions(theirs, ours):
    """On a picture whose sides are no multiple of anything, from bytes to labels."""
    picture = torch.randint(0, 256, (3, 45, 52), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    found = []
    for model in (theirs, ours):
        if type(model).__name__ == 'TokenSegmentor':
            model.test_cfg['seg_logits'] = True
        sample = SegDataSample(metainfo=dict(img_shape=(45, 52), ori_shape=(45, 52)))
        with torch.no_grad():
            (result,) = model.test_step(dict(inputs=[picture], data_samples=[sample]))
        found.append((result.seg_logits.data, result.pred_sem_seg.data))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=0, atol=2e-5)
    assert (found[0][1] != found[1][1]).float().mean() < 1e-3
    assert found[0][0].std() > 1e-3  # a network that tells pixels apart


def shrinking(config):
    """Windows that both sides cut alike for a picture larger than them."""
    return config | dict(test_cfg=dict(mode='slide', crop_size=(32, 32), stride=(20, 20)))


@pytest.mark.parametrize(
    ('before', 'head'),
    [*((before, 'linear') for before in PREPROCESSORS), *(('no swap', head) for head in HEADS if head != 'linear')],
)
def test_every_setting_that_decides_predictions_is_carried_there_and_back(tmp_path, before, head):
    config = shrinking(model_config(HEADS[head], patch_bias=True))
    config['data_preprocessor'] = dict(type='SegDataPreProcessor', **PREPROCESSORS[before])
    theirs = built(config)
    convert_file(saved(tmp_path / 'mmseg.pth', theirs, config), tmp_path / 'ours.pth')
    convert_file(tmp_path / 'ours.pth', tmp_path / 'back.pth', to='mmseg')
    for file, kind in (('ours.pth', 'TokenSegmentor'), ('back.pth', 'EncoderDecoder')):
        ours = loaded(tmp_path / file)
        assert type(ours).__name__ == kind
        same_predictions(theirs, ours)
        for name in ('num_classes', 'out_channels', 'ignore_index', 'threshold'):
            assert getattr(ours.decode_head, name) == getattr(theirs.decode_head, name)
        for name in ('size', 'pad_val', 'seg_pad_val'):
            assert getattr(ours.data_preprocessor, name) == getattr(theirs.data_preprocessor, name)


@pytest.mark.parametrize(
    'steps',
    [
        [],
        [dict(type='Resize', scale=(64, 40), keep_ratio=False)],
        [dict(type='Normalize', mean=[1.0] * 3, std=[2.0] * 3)],
    ],
)
def test_pipeline_of_the_test_is_carried(tmp_path, steps):
    pipeline = [dict(type='LoadImageFromFile'), *steps, dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
    loader = dict(dataset=dict(type='ADE20KDataset', pipeline=pipeline))
    config = model_config(LINEAR | dict(num_classes=150))
    text = Config(dict(model=config, test_dataloader=loader)).pretty_text
    torch.save({'state_dict': built(config).state_dict(), 'meta': {'cfg': text}}, tmp_path / 'm.pth')
    ours = Config.fromfile(convert_file(tmp_path / 'm.pth', tmp_path / 'ours.pth').config)
    for found in (ours.test_pipeline, ours.test_dataloader.dataset.pipeline, ours.val_dataloader.dataset.pipeline):
        assert [dict(step) for step in found] == pipeline


@pytest.mark.parametrize(
    ('old', 'want'),
    [
        ('img_norm_cfg = dict(mean=[1, 2, 3], std=[4, 5, 6], to_rgb=True)', ([1, 2, 3], [4, 5, 6], True)),
        ('img_norm_cfg = dict(mean=[1, 2, 3], std=[4, 5, 6], to_rgb=False)', ([1, 2, 3], [4, 5, 6], False)),
        (
            "data = dict(test=dict(pipeline=[dict(type='MultiScaleFlipAug', transforms=[dict(type='Normalize', "
            'mean=[1, 2, 3], std=[4, 5, 6])])]))',
            ([1, 2, 3], [4, 5, 6], True),
        ),
    ],
)
def test_normalisation_in_the_pipeline_of_old_configs_is_read(tmp_path, old, want):
    config = model_config(LINEAR)
    model = built(config)
    config.pop('data_preprocessor')
    text = f'{old}\n{Config(dict(model=config)).pretty_text}'
    torch.save({'state_dict': model.state_dict(), 'meta': {'config': text}}, tmp_path / 'm.pth')
    before = read_config(convert(tmp_path / 'm.pth').config)['model']['data_preprocessor']
    assert (before['mean'], before['std'], before['bgr_to_rgb']) == want


@pytest.mark.parametrize('before', [dict(type='DetDataPreprocessor'), dict(type='SegDataPreProcessor', gamma=2)])
def test_other_preprocessing_is_refused_by_name(tmp_path, before):
    config = model_config(LINEAR)
    path = saved(tmp_path / 'm.pth', built(config), config | dict(data_preprocessor=before))
    refuse(path, 'data_preprocessor', 'gamma' if 'gamma' in before else 'DetDataPreprocessor')


@cache
def linear_state():
    return built(model_config(LINEAR)).state_dict()


QUOTE = "x': __import__('pathlib').Path({trace!r}).touch(), 'y"
SUBSTITUTED = "{{{{$NOPE:\\\\'+str(__import__(\\\\'pathlib\\\\').Path({trace!r}).touch())+\\\\'}}}}"
PLACES = {
    'key of a pipeline step': lambda evil: dict(pipeline=[{'type': 'Resize', 'scale': (8, 8), evil: 1}]),
    'value of a pipeline step': lambda evil: dict(pipeline=[dict(type='Resize', scale=(8, 8), interpolation=evil)]),
    'key of a loss': lambda evil: dict(head=LINEAR | dict(loss_decode={'type': 'CrossEntropyLoss', evil: 1})),
    'value of a loss': lambda evil: dict(head=LINEAR | dict(loss_decode=dict(LOSS, loss_name=evil))),
    'key of the preprocessing': lambda evil: dict(before=dict(test_cfg={evil: 1})),
    'value of the preprocessing': lambda evil: dict(before=dict(batch_augments=[dict(type=evil)])),
}


@pytest.mark.parametrize('place', PLACES)
@pytest.mark.parametrize('text', [QUOTE, SUBSTITUTED, 'pathlib.Path.touch', 'this'])
def test_config_inside_cannot_put_code_into_the_written_config(tmp_path, place, text):
    trace = tmp_path / 'trace'
    more = PLACES[place](text.format(trace=str(trace)))
    config = model_config(more.get('head', LINEAR))
    config['data_preprocessor'] = dict(type='SegDataPreProcessor', **more.get('before', {}))
    loader = dict(dataset=dict(type='ADE20KDataset', pipeline=more.get('pipeline')))
    inside = f'model = {config!r}\ntest_dataloader = {loader!r}'
    torch.save({'state_dict': linear_state(), 'meta': {'cfg': inside}}, tmp_path / 'm.pth')
    try:
        convert_file(tmp_path / 'm.pth', tmp_path / 'ours.pth')
        convert_file(tmp_path / 'ours.pth', tmp_path / 'back.pth', to='mmseg')
    except CheckpointError as error:
        assert '\n' not in str(error)
    for path in (tmp_path / 'ours.py', tmp_path / 'back.py'):
        if path.exists():
            assert not unknown_types(Config.fromfile(path).to_dict())
    assert not trace.exists()


@pytest.mark.parametrize('prefix', ['module.', '_orig_mod.', 'module._orig_mod.'])
def test_checkpoints_from_inside_a_wrapper_are_recognised(tmp_path, prefix):
    config = model_config()
    state = {f'{prefix}{key}': value for key, value in built(config).state_dict().items()}
    torch.save({'state_dict': state, 'meta': {'cfg': Config(dict(model=config)).pretty_text}}, tmp_path / 'm.pth')
    assert convert(tmp_path / 'm.pth').what.startswith('mmsegmentation 1.x Segmenter')


def test_official_release_for_mmsegmentation(tmp_path):
    """The traps: bias of the patch embedding, eps, transposed projections, bilinear positions, the final norm."""
    source = write_release(tmp_path / 'src', variant(net_kwargs(image_size=(32, 32))))
    convert_file(source, tmp_path / 'ours.pth')
    convert_file(source, tmp_path / 'mmseg.pth', to='mmseg')
    theirs = loaded(tmp_path / 'mmseg.pth')
    backbone = Config.fromfile(tmp_path / 'mmseg.py').model.backbone
    assert (backbone.patch_bias, backbone.final_norm, backbone.interpolate_mode) == (True, True, 'bilinear')
    assert backbone.norm_cfg.eps == 1e-5
    same(loaded(tmp_path / 'ours.pth'), theirs, (40, 24))
    same(loaded(tmp_path / 'ours.pth'), theirs, (40, 61), slide=True)


def test_mmseg_config_needs_mmseg_alone(tmp_path):
    written = convert_file(
        write_release(tmp_path / 'src', variant(net_kwargs(image_size=(32, 32)))), tmp_path / 'm.pth', to='mmseg'
    )
    text = written.config.read_text().partition('\n')[2]
    assert 'mmseg_tr' not in text
    assert "type='ADE20KDataset'" in text
    assert 'test_evaluator' in text
    assert not [key for key in ('train_dataloader', 'optim_wrapper') if key in text]


def test_mmseg_runs_the_written_model_on_a_picture(tmp_path):
    from mmseg.apis import inference_model, init_model

    convert_file(
        write_release(tmp_path / 'src', variant(net_kwargs(image_size=(32, 32)))), tmp_path / 'm.pth', to='mmseg'
    )
    model = init_model(str(tmp_path / 'm.py'), str(tmp_path / 'm.pth'), device='cpu')
    picture = torch.arange(25 * 40 * 3).reshape(25, 40, 3).to(torch.uint8).numpy()
    assert inference_model(model, picture).pred_sem_seg.data.shape == (1, 25, 40)


def test_reduction_is_left_out_and_said(tmp_path):
    settings = dict(patch_type='algm', selected_layers=(1, 2), merging_window_size=(2, 2), threshold=0.2)
    source = write_release(tmp_path / 'src', variant(net_kwargs(image_size=(32, 32)), **settings))
    written = convert_file(source, tmp_path / 'm.pth', to='mmseg')
    assert any('ALGM is left out' in note for note in written.converted.notes)
    assert 'ALGM' not in written.config.read_text().partition('\n')[2]


def test_file_without_config_takes_what_mmseg_ships(tmp_path):
    config = model_config()  # eps 1e-6, bicubic, heads 64 wide
    theirs = built(config)
    written = convert_file(saved(tmp_path / 'mmseg.pth', theirs), tmp_path / 'ours.pth')
    assert any('1e-6' in note and 'norm_eps' in note for note in written.converted.notes)
    backbone = Config.fromfile(written.config).model.backbone
    assert (backbone.norm_eps, backbone.pos_resize) == (1e-6, 'bicubic')
    same(theirs, loaded(tmp_path / 'ours.pth'), (40, 24))


def test_config_of_mmcv_times_and_its_classes_are_read(tmp_path):
    config = model_config(norm_cfg=dict(type='LN', eps=3e-6))
    text = Config(dict(model=config)).pretty_text
    meta = {'config': text, 'CLASSES': ('a', 'b', 'c', 'd', 'e')}
    torch.save({'state_dict': built(config).state_dict(), 'meta': meta}, tmp_path / 'm.pth')
    converted = convert(tmp_path / 'm.pth')
    assert 'norm_eps=3e-06' in converted.config
    assert converted.meta['dataset_meta'] == {'classes': ['a', 'b', 'c', 'd', 'e']}


def test_test_settings_follow_the_config(tmp_path):
    pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(160, 40), keep_ratio=True)]
    config = model_config(changes=dict(test_cfg=dict(mode='whole')))
    config['data_preprocessor'] |= dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
    loader = dict(dataset=dict(type='CityscapesDataset', pipeline=pipeline))
    text = Config(dict(model=config, test_dataloader=loader)).pretty_text
    torch.save({'state_dict': built(config).state_dict(), 'meta': {'cfg': text}}, tmp_path / 'm.pth')
    written = convert_file(tmp_path / 'm.pth', tmp_path / 'ours.pth')
    ours = Config.fromfile(written.config)
    assert ours.model.test_cfg == dict(mode='whole')
    assert ours.model.data_preprocessor.mean == [123.675, 116.28, 103.53]
    assert ours.test_dataloader.dataset.type == 'CityscapesDataset'
    assert next(step for step in ours.test_pipeline if step.type == 'Resize').scale == (160, 40)


def test_config_inside_is_read_and_not_run(tmp_path):
    trace, config = tmp_path / 'trace', model_config()
    text = (
        f'import os\nos.mkdir({str(trace)!r})\nx = os.mkdir({str(trace)!r})\n' + Config(dict(model=config)).pretty_text
    )
    torch.save({'state_dict': built(config).state_dict(), 'meta': {'cfg': text}}, tmp_path / 'm.pth')
    convert(tmp_path / 'm.pth')
    assert not trace.exists()


def test_plain_assignments_are_read_and_others_left_out():
    text = """
a = 1
b = dict(c=[-1.5, (a, None)], d={'e f': True}, g=dict({'h': a}))
i = open('x')
j = b['c']
if a:
    k = 2
"""
    assert read_config(text) == {'a': 1, 'b': {'c': [-1.5, (1, None)], 'd': {'e f': True}, 'g': {'h': 1}}}
    assert read_config('not python at all') == {}


def refuse(path, *words):
    with pytest.raises(CheckpointError) as error:
        convert(path)
    for word in (str(path), *words):
        assert word in str(error.value)


@pytest.mark.parametrize(
    'text',
    [
        'a = dict("ab")',
        'a = {[]: 1}',
        'a = ' + '[' * 500 + ']' * 500,
        'a = ' + '-' * 5000 + '1',
        'a = ' + '9' * 5000,
        'a0 = [1, 1]\n' + '\n'.join(f'a{i} = [a{i - 1}, a{i - 1}]' for i in range(1, 60)) + '\na = a59',
        'a0 = dict(x=1)\n' + '\n'.join(f'a{i} = dict(x=a{i - 1}, y=a{i - 1})' for i in range(1, 60)) + '\na = a59',
        '\0',
        'a = "\ud800"',
    ],
)
def test_texts_made_to_exhaust_a_reader_are_left_out(text):
    found = read_config(text)
    assert all(len(str(value)) < 10**7 for value in found.values()) and 'a' not in found or text == 'a = "\ud800"'


@pytest.mark.parametrize(
    ('changes', 'head', 'word'),
    [
        (dict(with_cls_token=False), {}, 'with_cls_token=False'),
        (dict(out_indices=(0,)), {}, 'out_indices'),
        (dict(act_cfg=dict(type='ReLU')), {}, 'ReLU'),
        ({}, dict(norm_cfg=dict(type='LN', eps=1e-3)), '0.001'),
        ({}, dict(align_corners=True), 'align_corners'),
        (dict(interpolate_mode='nearest'), {}, 'nearest'),
        (dict(pre_norm=True), {}, 'ln_pre'),
        (dict(qkv_bias=False), {}, 'missing'),
        (dict(mlp_ratio=2), {}, 'another shape'),
    ],
)
def test_networks_without_counterpart(tmp_path, changes, head, word):
    config = model_config(MASK | head, **changes)
    refuse(saved(tmp_path / 'm.pth', built(config), config), word)


@pytest.mark.parametrize('head', [MASK, LINEAR, BINARY])
def test_outputs_that_contradict_the_weights(tmp_path, head):
    model, said = built(model_config(head)), dict(head, num_classes=4)
    said.pop('out_channels', None)
    refuse(saved(tmp_path / 'm.pth', model, model_config(said)), '4 outputs')


def test_missing_final_norm(tmp_path):
    config = model_config(final_norm=False)
    refuse(saved(tmp_path / 'm.pth', built(config), config), 'final_norm=False')


def test_non_square_positions_without_config(tmp_path):
    refuse(saved(tmp_path / 'm.pth', built(model_config(img_size=(24, 40)))), '15 positions', 'img_size')


def test_config_that_contradicts_the_weights(tmp_path):
    path = saved(tmp_path / 'm.pth', built(model_config()), model_config(img_size=(64, 64)))
    refuse(path, 'contradicts itself')
    refuse(saved(tmp_path / 'n.pth', built(model_config()), model_config(num_heads=7)), '7 heads')
    broken = model_config(changes=dict(test_cfg=dict(mode='slide')))
    refuse(saved(tmp_path / 'o.pth', built(model_config()), broken), 'crop_size')


def test_missing_weights(tmp_path):
    model = built(model_config())
    state = {key: value for key, value in model.state_dict().items() if key != 'decode_head.patch_proj.weight'}
    torch.save({'state_dict': state}, tmp_path / 'm.pth')
    refuse(tmp_path / 'm.pth', 'decoder.proj_patch')


def test_other_networks_of_mmseg_stay_mmengine_checkpoints(tmp_path):
    state = built(model_config(LINEAR)).state_dict()
    assert 'Segmenter' in describe({'state_dict': state})
    assert 'Segmenter' not in describe({'state_dict': state | {'neck.conv.weight': torch.zeros(1)}})
    assert 'Segmenter' not in describe({'state_dict': state | {'decode_head.convs.0.weight': torch.zeros(1)}})


def refuse_mmseg(source, target, *words):
    with pytest.raises(CheckpointError) as error:
        convert_file(source, target, to='mmseg')
    assert not target.exists()
    for word in words:
        assert word in str(error.value)


def test_distillation_token_cannot_go_there(tmp_path):
    source = write_release(tmp_path / 'src', variant(net_kwargs(distilled=True)))
    refuse_mmseg(source, tmp_path / 'm.pth', 'distillation token')


def test_weights_without_config_cannot_go_there(tmp_path):
    torch.save({'state_dict': {'weight': torch.zeros(1)}}, tmp_path / 'bare.pth')
    refuse_mmseg(tmp_path / 'bare.pth', tmp_path / 'm.pth', 'mmseg_tr.ViT')


def test_other_heads_cannot_go_there(tmp_path):
    source = write_release(tmp_path / 'src')
    convert_file(source, tmp_path / 'ours.pth')
    content = torch.load(tmp_path / 'ours.pth', weights_only=True)
    content['state_dict']['neck.weight'] = torch.zeros(1)
    torch.save(content, tmp_path / 'neck.pth')
    refuse_mmseg(tmp_path / 'neck.pth', tmp_path / 'm.pth', 'neck.weight')


def test_unknown_target(tmp_path):
    with pytest.raises(CheckpointError, match='mmseg_tr and mmseg'):
        convert_file(tmp_path / 'a.pth', tmp_path / 'b.pth', to='detectron')

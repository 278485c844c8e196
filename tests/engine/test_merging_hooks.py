"""Token counts and merged groups reach TensorBoard and WandB, and the run does not notice."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

pytest.importorskip('mmseg')
pytest.importorskip('tensorboard')

from PIL import Image

from mmseg_tr.apis.build import build_model
from mmseg_tr.apis.config import load_config
from mmseg_tr.apis.test import evaluate
from mmseg_tr.apis.train import train
from mmseg_tr.engine.hooks.merging import MergingVisualizationHook, TokenCountHook
from mmseg_tr.errors import ConfigError
from tests.tiny import write_config, write_dataset
from tests.tools.command import mistake

ALGM = "dict(type='ALGM', layers=(1, 2), threshold=0.5)"
HOOKS = """
model['backbone'].update(reduction={method}, drop_rate=0.1)
custom_hooks = [dict(type='mmseg_tr.TokenCountHook', interval=2, test_interval=3),
                dict(type='mmseg_tr.MergingVisualizationHook', interval=4, test_interval=4)]
visualizer['vis_backends'] = [dict(type='TensorboardVisBackend')]
train_cfg['val_interval'] = 4
"""
MIT = """
model['backbone'] = dict(type='mmseg_tr.MiT', arch=dict(embed_dims=8, num_layers=(2, 1), num_heads=(1, 2),
                         patch_sizes=(7, 3), strides=(4, 2), sr_ratios=(2, 1)), out_indices=(0, 1),
                         reduction=[dict(kv_mode='bsm', kv_r=0.5, kv_sx=2, kv_sy=2), dict(q_mode='n2d', q_s=(2, 2))])
model['decode_head'] = dict(type='SegformerHead', in_channels=[8, 16], in_index=[0, 1], channels=8, num_classes=3,
                            norm_cfg=dict(type='BN'))
"""
RESNET = """
model['backbone'] = dict(type='ResNet', depth=18)
model['decode_head'] = dict(type='FCNHead', in_channels=512, channels=8, num_classes=3)
custom_hooks = [dict(type='mmseg_tr.TokenCountHook')]
"""


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp('data') / 'set')


def events(folder):
    """Scalars {name: {step: value}} and images {name: {step: (H, W, 3)}} of all event files in a work folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    scalars, images = {}, {}
    for file in folder.rglob('events.out.tfevents*'):
        read = EventAccumulator(str(file), size_guidance=dict(images=0, scalars=0))
        read.Reload()
        for name in read.Tags()['scalars']:
            scalars.setdefault(name, {}).update({event.step: event.value for event in read.Scalars(name)})
        for name in read.Tags()['images']:
            decoded = {e.step: np.array(Image.open(io.BytesIO(e.encoded_image_string))) for e in read.Images(name)}
            images.setdefault(name, {}).update(decoded)
    return scalars, images


@pytest.fixture(scope='module')
def trained(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp('trained')
    train(str(write_config(folder, root, HOOKS.format(method=ALGM))), work_dir=str(folder / 'w'))
    return folder / 'w', *events(folder / 'w')


def test_training_writes_tokens_of_every_layer_and_the_merge_share(trained):
    _, scalars, _ = trained
    names = ('tokens/layer_01', 'tokens/layer_02')
    assert all(sorted(scalars[name]) == [2, 4] for name in (*names, 'tokens/merge_share'))
    for step in (2, 4):
        counts = [scalars[name][step] for name in names]
        assert 1 <= counts[1] <= counts[0] <= 16 and counts[1] < 16
        assert scalars['tokens/merge_share'][step] == pytest.approx(1 - sum(counts) / 32)


def test_validation_writes_means_over_the_images_looked_at(trained, root):
    folder, scalars, _ = trained
    config = load_config(next(folder.glob('*.py')))
    model = build_model(config, str(folder / 'iter_4.pth')).eval()
    counts = []
    for index in (0, 3, 6):
        pixels = torch.from_numpy(np.array(Image.open(root / 'images' / f'{index:02d}.png'))).permute(2, 0, 1)[None]
        counts.append([entry.tokens for entry in model.backbone.watch((pixels - 127.5) / 127.5)])
    assert scalars['val/tokens/layer_01'] == {4: pytest.approx(np.mean([first for first, _ in counts]), rel=1e-6)}
    assert scalars['val/tokens/layer_02'] == {4: pytest.approx(np.mean([last for _, last in counts]), rel=1e-6)}


def test_the_image_panel_shows_the_picture_and_its_groups(trained, root):
    _, _, images = trained
    assert sorted(images) == ['merging_train', 'merging_val_0', 'merging_val_4']
    assert {name: sorted(steps) for name, steps in images.items()}['merging_train'] == [4]
    shown = images['merging_val_4'][4]
    assert shown.shape == (32, 64, 3)
    assert np.array_equal(shown[:, :32], np.array(Image.open(root / 'images' / '04.png')))
    assert not np.array_equal(shown[:, 32:], shown[:, :32])


def test_the_training_is_the_same_with_and_without_hooks(root, tmp_path):
    method = "dict(type='ACT', q_hashes=4, bucket_width=1, redraw=True)"  # draws at every forward
    states = []
    for name, more in (('with', ''), ('without', 'custom_hooks = []')):
        config = write_config(tmp_path, root, HOOKS.format(method=method) + more, name=f'{name}.py')
        train(str(config), work_dir=str(tmp_path / name))
        states.append(torch.load(tmp_path / name / 'iter_4.pth', weights_only=True)['state_dict'])
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    scalars, _ = events(tmp_path / 'with')
    assert {'tokens/layer_01/heads', 'tokens/merge_share'} <= set(scalars) and not events(tmp_path / 'without')[1]


def test_testing_of_a_mit_in_bfloat16_writes_queries_and_keys(root, tmp_path):
    config = write_config(
        tmp_path, root, HOOKS.format(method=None).replace('.update(reduction=None, drop_rate=0.1)', '') + MIT
    )
    torch.save(dict(state_dict=build_model(load_config(config), None).state_dict()), tmp_path / 'mit.pth')
    evaluate(str(config), str(tmp_path / 'mit.pth'), work_dir=str(tmp_path / 'w'), amp=True)
    scalars, images = events(tmp_path / 'w')
    found = {name: steps[0] for name, steps in scalars.items() if 'tokens' in name}
    # 8x8 patches with keys on 4x4, of which half merge; 4x4 patches in 2x2 queries
    assert found == {
        'test/tokens/stage_1_block_01/keys': 8,
        'test/tokens/stage_1_block_02/keys': 8,
        'test/tokens/stage_2_block_01/queries': 4,
        'test/tokens/merge_share': pytest.approx(1 - (0.5 + 0.5 + 0.25) / 3),
    }
    assert sorted(images) == ['merging_test_0', 'merging_test_4']


def test_wandb_gets_the_same_through_its_backend(root, tmp_path, monkeypatch):
    logged = []
    wandb = ModuleType('wandb')
    wandb.init = lambda **settings: None
    wandb.config = type('Config', (dict,), {'update': lambda self, *args, **kwargs: None})()
    wandb.run = type('Run', (), {'log_code': lambda *args, **kwargs: None, 'dir': '.'})()
    wandb.log = lambda values, **settings: logged.append(values)
    wandb.Image = lambda image: ('image', image.shape)
    wandb.define_metric = lambda *args, **kwargs: None
    wandb.join = wandb.finish = lambda *args, **kwargs: None
    monkeypatch.setitem(sys.modules, 'wandb', wandb)
    more = HOOKS.format(method=ALGM).replace('TensorboardVisBackend', 'WandbVisBackend')
    train(str(write_config(tmp_path, root, more)), work_dir=str(tmp_path / 'w'))
    names = {name for values in logged for name in values}
    assert {'tokens/layer_01', 'tokens/merge_share', 'val/tokens/layer_02', 'merging_train'} <= names
    assert next(values['merging_train'] for values in logged if 'merging_train' in values) == ('image', (32, 64, 3))


def test_the_config_of_the_page_runs(root, tmp_path):
    page = (Path(__file__).resolve().parents[2] / 'docs' / 'hooks.md').read_text()
    (code,) = re.findall(r'```python\n(.*?)```', page, re.DOTALL)
    write_config(tmp_path, root, f"model['backbone']['reduction'] = {ALGM}", name='algm_vit-s16_ade20k-512x512.py')
    (tmp_path / 'watched.py').write_text(re.sub(r'interval=\d+', 'interval=2', code))
    train(str(tmp_path / 'watched.py'), work_dir=str(tmp_path / 'w'))
    scalars, images = events(tmp_path / 'w')
    assert sorted(scalars['tokens/merge_share']) == [2, 4] and sorted(images['merging_train']) == [2, 4]
    lines = [json.loads(line) for line in next((tmp_path / 'w').rglob('scalars.json')).read_text().splitlines()]
    assert [line['step'] for line in lines if 'tokens/layer_01' in line] == [2, 4]


def test_the_model_stays_as_it_is_and_only_the_main_process_looks(root, tmp_path, monkeypatch):
    config = load_config(write_config(tmp_path, root, HOOKS.format(method=ALGM)))
    model = build_model(config, None).train()
    model.decode_head.eval()
    before = {name: (set(vars(module)), module.training) for name, module in model.named_modules()}
    from mmengine.registry import DATASETS

    sample = DATASETS.build(config.train_dataloader.dataset)[0]
    batch = dict(inputs=[sample['inputs']], data_samples=[sample['data_samples']])
    wrapper = type('Wrapper', (), {'optim_context': staticmethod(lambda model: torch.enable_grad())})
    runner = type('Runner', (), dict(model=model, optim_wrapper=wrapper))
    raw = sample['inputs'].clone()
    picture, found = TokenCountHook().look(runner, batch, 'train')
    assert picture.shape == (32, 32, 3) and len(found) == 2
    assert {name: (set(vars(module)), module.training) for name, module in model.named_modules()} == before
    assert torch.equal(raw, batch['inputs'][0]) and all(p.grad is None for p in model.parameters())
    monkeypatch.setattr('mmseg_tr.engine.hooks.merging.is_main_process', lambda: False)
    assert TokenCountHook().look(runner, batch, 'train') is None


def test_mistakes_are_one_sentence(root, tmp_path, capsys):
    for make in (lambda: TokenCountHook(interval=0), lambda: MergingVisualizationHook(test_interval=1.5)):
        with pytest.raises(ConfigError, match='interval .* got'):
            make()
    with pytest.raises(ConfigError, match="style='wild' is unknown: it is one of 'mean', 'outline'"):
        MergingVisualizationHook(style='wild')
    said = mistake(capsys, 'train', write_config(tmp_path, root, RESNET), '--work-dir', tmp_path / 'w')
    assert said == 'TokenCountHook watches mmseg_tr.ViT and mmseg_tr.MiT, and the model has neither: remove it.'
    layers = "custom_hooks = [dict(type='mmseg_tr.MergingVisualizationHook', interval=1, layers=[7])]"
    config = write_config(tmp_path, root, HOOKS.format(method=ALGM) + layers)
    said = mistake(capsys, 'train', config, '--work-dir', tmp_path / 'w')
    assert said == 'MergingVisualizationHook: layers=[7] merge nothing: give some of 1, 2.'

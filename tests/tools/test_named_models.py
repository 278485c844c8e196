"""Tools on networks of other libraries: --model in place of a config."""

import json

import numpy as np
import pytest
from PIL import Image

pytest.importorskip('mmseg')

from mmseg_tr.compat import ensure_torchvision
from tests.tools.command import call, mistake

ensure_torchvision()  # before transformers

TINY = ('--model', 'timm:test_vit', '--checkpoint', 'none')
QUICK = ('--repeats', '1')


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / 'pictures'
    folder.mkdir()
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((180, 120)).save(folder / f'{number}.png')
    return folder


def test_a_network_of_timm_is_measured(tmp_path, pictures):
    out = tmp_path / 'numbers.json'
    reduction = ('--reduction', 'type=ToMe,r=8')
    sizes = ('--batch-size', '1', '--num-images', '2', '--seconds', '1', '--no-published')
    assert call('get_fps_flops', *TINY, *QUICK, *sizes, *reduction, '--images', pictures, '--json', out) == 0
    found = json.loads(out.read_text())
    assert found['config'] == 'timm:test_vit' and found['reduction']['type'] == 'ToMe'
    assert found['tokens_per_layer'][0] == 93 and found['plain']['tokens_per_layer'][0] == 101
    assert found['ratios']['work'] > 1 and found['runs'][0]['shape'] == [160, 160]


def test_methods_are_compared_without_a_dataset(tmp_path, pictures):
    arguments = ('--methods', 'tome', '--images', '2', '--batch-size', '1', '--out', tmp_path / 'compared')
    assert call('compare', *TINY, *QUICK, *arguments, '--pictures', pictures) == 0
    rows = json.loads((tmp_path / 'compared' / 'compare.json').read_text())['rows']
    assert [row['method'] for row in rows] == ['plain', 'ToMe']
    assert (
        rows[0]['agreement'] == pytest.approx(100) and rows[1]['gmacs'] < rows[0]['gmacs'] and rows[0]['miou'] is None
    )


@pytest.mark.parametrize(('reduction', 'layers'), [('type=ToMe,r=8', 6), ('algm', 6)])
def test_what_merges_is_drawn(tmp_path, pictures, reduction, layers):
    assert call('show_merging', *TINY, '--reduction', reduction, pictures / '0.png', tmp_path / 'drawn') == 0
    entries = json.loads((tmp_path / 'drawn' / '0' / 'merging.json').read_text())
    assert len(entries) == layers and entries[0]['patches'] == 100 and entries[-1]['tokens'] < 100


def test_a_segmentation_network_is_reported(tmp_path, pictures):
    transformers = pytest.importorskip('transformers')
    sizes = dict(hidden_sizes=[8, 16, 24, 32], depths=[1] * 4, num_attention_heads=[1, 2, 3, 4], image_size=64)
    config = transformers.SegformerConfig(**sizes, decoder_hidden_size=16, num_labels=4)
    transformers.SegformerForSemanticSegmentation(config).eval().save_pretrained(tmp_path / 'saved')
    settings = dict(image_mean=[0.5] * 3, image_std=[0.5] * 3)
    (tmp_path / 'saved' / 'preprocessor_config.json').write_text(json.dumps(settings))
    out = tmp_path / 'report.html'
    source = ('--model', f'transformers:{tmp_path / "saved"}', '--reduction', 'type=SegFormerPP,preset=n2d_2x2')
    assert call('report', *source, '--images', pictures, '--out', out) == 0
    page = out.read_text()
    assert 'LABEL_3' in page and '2 models' in page


@pytest.mark.parametrize(
    ('tool', 'arguments', 'said'),
    [
        ('get_fps_flops', (), 'either a config or --model must be given, got neither'),
        ('get_fps_flops', ('a.py', *TINY), 'either a config or --model must be given, got both'),
        ('get_fps_flops', ('--model', 'resnet'), '--model must be timm:NAME'),
        ('get_fps_flops', (*TINY, '--shape', '100x100', '--num-images', '8'), 'timm:test_vit does not take images of'),
        ('compare', ('--model', 'timm:test_vi'), 'did you mean timm:test_vit'),
        ('compare', ('a.py',), '--checkpoint must be given'),
        ('report', ('a.py',), '--checkpoint must be given'),
        ('report', TINY, '--images must be given'),
        ('show_merging', (*TINY, 'a.png', 'out'), '--reduction must be set'),
        ('show_merging', (*TINY, '--reduction', 'r=8', 'a.png', 'out'), 'names no type'),
    ],
)
def test_mistakes_are_one_sentence(tool, arguments, said, capsys):
    assert said in mistake(capsys, tool, *arguments)

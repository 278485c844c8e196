"""tools/new_config.py writes a config that fits the pictures and labels it finds, and checks it on them."""

import os

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from mmseg_tr.apis.new_config import ENCODERS, NewConfigOptions, colours, new_config, read_classes
from mmseg_tr.datasets.image_folders import find_label_suffix, pair_files, split_pairs
from mmseg_tr.datasets.survey import read_numbers
from mmseg_tr.engine.datasets import build_dataset
from mmseg_tr.errors import ConfigError, DatasetError
from tests.tools.command import call, mistake

CLASSES = ('ground', 'tree', 'water')
FORMATS = ('jpg', 'png', 'tif', 'bmp', 'webp', 'JPEG')
SIZES = ((40, 60), (64, 64), (90, 50), (33, 100))


def write_mixed(root, count=12, numbers=(0, 1, 2), formats=FORMATS, suffix=''):
    """Pictures of mixed sizes and formats, some in a folder of their own, with label PNGs."""
    rng = np.random.default_rng(0)
    for number in range(count):
        height, width = SIZES[number % len(SIZES)]
        label = np.array(numbers, np.uint8)[np.arange(width) * len(numbers) // width][None].repeat(height, 0)
        picture = (rng.integers(0, 60, (height, width, 3)) + 90 * (label[..., None] % 3)).astype(np.uint8)
        name = f'{"b/" if number % 3 == 0 else ""}{number}'
        for folder, pixels, ending in (
            ('images', picture, f'.{formats[number % len(formats)]}'),
            ('labels', label, f'{suffix}.png'),
        ):
            path = root / folder / f'{name}{ending}'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return root


def options(root, **changes):
    settings = dict(images=str(root / 'images'), labels=str(root / 'labels'), classes=CLASSES, out=str(root / 'own.py'))
    return NewConfigOptions(**{**settings, **changes})


def arguments(root, *more):
    return ['--images', root / 'images', '--labels', root / 'labels', '--out', root / 'own.py', *more]


def test_config_of_mixed_pictures_is_written_checked_trained_and_tested(tmp_path, capsys):
    root = write_mixed(tmp_path, numbers=(0, 1, 2, 7))
    assert call('new_config', *arguments(root, '--classes', *CLASSES, '--encoder', 'vit-ti')) == 0
    printed = capsys.readouterr().out
    assert printed.count('no fault') == 2 and '7 marks pixels without a class' in printed
    small = [
        'model.backbone.pretrained=None',
        'train_cfg.max_iters=2',
        'train_cfg.val_interval=2',
        'train_dataloader.num_workers=0',
        'val_dataloader.num_workers=0',
        'test_dataloader.num_workers=0',
    ]
    work = tmp_path / 'work'
    assert call('train', root / 'own.py', '--work-dir', work, '--cfg-options', *small) == 0
    for more in ([], ['--tta']):
        command = [
            root / 'own.py',
            work / 'iter_2.pth',
            '--work-dir',
            work,
            *more,
            '--cfg-options',
            *small[:2],
            *small[-1:],
        ]
        assert call('test', *command) == 0


@pytest.mark.parametrize('encoder', ENCODERS)
@pytest.mark.parametrize('sizes', [((40, 60),), ((300, 500), (480, 640)), ((2000, 3000), (120, 120), (700, 900))])
def test_crops_and_scales_fit_the_pictures_and_the_patch(encoder, sizes, tmp_path):
    for number, size in enumerate(sizes * 2):
        for folder, mode in (('images', 'RGB'), ('labels', 'L')):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.new(mode, size[::-1]).save(tmp_path / folder / f'{number}.png')
    new_config(options(tmp_path, encoder=encoder))
    config = Config.fromfile(tmp_path / 'own.py')
    crop, patch = config.crop, ENCODERS[encoder].patch
    low, high = (bound(min(512, *size) for size in sizes) for bound in (min, max))
    assert crop % (2 * patch) == 0 and low - 2 * patch < crop <= max(2 * patch, high)
    assert config.model.backbone.img_size == crop
    assert tuple(config.model.test_cfg.crop_size) == (crop, crop) == tuple(config.model.data_preprocessor.size)
    assert 0 < config.model.test_cfg.stride[0] <= crop and config.model.test_cfg.stride[0] % patch == 0
    assert tuple(config.scale) == (4 * crop, crop)
    resize = config.tta_pipeline[1].transforms[0]
    assert [tuple(one.scale) for one in resize][1] == (4 * crop, crop)  # the middle of TTA is the scale of the test
    assert config.optim_wrapper.optimizer.lr == ENCODERS[encoder].rate
    assert config.train_cfg.max_iters == config.param_scheduler[0].end == config.updates


@pytest.mark.parametrize(
    ('found', 'classes', 'mapping', 'from_one'),
    [
        ({0, 1, 2}, 3, {}, False),
        ({0, 1, 2, 255}, 3, {}, False),
        ({0, 1, 2, 3}, 3, {3: 255}, False),
        ({0, 2, 250}, 3, {250: 255}, False),
        ({1, 2, 3}, 3, {}, True),
        ({1, 2, 3, 255}, 3, {}, True),
        ({0, 255}, 2, {255: 1}, False),
        ({0, 255}, 3, {}, False),
        ({0, 1}, 2, {}, False),
    ],
)
def test_number_of_void_pixels_is_found(found, classes, mapping, from_one):
    numbers = read_numbers(dict.fromkeys(found, 9), [f'c{number}' for number in range(classes)])
    assert (dict(numbers.mapping), numbers.from_one) == (mapping, from_one)


def test_number_of_void_pixels_can_be_said():
    found = dict.fromkeys(range(4), 9)
    assert read_numbers(found, CLASSES, 0).from_one
    assert read_numbers(found, CLASSES, 3).mapping == {3: 255}
    assert read_numbers({0: 1, 255: 1}, ('a', 'b'), 255).mapping == {}
    with pytest.raises(ConfigError, match='3, 9'):
        read_numbers({0: 1, 3: 1, 9: 1}, CLASSES)
    assert read_numbers({0: 1, 3: 1, 9: 1}, ('a', 'b', 'c', 'd'), 9).mapping == {9: 255}


def test_policy_of_cts_gets_a_config_of_its_own(tmp_path):
    made = new_config(options(write_mixed(tmp_path, numbers=(0, 1, 2, 3)), policy=True))
    config = Config.fromfile(made.policy)
    assert config.model.type == 'mmseg_tr.PolicyClassifier' and set(config.model) >= {'data_preprocessor', 'labels'}
    assert config.crop % 32 == 0
    from mmengine.registry import init_default_scope

    import mmseg_tr.registry  # noqa: F401

    init_default_scope('mmseg')
    for loader in (config.train_dataloader, config.val_dataloader):
        dataset = build_dataset({**loader.dataset, 'serialize_data': False})
        for item in dataset:
            label = item['data_samples'].gt_sem_seg.data
            assert (
                label.shape[-2:] == item['inputs'].shape[-2:] == (config.crop, config.crop)
                or loader is config.train_dataloader
            )
            assert set(np.unique(label)) <= {0, 1, 2, 255}


def test_nothing_is_replaced_and_mistakes_are_named(tmp_path, capsys):
    root = write_mixed(tmp_path)
    (root / 'own.py').write_text('mine')
    assert 'exists already' in mistake(capsys, 'new_config', *arguments(root, '--classes', *CLASSES))
    assert (root / 'own.py').read_text() == 'mine'
    (root / 'own.py').unlink()
    for more, words in {
        ('--classes', 'one'): 'two or more',
        ('--classes', 'a,a'): 'more than once',
        ('--classes', 'a', 'b', '--val-share', '1.5'): '--val-share',
        ('--classes', 'a', 'b', '--crop', '3'): '--crop',
        ('--classes', 'a', 'b', '--ignore', '900'): '--ignore',
        ('--classes', 'a', 'b', '--val-images', str(root)): '--val-labels',
        ('--classes', 'a', 'b', '--out', str(root / 'own.yaml')): '--out',
    }.items():
        assert words in mistake(capsys, 'new_config', *arguments(root), *more), more
    (root / 'labels/b/0.png').unlink()
    assert 'b/0' in mistake(capsys, 'new_config', *arguments(root, '--classes', *CLASSES))
    assert not (root / 'own.py').exists()


def test_labels_in_colours_are_named(tmp_path, capsys):
    root = write_mixed(tmp_path)
    Image.new('RGB', (60, 40)).save(root / 'labels/b/0.png')
    assert 'b/0.png has shape (40, 60, 3)' in mistake(capsys, 'new_config', *arguments(root, '--classes', *CLASSES))


def test_classes_come_from_a_file_a_list_or_names(tmp_path):
    (tmp_path / 'names.txt').write_text('ground\ntree\n\n water \n')
    for given in ([str(tmp_path / 'names.txt')], ['ground,tree, water'], CLASSES):
        assert read_classes(given) == list(CLASSES)
    with pytest.raises(ConfigError):
        read_classes(['a', 'a'])


def test_colours_differ():
    assert len({tuple(colour) for colour in colours(60)}) == 60


# ---------------------------------------------------------------- the dataset of folders


def test_linked_folders_are_followed_and_hidden_files_skipped(tmp_path):
    root = write_mixed(tmp_path / 'far')
    (tmp_path / 'set').mkdir()
    for kind in ('images', 'labels'):
        (tmp_path / 'set' / kind).mkdir()
        (tmp_path / 'set' / kind / 'linked').symlink_to(root / kind)
        (tmp_path / 'set' / kind / '.ipynb_checkpoints').mkdir()
        (tmp_path / 'set' / kind / '.ipynb_checkpoints/0.png').write_bytes(b'')
        (tmp_path / 'set' / kind / '._1.png').write_bytes(b'')
    (tmp_path / 'set/images/linked/b').rename(tmp_path / 'set/images/linked/c')
    (tmp_path / 'set/labels/linked/b').rename(tmp_path / 'set/labels/linked/c')
    (root / 'images/loop').symlink_to(root / 'images')
    pairs = pair_files(tmp_path / 'set/images', tmp_path / 'set/labels')
    assert len(pairs) == 12
    assert all(picture.stem == label.stem for picture, label in pairs)


def test_labels_with_a_longer_name_are_paired(tmp_path):
    root = write_mixed(tmp_path, suffix='_L')
    assert find_label_suffix(root / 'images', root / 'labels') == '_L'
    assert len(pair_files(root / 'images', root / 'labels', '_L')) == 12
    with pytest.raises(DatasetError, match='no label'):
        pair_files(root / 'images', root / 'labels')


def test_two_pictures_of_one_name_are_refused(tmp_path):
    root = write_mixed(tmp_path)
    (root / 'images/1.gif.png').write_bytes((root / 'images/1.png').read_bytes())
    (root / 'images/1.bmp').write_bytes((root / 'images/1.png').read_bytes())
    with pytest.raises(DatasetError, match='1.bmp and .*1.png'):
        pair_files(root / 'images', root / 'labels')


@pytest.mark.parametrize('share', [0.01, 0.2, 0.5, 0.99])
def test_parts_are_disjoint_complete_never_empty_and_stay_as_they_are(share, tmp_path):
    root = write_mixed(tmp_path / 'set', 10)
    pairs = pair_files(root / 'images', root / 'labels')
    train, val = (split_pairs(pairs, part, share) for part in ('train', 'val'))
    assert sorted(train + val) == sorted(pairs) and train and val
    assert len(val) == min(max(1, round(10 * share)), 9)
    assert split_pairs(pairs[::-1], 'val', share)[::-1] == val
    os.rename(root, tmp_path / 'moved')
    again = pair_files(tmp_path / 'moved/images', tmp_path / 'moved/labels')
    assert [path.name for path, _ in split_pairs(again, 'val', share)] == [path.name for path, _ in val]

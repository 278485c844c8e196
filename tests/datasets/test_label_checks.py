"""Labels that cannot be right are named with their file, what they hold and what is allowed; right ones pass."""

import itertools
import time

import numpy as np
import pytest
from PIL import Image

import mmseg_tr.registry  # noqa: F401  # isort: skip (makes the OpenMMLab packages import)
from mmcv.transforms import BaseTransform
from mmengine.registry import DATASETS, TRANSFORMS

from mmseg_tr.datasets.label_checks import check_labels
from mmseg_tr.datasets.label_loading import leaf_datasets

CLASSES = ('ground', 'tree', 'water')
LOADERS = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
SIZE = (24, 40)


@TRANSFORMS.register_module()
class ColoursToNumbers(BaseTransform):
    """A transform of a user: the label's colours are the classes."""

    def transform(self, results):
        label = results['gt_seg_map']
        results['gt_seg_map'] = (label[..., 0] // 100).astype(np.uint8)
        return results


@TRANSFORMS.register_module()
class LoadWideLabel(BaseTransform):
    """A loader of a user for labels of 16 bits in steps of 1000."""

    def transform(self, results):
        results['gt_seg_map'] = (np.asarray(Image.open(results['seg_map_path'])) // 1000).astype(np.int64)
        results['seg_fields'].append('gt_seg_map')
        return results


def label(values=(0, 1, 2), size=SIZE, dtype=np.uint8):
    """Stripes of the values."""
    return np.array(values, dtype)[np.arange(size[1]) * len(values) // size[1]][None].repeat(size[0], 0)


def write(root, labels, pictures=None, suffix='.png', **saved):
    """Write pairs; a picture is an array, a size or None for one of its label's size."""
    for number, pixels in enumerate(labels):
        picture = (pictures or {}).get(number, pixels.shape[:2])
        picture = picture if isinstance(picture, np.ndarray) else np.full((*picture, 3), 99, np.uint8)
        for folder, content, ending in (('images', picture, suffix), ('labels', pixels, '.png')):
            path = root / folder / f'{number}{ending}'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(content).save(path, **(saved if folder == 'images' else {}))
    return root


def dataset(root, classes=CLASSES, pipeline=LOADERS, suffix='.png', **more):
    config = dict(
        type='mmseg.BaseSegDataset',
        data_root=str(root),
        data_prefix=dict(img_path='images', seg_map_path='labels'),
        metainfo=dict(classes=classes, palette=[[9 * number] * 3 for number in range(len(classes))]),
        img_suffix=suffix,
        serialize_data=False,  # it collects garbage, which takes a second here
        pipeline=[
            dict(one, type=f'mmseg.{one["type"]}' if one['type'] == 'LoadAnnotations' else one['type'])
            for one in pipeline
        ],
    )
    return DATASETS.build({**config, **more})


def kinds(report):
    return {fault.kind for fault in report.faults}


def test_right_labels_pass_and_are_counted(tmp_path):
    ignored = label((0, 0, 255, 2))
    report = check_labels(dataset(write(tmp_path, [label(), ignored])))
    assert (report.faults, report.warnings) == ([], [])
    assert report.pixels.tolist() == [SIZE[0] * (14 + 20), SIZE[0] * 13, SIZE[0] * (13 + 10)]
    assert (report.pictures.tolist(), report.ignored) == ([2, 1, 2], SIZE[0] * 10)
    assert report.sizes == {SIZE: 2} and (report.headers, report.decoded) == (2, 2)


FAULTS = {
    'size': (lambda: label(size=(12, 40)), SIZE, ['12 x 40', '24 x 40', '1.png']),
    'size, sides exchanged': (lambda: label(size=(40, 24)), SIZE, ['40 x 24', '24 x 40']),
    'size, one pixel': (lambda: label(size=(24, 39)), SIZE, ['24 x 39']),
    'dimensions': (lambda: label()[..., None].repeat(3, 2), SIZE, ['(24, 40, 3)', 'class number per pixel']),
    'dimensions, alpha': (lambda: label()[..., None].repeat(4, 2), SIZE, ['(24, 40, 4)']),
    'dimensions, grey and alpha': (lambda: label()[..., None].repeat(2, 2), SIZE, ['(24, 40, 2)']),
    'depth': (lambda: label((0, 256, 512), dtype=np.uint16), SIZE, ['256', '16 bits', '8-bit PNG']),
    'depth, 32 bits': (lambda: label((0, 1, 70_000), dtype=np.int32), SIZE, ['70000', '32 bits']),
    'values': (lambda: label((0, 1, 5)), SIZE, ['holds 5', '0 to 2', '255', 'ignore_index=5']),
    'values, several': (lambda: label((0, 7, 254)), SIZE, ['holds 7, 254']),
    'values, palette': (lambda: label((0, 1, 9)), SIZE, ['holds 9']),
}


@pytest.mark.parametrize('name', FAULTS)
def test_fault_is_named_with_file_what_it_holds_and_what_is_allowed(name, tmp_path):
    make, size, words = FAULTS[name]
    write(tmp_path, [label(), label()], {1: size})
    pixels = make()
    if 'palette' in name:
        image = Image.fromarray(pixels).convert('P')
        image.putpalette(list(range(256)) * 3)
        image.putdata(pixels.ravel().tolist())
        image.save(tmp_path / 'labels/1.png')
    elif pixels.dtype == np.int32:
        Image.fromarray(pixels).save(tmp_path / 'labels/1.tiff')
        (tmp_path / 'labels/1.tiff').rename(tmp_path / 'labels/1.png')
    else:
        Image.fromarray(pixels).save(tmp_path / 'labels/1.png')
    report = check_labels(dataset(tmp_path))
    assert kinds(report) == {name.partition(',')[0]}
    (fault,) = report.faults
    assert fault.file == str(tmp_path / 'labels/1.png')
    for word in [fault.file, *words]:
        assert word in fault.text


def test_float_labels_are_refused_unless_they_hold_whole_numbers(tmp_path):
    write(tmp_path, [label()])
    for values, expected in (((0.0, 1.0, 2.0), set()), ((0.0, 0.5, 1.0), {'depth'}), ((0.0, np.nan, 1.0), {'depth'})):
        Image.fromarray(label(values, dtype=np.float32)).save(tmp_path / 'labels/0.tif')
        (tmp_path / 'labels/0.tif').rename(tmp_path / 'labels/0.png')
        assert kinds(check_labels(dataset(tmp_path))) == expected, values


def test_16_bit_labels_with_small_numbers_pass(tmp_path):
    report = check_labels(dataset(write(tmp_path, [label(dtype=np.uint16)])))
    assert not report.faults and report.pixels.all()


@pytest.mark.parametrize('orientation', range(1, 9))
def test_sizes_are_compared_once_exif_is_applied(orientation, tmp_path):
    """The reader of the dataset decides: OpenCV turns pictures in colour, and leaves them with 'unchanged'."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    write(tmp_path, [label((0, 1, 2))] * 3, suffix='.jpg', exif=exif)
    turned = orientation > 4
    for color, expected in (('color', turned), ('unchanged', False), ('color_ignore_orientation', False)):
        pipeline = [dict(type='LoadImageFromFile', color_type=color), LOADERS[1]]
        report = check_labels(dataset(tmp_path, pipeline=pipeline, suffix='.jpg'), decode=1)
        assert kinds(report) == ({'size'} if expected else set()), color
        assert len(report.faults) == (3 if expected else 0)


def test_headers_of_all_files_are_judged_as_the_decoded_ones_were_loaded(tmp_path, monkeypatch):
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = label(size=(40, 24))
    write(tmp_path, [upright] * 12, dict.fromkeys(range(12), SIZE), suffix='.jpg', exif=exif)
    Image.fromarray(label()).save(tmp_path / 'labels/7.png')
    monkeypatch.setattr('mmseg_tr.datasets.label_checks.SUSPECTS', 2)
    report = check_labels(dataset(tmp_path, suffix='.jpg'), decode=1)
    assert [fault.file for fault in report.faults] == [str(tmp_path / 'labels/7.png')]
    assert report.decoded <= 3


MASK_TRANSFORM = dict(type='mmseg_tr.MapLabels', mapping={255: 1})


@pytest.mark.parametrize('ignore', [255, 254])
def test_masks_of_0_and_255_name_the_transform_that_maps_them(ignore, tmp_path):
    write(tmp_path, [label((0, 255)), label((0,)), label((255, 0, 255))])
    report = check_labels(dataset(tmp_path, ('background', 'crack')), ignore)
    assert kinds(report) == {'mask'}
    assert "dict(type='mmseg_tr.MapLabels', mapping={255: 1})" in report.faults[0].text
    mapped = check_labels(dataset(tmp_path, ('background', 'crack'), [*LOADERS, MASK_TRANSFORM]), ignore)
    assert not mapped.faults and mapped.pixels.all()


def test_a_class_without_a_pixel_is_a_warning_that_says_how_many_labels_were_read(tmp_path):
    report = check_labels(dataset(write(tmp_path, [label((0, 1))] * 5)), decode=4)
    assert not report.faults
    (warning,) = report.warnings
    assert 'water' in warning and '4 labels' in warning and 'of 5' in warning


def test_numbers_are_those_after_the_transforms_of_the_dataset(tmp_path):
    """reduce_zero_label, a subset of classes, loaders and transforms of the user."""
    one = write(tmp_path / 'one', [label((0, 1, 2, 3))])
    assert kinds(check_labels(dataset(one))) == {'values'}
    reduced = check_labels(dataset(one, reduce_zero_label=True))
    assert not reduced.faults and reduced.ignored and reduced.pixels.all()
    coloured = write(tmp_path / 'two', [label((0, 100, 200))[..., None].repeat(3, 2)])
    pipeline = [*LOADERS, dict(type='ColoursToNumbers')]
    assert check_labels(dataset(coloured, pipeline=pipeline)).pixels.all()
    wide = write(tmp_path / 'three', [label((0, 1000, 2000), dtype=np.uint16)])
    found = check_labels(dataset(wide, pipeline=[LOADERS[0], dict(type='LoadWideLabel')]))
    assert not found.faults and found.pixels.all()


def test_a_subset_of_classes_maps_the_others_to_ignored(tmp_path):
    write(tmp_path, [label((0, 13, 11))])
    report = check_labels(
        dataset(
            tmp_path,
            ('car', 'person'),
            type='mmseg.CityscapesDataset',
            seg_map_suffix='.png',
            metainfo=dict(classes=('car', 'person')),
        )
    )
    assert not report.faults and report.pixels.all() and report.ignored


def test_labels_after_a_resize_of_the_picture_are_compared_with_the_file(tmp_path):
    pipeline = [LOADERS[0], dict(type='mmseg.Resize', scale=(80, 48), keep_ratio=True), LOADERS[1]]
    write(tmp_path, [label(), label(size=(48, 80))], {1: SIZE})
    report = check_labels(dataset(tmp_path, pipeline=pipeline))
    assert [fault.file for fault in report.faults] == [str(tmp_path / 'labels/1.png')]


def test_augmentation_is_left_out_and_random_states_stay(tmp_path):
    pipeline = [
        *LOADERS,
        dict(type='mmseg.RandomCrop', crop_size=(4, 4)),
        dict(type='mmseg.RandomFlip', prob=0.5),
        dict(type='mmseg.PackSegInputs'),
    ]
    np.random.seed(3)
    before = np.random.get_state()[1].copy()
    report = check_labels(dataset(write(tmp_path, [label()]), pipeline=pipeline))
    assert report.pixels.sum() == SIZE[0] * SIZE[1]
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_test_time_augmentation_is_looked_into(tmp_path):
    variants = [[dict(type='mmseg.RandomFlip', prob=0.0)], [dict(type='mmseg.LoadAnnotations')]]
    pipeline = [LOADERS[0], dict(type='TestTimeAug', transforms=variants)]
    assert check_labels(dataset(write(tmp_path, [label()]), pipeline=pipeline)).pixels.all()


def test_files_that_cannot_be_read_are_named(tmp_path):
    write(tmp_path, [label()] * 4)
    (tmp_path / 'labels/1.png').unlink()
    (tmp_path / 'labels/2.png').write_bytes(b'no picture')
    (tmp_path / 'images/3.png').write_bytes(b'')
    report = check_labels(dataset(tmp_path))
    assert kinds(report) == {'file'} and len(report.faults) == 3
    texts = sorted(fault.text for fault in report.faults)
    for number, text in enumerate(texts, 1):
        assert f'{number}.png' in text


def test_unusual_tiffs_pass_or_are_named(tmp_path):
    """Several modes and compressions, and files that are cut off or changed: a fault at most, never an exception."""
    rng = np.random.default_rng(0)
    write(tmp_path, [label()])
    for dtype, compression, damage in itertools.product(
        (np.uint8, np.uint16, np.int32, np.float32), (None, 'tiff_lzw', 'tiff_deflate'), range(4)
    ):
        Image.fromarray(label(dtype=dtype)).save(tmp_path / 'a.tif', compression=compression)
        content = bytearray((tmp_path / 'a.tif').read_bytes())
        for _ in range(damage):
            content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
        (tmp_path / 'labels/0.png').write_bytes(content[: len(content) // 2] if damage == 3 else content)
        report = check_labels(dataset(tmp_path))
        assert damage or not report.faults


def test_data_sets_inside_wrappers_are_found(tmp_path):
    one = dataset(write(tmp_path / 'one', [label()]))
    two = dataset(write(tmp_path / 'two', [label()] * 2))
    joined = DATASETS.build(
        dict(type='RepeatDataset', times=3, dataset=dict(type='ConcatDataset', datasets=[one, two]))
    )
    assert [len(leaf) for leaf in leaf_datasets(joined)] == [1, 2]


@pytest.mark.parametrize(('total', 'headers'), [(7, 3), (5, None)])
def test_large_sets_are_sampled_evenly_and_this_is_said(total, headers, tmp_path):
    report = check_labels(dataset(write(tmp_path, [label()] * total)), headers=headers, decode=2)
    assert report.headers == (headers or total) and report.decoded == 2
    assert any(f'{headers} of {total}' in warning for warning in report.warnings) == bool(headers)


def test_reading_ten_thousand_pairs_takes_seconds(tmp_path):
    """Links to a few files, as a warm disk gives them. The bound is four times the promised one: machines are busy."""
    write(tmp_path, [label()] * 4, suffix='.jpg')
    for number in range(4, 4000):
        for folder, suffix in (('images', 'jpg'), ('labels', 'png')):
            (tmp_path / folder / f'{number}.{suffix}').hardlink_to(tmp_path / folder / f'{number % 4}.{suffix}')
    made = dataset(tmp_path, suffix='.jpg')
    start = time.perf_counter()
    report = check_labels(made)
    assert time.perf_counter() - start < 4 * 4 * 0.4
    assert report.headers == 4000 and report.sizes == {SIZE: 4000} and not report.faults

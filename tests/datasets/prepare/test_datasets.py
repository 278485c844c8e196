"""Every dataset from small archives in the published layouts to what its base config reads, through the tool."""

import dataclasses
import hashlib
import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mmseg_tr.registry  # noqa: F401  # isort: skip (makes the OpenMMLab packages import)
from mmengine import Config
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS

from mmseg_tr.datasets import prepare
from mmseg_tr.datasets.prepare import coco_stuff, pascal_context
from mmseg_tr.errors import DatasetError
from tests.datasets.prepare.server import serve
from tests.tools.command import call, mistake

mask = pytest.importorskip('pycocotools.mask')
savemat = pytest.importorskip('scipy.io').savemat
BASES = Path(__file__).parents[3] / 'local_configs/_base_/datasets'
SIZE = (40, 60)


def image(kind, pixels=None):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8) if pixels is None else pixels
    Image.fromarray(pixels).save(buffer, format=kind)
    return buffer.getvalue()


def label(*values):
    """Columns of these values."""
    return np.asarray(values, np.uint8).repeat(-(-SIZE[1] // len(values)))[None, : SIZE[1]].repeat(SIZE[0], 0)


def mat(**content):
    buffer = io.BytesIO()
    savemat(buffer, content)
    return buffer.getvalue()


def write(path, members):
    if path.suffix == '.json':
        path.write_text(members)
    elif path.suffix == '.zip':
        with zipfile.ZipFile(path, 'w') as file:
            for name, content in members.items():
                file.writestr(name, content)
    else:
        with tarfile.open(path, 'w:gz' if path.suffix == '.gz' else 'w') as file:
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A server of small archives; published(name, {archive: members}) puts some there, with hashes, for a dataset."""
    folder = tmp_path / 'served'
    folder.mkdir()

    def publish(name, archives, counts):
        for archive, members in archives.items():
            write(folder / archive, members)
        recipes = []
        for recipe in prepare.MODULES[name].RECIPES:
            small = [
                dataclasses.replace(
                    archive, digest=f'md5:{hashlib.md5((folder / archive.name).read_bytes()).hexdigest()}', login=None
                )
                if (folder / archive.name).exists()
                else archive
                for archive in recipe.archives
            ]
            wanted = [dataclasses.replace(entry, count=counts(entry)) for entry in recipe.wanted]
            recipes.append(dataclasses.replace(recipe, archives=tuple(small), wanted=tuple(wanted)))
        monkeypatch.setattr(prepare.MODULES[name], 'RECIPES', tuple(recipes))
        return server

    monkeypatch.setenv('DATASET', str(tmp_path / 'data'))
    with serve(folder) as server:
        yield publish


def one(entry):
    return 1


def prepared(server, name, *more):
    assert call('prepare_dataset', name, '--mirror', server.url, *more) == 0


def values(folder, pattern):
    """The numbers in each of the columns of a label file."""
    (path,) = folder.glob(pattern)
    return np.asarray(Image.open(path))[0].tolist()


def loads(base, name='val_dataloader'):
    """The labels of the first picture that a base config reads."""
    init_default_scope('mmseg')
    config = Config.fromfile(BASES / f'{base}.py')
    dataset = DATASETS.build(config[name].dataset)
    assert len(dataset) == 1
    return set(dataset[0]['data_samples'].gt_sem_seg.data.unique().tolist())


def ade20k():
    members = {'ADEChallengeData2016/sceneCategories.txt': b'ADE_train_1 street'}
    for split, name in (('training', 'ADE_train_1'), ('validation', 'ADE_val_1')):
        members[f'ADEChallengeData2016/images/{split}/{name}.jpg'] = image('JPEG')
        members[f'ADEChallengeData2016/annotations/{split}/{name}.png'] = image('PNG', label(0, 1, 150))
    return {'ADEChallengeData2016.zip': members}


def test_ade20k(published, tmp_path, capsys):
    server = published('ade20k', ade20k(), one)
    assert call('prepare_dataset', 'ade20k', '--check') == 1
    said = capsys.readouterr().out
    assert 'missing: ADEChallengeData2016/images/training/*.jpg: 0 of 1 files' in said
    assert 'to do: download http://data.csail.mit.edu' in said and 'md5:' in said
    prepared(server, 'ade20k')
    assert loads('ade20k_512x512') == {255, 0, 149}
    assert call('prepare_dataset', 'ade20k', '--check') == 0


def test_prepared_dataset_is_left_alone(published, tmp_path):
    server = published('ade20k', ade20k(), one)
    prepared(server, 'ade20k')
    asked = len(server.requests)
    (tmp_path / 'data/archives/ADEChallengeData2016.zip').unlink()
    prepared(server, 'ade20k')
    assert len(server.requests) == asked


def test_wrong_hash_is_one_sentence(published, tmp_path, capsys):
    server = published('ade20k', ade20k(), one)
    write(server.folder / 'ADEChallengeData2016.zip', {'x': b'another archive'})
    sentence = mistake(capsys, 'prepare_dataset', 'ade20k', '--mirror', server.url)
    assert 'was expected: the file is kept as' in sentence
    assert (tmp_path / 'data/archives/ADEChallengeData2016.zip.wrong').exists()


def test_cityscapes(published, tmp_path):
    images, labels = {'README': b'1', 'license.txt': b'22'}, {'README': b'333', 'license.txt': b'4444'}
    for split in ('train', 'val', 'test'):
        images[f'leftImg8bit/{split}/ulm/ulm_1_leftImg8bit.png'] = image('PNG')
        labels[f'gtFine/{split}/ulm/ulm_1_gtFine_labelIds.png'] = image('PNG', label(0, 7, 33, 26, 10))
    server = published('cityscapes', {'leftImg8bit_trainvaltest.zip': images, 'gtFine_trainvaltest.zip': labels}, one)
    prepared(server, 'cityscapes')
    assert loads('cityscapes_768x768') == {255, 0, 18, 13}
    assert values(tmp_path / 'data/cityscapes', 'gtFine/train/*/*TrainIds.png')[::12] == [255, 0, 18, 13, 255]


def test_cityscapes_says_that_it_needs_an_account(published, monkeypatch, capsys):
    for name in ('CITYSCAPES_USERNAME', 'CITYSCAPES_PASSWORD'):
        monkeypatch.delenv(name, raising=False)
    assert 'register at https://www.cityscapes-dataset.com' in mistake(capsys, 'prepare_dataset', 'cityscapes')


def voc(name):
    return {
        **{f'VOCdevkit/VOC2010/JPEGImages/{name}_{split}.jpg': image('JPEG') for split in ('train', 'val')},
        **{f'VOCdevkit/VOC2010/ImageSets/Main/{split}.txt': f'{name}_{split}\n'.encode() for split in ('train', 'val')},
        'VOCdevkit/VOC2010/Annotations/2008.xml': b'not needed',
    }


def context_counts(entry):
    return 1 if entry.pattern.endswith('.txt') else 2


def check_context(tmp_path):
    assert loads('pascal_context_480x480') == {0, 1, 59}
    labels = tmp_path / 'data/pcontext/VOCdevkit/VOC2010/SegmentationClassContext'
    assert values(labels, '*_val.png')[::20] == [0, 1, 59]
    assert not (tmp_path / 'data/pcontext/VOCdevkit/VOC2010/Annotations').exists()


def test_pascal_context_from_its_json(published, tmp_path):
    regions, pictures = [], []
    for number, split in enumerate(('train', 'val'), 7):
        pictures.append(dict(image_id=number, file_name=f'2008_{split}.jpg', phase=split, height=40, width=60))
        for category, start in ((2, 0), (458, 40), (2, 20), (5, 0)):
            drawn = np.zeros(SIZE, np.uint8, order='F')
            drawn[:, start : start + 20] = 1
            code = mask.encode(drawn)
            region = dict(size=code['size'], counts=code['counts'].decode())
            regions.append(dict(image_id=number, category_id=category, segmentation=region))
    content = json.dumps(dict(images=pictures, annos_segmentation=regions))
    archives = {'VOCtrainval_03-May-2010.tar': voc('2008'), 'trainval_merged.json': content}
    prepared(published('pascal_context', archives, context_counts), 'pascal_context')
    check_context(tmp_path)


@pytest.mark.parametrize(
    ('damage', 'reason'),
    [
        (lambda content: content['images'][0].pop('phase'), 'phase'),
        (lambda content: content['images'][0].update(file_name=5), 'file_name 5'),
        (lambda content: content['images'][0].update(file_name='../2008.jpg'), '../2008.jpg'),
        (lambda content: content['images'][0].update(height=10**12), '1000000000000'),
        (lambda content: content['annos_segmentation'][0]['segmentation'].update(size=[10**6, 10**6]), '1000000'),
        (lambda content: None, None),  # nested too deeply
    ],
)
def test_damaged_annotations_of_pascal_context_are_named(damage, reason, tmp_path):
    content = dict(
        images=[dict(image_id=7, file_name='2008.jpg', phase='train', height=40, width=60)],
        annos_segmentation=[dict(image_id=7, category_id=2, segmentation=dict(size=[40, 60], counts='0'))],
    )
    damage(content)
    text = json.dumps(content) if reason else '[' * 100_000
    (tmp_path / 'trainval_merged.json').write_text(text)
    with pytest.raises(DatasetError, match=reason or 'damaged') as error:
        pascal_context.convert(tmp_path, tmp_path, lambda *_: None)
    assert 'trainval_merged.json' in str(error.value)


def test_pascal_context_from_its_matlab_files(published, tmp_path):
    server = published('pascal_context', {'VOCtrainval_03-May-2010.tar': voc('2008')}, context_counts)
    store = tmp_path / 'data/archives'
    store.mkdir(parents=True)
    columns = np.repeat(np.array([[431, 2, 458]], np.uint16), 20, 1).repeat(SIZE[0], 0)
    write(
        store / 'trainval.tar.gz', {f'trainval/2008_{split}.mat': mat(LabelMap=columns) for split in ('train', 'val')}
    )
    prepared(server, 'pascal_context')
    check_context(tmp_path)


def test_coco_stuff_10k(published, tmp_path, capsys):
    members = {f'imageLists/{split}.txt': f'COCO_{split}\n'.encode() for split in ('train', 'test')}
    for split in ('train', 'test'):
        members[f'images/COCO_{split}.jpg'] = image('JPEG')
        members[f'annotations/COCO_{split}.mat'] = mat(S=label(0, 1, 182, 13))
    server = published('coco_stuff', {'cocostuff-10k-v1.1.zip': members}, lambda entry: 1)
    prepared(server, 'coco_stuff', '--part', '10k')
    assert loads('coco_stuff10k_512x512') == {255, 0, 170, 11}
    found = values(tmp_path / 'data/coco_stuff10k', 'annotations/train2014/*.png')
    assert found[::15] == [0, 1, 171, 12]


def test_list_of_coco_stuff_10k_that_leads_outside_is_refused(tmp_path):
    (tmp_path / 'imageLists').mkdir()
    (tmp_path / 'imageLists/train.txt').write_text('../../../escape\n')
    with pytest.raises(DatasetError, match='escape'):
        coco_stuff.convert_10k(tmp_path, tmp_path, lambda *_: None)
    assert [path.name for path in tmp_path.iterdir()] == ['imageLists']


def test_coco_stuff_164k(published, tmp_path):
    maps, archives = {}, {}
    for split in ('train2017', 'val2017'):
        maps[f'{split}/{1:012d}.png'] = image('PNG', label(255, 0, 181, 12))
        archives[f'{split}.zip'] = {f'{split}/{1:012d}.jpg': image('JPEG')}
    server = published('coco_stuff', {'stuffthingmaps_trainval2017.zip': maps, **archives}, one)
    prepared(server, 'coco_stuff', '--part', '164k')
    assert loads('coco_stuff164k_512x512') == {255, 0, 170, 11}


def test_unpublished_hash_is_said(published, capsys):
    published('coco_stuff', {}, one)
    assert call('prepare_dataset', 'coco_stuff', '--check') == 1
    assert 'none is published, so the file cannot be verified' in capsys.readouterr().out


def test_label_tables_of_coco_stuff_hold_every_class_once():
    assert sorted(set(coco_stuff.TABLE_10K.tolist())) == list(range(172))
    assert sorted(set(coco_stuff.TABLE_164K.tolist())) == [*range(171), 255]


def test_coco(published, tmp_path):
    keypoints = {f'annotations/person_keypoints_{split}2017.json': b'{}' for split in ('train', 'val')}
    archives = {f'{split}2017.zip': {f'{split}2017/{1:012d}.jpg': image('JPEG')} for split in ('train', 'val')}
    server = published('coco', {'annotations_trainval2017.zip': keypoints, **archives}, one)
    prepared(server, 'coco')
    assert (tmp_path / 'data/coco/annotations/person_keypoints_val2017.json').is_file()
    assert (tmp_path / 'data/coco/train2017/000000000001.jpg').is_file()


def test_jump_broadcast_says_what_to_do_by_hand(published, capsys):
    assert call('prepare_dataset', 'jbd', '--check') == 1
    assert 'to do: its frames belong to television stations' in capsys.readouterr().out
    assert 'cannot be downloaded' in mistake(capsys, 'prepare_dataset', 'jbd')


def test_jump_broadcast_is_converted_once_its_tables_and_frames_are_there(monkeypatch, tmp_path, capsys):
    from mmseg_tr.datasets.jump_csv import JOINTS

    monkeypatch.setenv('DATASET', str(tmp_path))
    source = tmp_path / 'jump_broadcast/source'
    header = 'event;frame_num;' + ';'.join(f'{joint}_{part}' for joint in JOINTS for part in 'xys')
    for split, frame in (('train', 17), ('val', 18)):
        picture = source / f'frames/0/0_({frame:05d}).jpg'
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_bytes(image('JPEG'))
        joints = ';'.join('10;10;1' for _ in JOINTS)
        (source / f'{split}.csv').write_text(f'{header}\n0;{frame};{joints}\n')
    (source / 'boxes.csv').write_text('image_id,min_x,min_y,width,height\n17,5,5,20,20\n18,5,5,20,20\n')
    assert call('prepare_dataset', 'jbd') == 0
    assert json.loads((tmp_path / 'jump_broadcast/annotations/val_jump.json').read_text())['images'][0]['id'] == 18
    assert call('prepare_dataset', 'jbd', '--check') == 0


def test_damaged_label_is_named(published, tmp_path, capsys):
    members = {f'gtFine/{split}/ulm/ulm_1_gtFine_labelIds.png': b'no picture' for split in ('train', 'val', 'test')}
    images = {f'leftImg8bit/{split}/ulm/ulm_1_leftImg8bit.png': image('PNG') for split in ('train', 'val', 'test')}
    archives = {'gtFine_trainvaltest.zip': members, 'leftImg8bit_trainvaltest.zip': images}
    server = published('cityscapes', archives, one)
    sentence = mistake(capsys, 'prepare_dataset', 'cityscapes', '--mirror', server.url)
    assert 'ulm_1_gtFine_labelIds.png cannot be read' in sentence


def test_folder_of_datasets_has_to_be_named(monkeypatch, capsys):
    monkeypatch.delenv('DATASET', raising=False)
    assert 'the environment variable DATASET is not set' in mistake(capsys, 'prepare_dataset', 'ade20k', '--check')


def test_unknown_part_is_refused(published, capsys):
    assert "ade20k has no part '10k'" in mistake(capsys, 'prepare_dataset', 'ade20k', '--part', '10k')

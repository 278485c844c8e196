"""What every tool shows a network is what test shows it, bit for bit: preprocessors x picture formats x pipelines."""

import numpy as np
import pytest
import torch

pytest.importorskip('mmseg')

from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from PIL import Image

from mmseg_tr.analysis.network import network_of
from mmseg_tr.apis.build import build_model, load_batch
from mmseg_tr.apis.config import load_config
from mmseg_tr.apis.export.program import Whole
from mmseg_tr.apis.infer.segment import Segmenting
from mmseg_tr.apis.report.pictures import look, own_examples
from mmseg_tr.apis.report.pictures import test_example as example_of
from mmseg_tr.apis.show.view import View
from mmseg_tr.engine.datasets import build_dataset
from mmseg_tr.engine.preprocess import PictureReader, preprocess
from mmseg_tr.engine.windows import windows_of
from mmseg_tr.errors import DatasetError
from tests.pictures import LABELS, LOAD, PACK, PIPELINES, PREPROCESSORS, folder, settings


def seen_by_test(config: Config, model) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The input of predict() in a test of the config, and every batch of crops that its backbone gets."""
    crops, inputs = [], []
    hook = model.backbone.register_forward_pre_hook(lambda _, arguments: crops.append(arguments[0]))
    data = model.data_preprocessor(pseudo_collate([build_dataset(config.test_dataloader.dataset)[0]]), False)
    inputs.append(data['inputs'])
    with torch.inference_mode():
        model.predict(**data)
    hook.remove()
    return inputs[0], list(torch.cat(crops).split(1))


def same(config: Config, root) -> None:
    """Hold the reader, the windows and a measured batch against a test."""
    model = build_model(config, None).eval()
    inputs, crops = seen_by_test(config, model)
    (file,) = (root / 'images').iterdir()
    ours = preprocess(model, [PictureReader.of(config).read(file)])['inputs']
    assert torch.equal(ours, inputs.float())
    windows = windows_of(model, ours)
    assert len(windows.anchors) == len(crops)
    assert all(torch.equal(windows.crop(number), crop) for number, crop in enumerate(crops))
    batch = load_batch(config, model, str(root / 'images'), (32, 32), 1, 1)  # of get_fps_flops and export
    assert any(torch.equal(batch, crop) for crop in crops)
    same_pictures(config, model, file, crops)


def same_pictures(config: Config, model, file, crops: list[torch.Tensor]) -> None:
    """Hold what show_merging and report see, and what report and infer predict, against a test."""
    view = View.of(config, model)
    windows = view.enter(view.reader.load(file)).windows  # show_merging, show_attention
    assert all(torch.equal(windows.crop(number), crop) for number, crop in enumerate(crops))
    dataset = build_dataset(config.test_dataloader.dataset)
    with torch.inference_mode():
        (sample,) = model(**preprocess(model, [dataset[0]]), mode='predict')
    label = sample.pred_sem_seg.data[0].numpy()
    (own,) = own_examples(view.reader, [str(file)], [])
    for example in (example_of(view.reader, dataset, 0), own):
        shown = look({'plain': view}, example)
        assert np.array_equal(shown.seen['plain'].prediction, label) and shown.image.shape[:2] == label.shape
    task = Segmenting(model, view.reader)
    assert np.array_equal(task.predict([task.read(file)])[0], label)


@pytest.mark.parametrize('pipeline', PIPELINES)
@pytest.mark.parametrize('preprocessor', PREPROCESSORS)
def test_the_network_sees_what_test_shows_it(preprocessor, pipeline, tmp_path):
    root = folder(tmp_path)
    same(settings(root, preprocessor=PREPROCESSORS[preprocessor], pipeline=PIPELINES[pipeline]), root)


@pytest.mark.parametrize('pipeline', ['as it is', 'resized', 'Pillow'])
@pytest.mark.parametrize('kind', ['L', 'RGBA', 'LA', 'palette', '1', 'grey16', 'exif'])
def test_pictures_of_every_format_are_read_as_the_dataset_reads_them(kind, pipeline, tmp_path):
    root = folder(tmp_path, kind)
    suffix = '.jpg' if kind == 'exif' else '.png'
    same(settings(root, suffix, pipeline=PIPELINES[pipeline]), root)


def test_16_bit_grey_keeps_its_greys(tmp_path):
    root = folder(tmp_path, 'grey16')
    loaded = PictureReader.of(settings(root)).load(root / 'images' / '0.png')['img']
    assert loaded.shape == (40, 56, 3) and len(np.unique(loaded)) > 200


@pytest.mark.parametrize(('channels', 'color'), [(1, 'grayscale'), (4, 'unchanged')])
def test_any_number_of_channels_is_read_and_measured(channels, color, tmp_path):
    root = folder(tmp_path, 'L' if channels == 1 else 'RGBA')
    values = dict(mean=[127.5] * channels, std=[127.5] * channels)
    pipeline = [dict(LOAD, color_type=color), LABELS, PACK]
    config = settings(root, preprocessor=values, pipeline=pipeline, channels=channels)
    same(config, root)
    model = build_model(config, None)
    pytest.importorskip('skimage')
    assert load_batch(config, model, None, (32, 48), 3, 2).shape == (3, channels, 32, 48)


def test_channels_that_the_network_does_not_take_are_refused_with_both_numbers(tmp_path):
    root = folder(tmp_path)
    config = settings(root, preprocessor=dict(), channels=1)
    with pytest.raises(DatasetError, match=r'1 channels.* 3.*in_chans'):
        load_batch(config, build_model(config, None), str(root / 'images'), (32, 32), 1, 1)


def test_a_preprocessor_beside_the_model_counts_as_in_the_runner(tmp_path):
    root = folder(tmp_path)
    config = settings(root)
    config.data_preprocessor = config.model.pop('data_preprocessor')
    picture = (100 * torch.arange(3.0)).expand(2, 2, 3).permute(2, 0, 1)
    (entered,) = build_model(config, None).data_preprocessor(dict(inputs=[picture]), False)['inputs']
    assert entered[0, 0, 0] > entered[2, 0, 0]  # its channels are reversed
    same(config, root)


def test_a_model_that_normalises_nothing_gets_the_pixels(tmp_path):
    root = folder(tmp_path)
    config = settings(root)
    del config.model.data_preprocessor
    model = build_model(config, None)
    reader = PictureReader.of(config)
    seen = preprocess(model, [reader.read(root / 'images' / '0.png')])['inputs']
    assert torch.equal(
        seen[0], torch.from_numpy(reader.load(root / 'images' / '0.png')['img']).permute(2, 0, 1).float()
    )


def test_an_array_and_a_pil_image_are_read_like_their_file(tmp_path):
    root = folder(tmp_path)
    file = root / 'images' / '0.png'
    for pipeline in ('as it is', 'resized', 'float'):
        reader = PictureReader.of(settings(root, pipeline=PIPELINES[pipeline]))
        expected = reader.read(file)['inputs']
        assert torch.equal(reader.read(np.asarray(Image.open(file)))['inputs'], expected)
        assert torch.equal(reader.read(Image.open(file))['inputs'], expected)


@pytest.mark.parametrize('damage', ['truncated', 'foreign', 'empty'])
def test_an_image_that_cannot_be_read_is_named(tmp_path, damage):
    root = folder(tmp_path)
    content = (root / 'images' / '0.png').read_bytes()
    bad = root / 'images' / 'bad.png'
    bad.write_bytes(dict(truncated=content[: len(content) // 2], foreign=b'no image at all', empty=b'')[damage])
    with pytest.raises(DatasetError, match=r'bad\.png cannot be read'):
        PictureReader.of(settings(root)).read(bad)


def test_the_embedded_scenes_come_with_a_reader_of_files(tmp_path):
    pytest.importorskip('skimage')
    config = load_config('segmenter/segmenter_vit-tiny-p8_photo-mosaic-128x128.py')
    root = folder(tmp_path)
    assert PictureReader.of(config).read(root / 'images' / '0.png')['inputs'].shape == (3, 40, 56)


class TestThreshold:
    """One output channel is cut at the head's threshold everywhere: test, report, timing and export."""

    @pytest.mark.parametrize('threshold', [None, 0.5, 0.7])
    def test_labels_of_the_steps_and_of_an_export_are_those_of_test(self, threshold, tmp_path):
        head = dict(type='mmseg_tr.SegmenterLinearHead', in_channels=16, num_classes=2, out_channels=1)
        head |= dict(threshold=threshold) if threshold else {}
        config = settings(folder(tmp_path), decode_head=head, test_cfg=dict(mode='whole'))
        model = build_model(config, None).eval()
        torch.manual_seed(0)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        data = model.data_preprocessor(pseudo_collate([build_dataset(config.test_dataloader.dataset)[0]]), False)
        with torch.inference_mode():
            expected = model.predict(**data)[0].pred_sem_seg.data
            steps = network_of(model)
            scores = steps.scores(data['inputs'])
            probabilities = steps.enlarge(scores, data['inputs']).sigmoid()
            assert torch.equal(steps.labels(scores, data['inputs']), expected.long())
            assert torch.equal(Whole(model, 'labels')(data['inputs']), expected.long())
        assert torch.equal(expected.long(), (probabilities[:, 0] > (threshold or 0.3)).long())
        assert not torch.equal(probabilities[:, 0] > 0.3, probabilities[:, 0] > 0.7)

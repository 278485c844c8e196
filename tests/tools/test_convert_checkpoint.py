import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmseg_tr.checkpoints import config_text, convert, load_into, load_official
from mmseg_tr.cli.options import run_tool
from tests.parity.harness import golden_root
from tests.releases import model_state, net_kwargs, variant, write_release

pytest.importorskip('mmseg')

TOOL = Path(__file__).parents[2] / 'tools' / 'convert_checkpoint.py'
ALGM = {'patch_type': 'algm', 'selected_layers': (1, 2), 'merging_window_size': (2, 2), 'threshold': 0.2}
KINDS = [(decoder, distilled) for decoder in ('linear', 'mask_transformer') for distilled in (False, True)]
RELEASES = [
    release
    for pattern in ('segmenter/e2e/*/checkpoint.pth', 'algm/ckpt_*/checkpoint.pth')
    for release in sorted(golden_root().glob(pattern))
]


@pytest.fixture(scope='module')
def tool():
    spec = importlib.util.spec_from_file_location('convert_checkpoint', TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(tool, arguments):
    return run_tool(tool.main, arguments)


def read_config(path):
    from mmengine.config import Config

    import mmseg_tr.registry  # noqa: F401 (makes the OpenMMLab packages import together)

    return Config.fromfile(path)


def built(config_path, checkpoint):
    """The registered model that a config describes, with the checkpoint loaded strictly."""
    from mmengine.registry import MODELS, init_default_scope

    config = read_config(config_path)
    init_default_scope(config.default_scope)
    model = MODELS.build(config.model)
    load_into(model, checkpoint)
    return model.eval()


def same_logits(tool, source, folder, reduction=None):
    """Convert, build from the config, and compare with the plain network at a size that is not the network's own."""
    assert run(tool, [str(source), str(folder / 'model.pth')]) == 0
    model = built(folder / 'model.py', folder / 'model.pth')
    plain = load_official(source, reduction)
    height, width = plain.encoder.patch_size
    image = torch.randn(1, 3, 5 * height, 6 * width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = plain.scores(image)
        scores = model.decode_head(model.backbone(image))
    torch.testing.assert_close(scores, expected, rtol=0, atol=0)


def refused(tool, capsys, arguments, *words):
    """One sentence on standard error, status 2."""
    assert run(tool, [str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ''
    assert err.count('\n') == 1
    for word in words:
        assert word in err


@pytest.fixture
def nothing_written(tmp_path):
    """A destination in a folder that has to be empty in the end."""
    folder = tmp_path / 'out'
    folder.mkdir()
    yield folder / 'model.pth'
    assert os.listdir(folder) == []


@pytest.mark.parametrize(('decoder', 'distilled'), KINDS)
def test_converted_model_equals_the_plain_network(tool, tmp_path, decoder, distilled):
    source = write_release(tmp_path / 'src', variant(net_kwargs(decoder, distilled)))
    same_logits(tool, source, tmp_path)


def test_converted_algm_release_merges_as_it_was_trained(tool, tmp_path):
    source = write_release(tmp_path / 'src', variant(**ALGM))
    same_logits(tool, source, tmp_path, {'type': 'ALGM', 'layers': (1, 2), 'window': (2, 2), 'threshold': 0.2})
    reduction = read_config(tmp_path / 'model.py').model.backbone.reduction
    assert reduction == {'type': 'ALGM', 'layers': (1, 2), 'window': (2, 2), 'threshold': 0.2}


@pytest.mark.parametrize('source', RELEASES, ids=[release.parent.name for release in RELEASES])
def test_published_layout_converts(tool, tmp_path, source):
    reduction = None
    if (golden_root() / 'algm') in source.parents:
        assert run(tool, [str(source.parent), str(tmp_path / 'first.pth')]) == 0
        reduction = read_config(tmp_path / 'first.py').model.backbone.reduction.to_dict()
    same_logits(tool, source, tmp_path, reduction)


def test_checkpoint_is_readable_without_trust(tool, tmp_path):
    source = write_release(tmp_path / 'src')
    run(tool, [str(source), str(tmp_path / 'model.pth')])
    content = torch.load(tmp_path / 'model.pth', weights_only=True)
    assert set(content) == {'meta', 'state_dict'}
    assert content['meta']['cfg'] == (tmp_path / 'model.py').read_text()
    assert content['meta']['source']['epoch'] == 63
    assert {key.split('.')[0] for key in content['state_dict']} == {'backbone', 'decode_head'}


def test_config_says_what_the_release_says(tool, tmp_path):
    source = write_release(tmp_path / 'src', variant(net_kwargs(distilled=True)))
    run(tool, [str(source), str(tmp_path / 'model.pth')])
    config = read_config(tmp_path / 'model.py')
    backbone, test = config.model.backbone, config.model.test_cfg
    assert backbone.arch == {'embed_dim': 64, 'depth': 2, 'num_heads': 2, 'patch_size': 8, 'distilled': True}
    assert backbone.img_size == (32, 48)
    assert config.model.data_preprocessor.mean == [123.68, 116.28, 103.53]
    assert (test.mode, test.crop_size, test.stride, test.small_images) == ('slide', (32, 32), (24, 24), 'enlarge')
    assert config.model.decode_head.depth == 1


@pytest.mark.parametrize(
    ('dataset', 'window', 'stride'),
    [
        ('ade20k', 512, 480),
        ('ade20k_large', 640, 608),
        ('pascal_context', 480, 448),
        ('cityscapes', 768, 512),
        ('cityscapes', 64, 32),
        ('my_data', 96, 64),
        ('my_data', 32, 24),
    ],
)
def test_windows_are_those_of_the_published_evaluation(tmp_path, dataset, window, stride):
    settings = variant(net_kwargs(), dataset)
    settings['inference_kwargs'] |= dict(window_size=window, window_stride=min(window, 512) if window > 32 else 24)
    settings['dataset_kwargs']['crop_size'] = window
    content = config_text.read_config(convert(write_release(tmp_path, settings)).config)
    test = content['model']['test_cfg']
    assert (test['crop_size'], test['stride'], test['window_batch']) == ((window,) * 2, (stride,) * 2, 4)


@pytest.mark.parametrize(
    ('name', 'kind', 'scale', 'classes'),
    [
        ('ade20k', 'ADE20KDataset', (160, 40), 150),
        ('ade20k_large', 'ADE20KDataset', (160, 40), 150),
        ('pascal_context', 'PascalContextDataset', (320, 40), 60),
        ('cityscapes', 'CityscapesDataset', (80, 40), 19),
    ],
)
def test_known_dataset_comes_with_the_sizes_of_the_release(tool, tmp_path, monkeypatch, name, kind, scale, classes):
    settings = net_kwargs(n_cls=classes, decoder='linear')
    settings['decoder']['n_cls'] = classes
    source = write_release(tmp_path / 'src', variant(settings, dataset=name))
    monkeypatch.setenv('DATASET', '/first')
    run(tool, [str(source), str(tmp_path / 'model.pth')])
    monkeypatch.setenv('DATASET', '/second')  # asked for when the config is loaded, not when it is written
    config = read_config(tmp_path / 'model.py')
    for loader in (config.train_dataloader, config.val_dataloader, config.test_dataloader):
        assert loader.dataset.type == kind
        assert loader.dataset.data_root.startswith('/second/')
    resize = next(step for step in config.test_dataloader.dataset.pipeline if step.type == 'Resize')
    crop = next(step for step in config.train_dataloader.dataset.pipeline if step.type == 'RandomCrop')
    assert (resize.scale, crop.crop_size) == (scale, (32, 32))
    doubled = config.tta_pipeline[1].transforms[0][-1]
    assert doubled.scale == (int(scale[0] * 1.75), int(scale[1] * 1.75))
    meta = torch.load(tmp_path / 'model.pth', weights_only=True)['meta']
    assert len(meta['dataset_meta']['classes']) == len(meta['dataset_meta']['palette']) == classes


@pytest.mark.parametrize('dataset', ['ade20k', 'my_streets'])
def test_mmseg_runs_the_converted_model_on_a_picture(tool, tmp_path, dataset):
    source = write_release(tmp_path / 'src', variant(dataset=dataset))
    run(tool, [str(source), str(tmp_path / 'model.pth')])
    read_config(tmp_path / 'model.py')
    from mmseg.apis import inference_model, init_model

    model = init_model(str(tmp_path / 'model.py'), str(tmp_path / 'model.pth'), device='cpu')
    picture = torch.arange(25 * 40 * 3).reshape(25, 40, 3).to(torch.uint8).numpy()
    assert inference_model(model, picture).pred_sem_seg.data.shape == (1, 25, 40)


def test_unknown_dataset_is_left_out_and_said(tool, tmp_path, capsys):
    source = write_release(tmp_path / 'src', variant(dataset='my_streets'))
    assert run(tool, [str(source), str(tmp_path / 'model.pth')]) == 0
    out = capsys.readouterr().out
    assert 'my_streets' in out
    assert 'get_fps_flops.py' in out
    assert 'test_dataloader' not in read_config(tmp_path / 'model.py')


def test_other_number_of_classes_is_said(tool, tmp_path, capsys):
    source = write_release(tmp_path / 'src')
    run(tool, [str(source), str(tmp_path / 'model.pth')])
    assert 'ade20k has 150' in capsys.readouterr().out


def test_backbone_name_cannot_break_out_of_the_comment(tool, tmp_path):
    source = write_release(tmp_path / 'src', variant(net_kwargs(backbone='x\nraise SystemExit')))
    assert run(tool, [str(source), str(tmp_path / 'model.pth')]) == 0
    read_config(tmp_path / 'model.py')


def test_summary_and_next_command_are_printed_from_any_folder(tmp_path):
    write_release(tmp_path / 'src')
    done = subprocess.run(
        [sys.executable, str(TOOL), 'src', 'out/model.pth'], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for word in ('official Segmenter release', '51 written', 'encoder.head.weight', 'out/model.pth', 'out/model.py'):
        assert word in done.stdout
    assert f'python {TOOL.parent / "test.py"} out/model.py out/model.pth --eval mIoU' in done.stdout


def test_variant_may_lie_elsewhere(tool, tmp_path):
    source = write_release(tmp_path / 'src')
    (tmp_path / 'src' / 'variant.yml').rename(tmp_path / 'other.yml')
    arguments = [str(source), str(tmp_path / 'model.pth'), '--variant', str(tmp_path / 'other.yml')]
    assert run(tool, arguments) == 0


def test_missing_file(tool, capsys, nothing_written, tmp_path):
    refused(tool, capsys, [tmp_path / 'no.pth', nothing_written], 'no.pth')


def test_folder_without_checkpoint(tool, capsys, nothing_written, tmp_path):
    (tmp_path / 'empty').mkdir()
    refused(tool, capsys, [tmp_path / 'empty', nothing_written], 'checkpoint.pth')


def test_unknown_torch_file_is_told_by_its_keys(tool, capsys, nothing_written, tmp_path):
    torch.save({f'layer{i}.weight': torch.zeros(1) for i in range(9)}, tmp_path / 'other.pth')
    refused(
        tool, capsys, [tmp_path / 'other.pth', nothing_written], 'layer0.weight', 'and 6 more', 'official Segmenter'
    )


def test_file_with_a_single_tensor(tool, capsys, nothing_written, tmp_path):
    torch.save(torch.zeros(3), tmp_path / 'tensor.pth')
    refused(tool, capsys, [tmp_path / 'tensor.pth', nothing_written], 'Tensor')


def test_truncated_file(tool, capsys, nothing_written, tmp_path):
    source = write_release(tmp_path / 'src')
    content = source.read_bytes()
    source.write_bytes(content[: len(content) // 2])
    refused(tool, capsys, [source, nothing_written], 'truncated')


def test_text_file(tool, capsys, nothing_written, tmp_path):
    (tmp_path / 'page.pth').write_text('not found')
    refused(tool, capsys, [tmp_path / 'page.pth', nothing_written], 'not a torch file')


def test_missing_keys(tool, capsys, nothing_written, tmp_path):
    state = {key: tensor for key, tensor in model_state().items() if 'blocks.1' not in key}
    source = write_release(tmp_path / 'src', state=state)
    refused(tool, capsys, [source, nothing_written], '12 keys missing', 'encoder.blocks.1.norm1.weight')


def test_unexpected_keys(tool, capsys, nothing_written, tmp_path):
    source = write_release(tmp_path / 'src', state={**model_state(), 'decoder.extra': torch.zeros(1)})
    refused(tool, capsys, [source, nothing_written], '1 unexpected key (decoder.extra)')


def test_wrong_shapes(tool, capsys, nothing_written, tmp_path):
    source = write_release(tmp_path / 'src', variant(net_kwargs(patch_size=16)), model_state())
    refused(tool, capsys, [source, nothing_written], 'patch_embed.proj.weight is 64x3x8x8 instead of 64x3x16x16')


def test_missing_variant(tool, capsys, nothing_written, tmp_path):
    source = write_release(tmp_path / 'src')
    (tmp_path / 'src' / 'variant.yml').unlink()
    refused(tool, capsys, [source, nothing_written], 'variant.yml', '--variant=FILE')


def test_malicious_variant(tool, capsys, nothing_written, tmp_path):
    source = write_release(tmp_path / 'src')
    trace = tmp_path / 'trace'
    (tmp_path / 'src' / 'variant.yml').write_text(f'net_kwargs: !!python/object/apply:os.mkdir [{trace}]')
    refused(tool, capsys, [source, nothing_written], 'refused', 'os.mkdir')
    assert not trace.exists()


def test_variant_without_its_sections(tool, capsys, nothing_written, tmp_path):
    source = write_release(tmp_path / 'src')
    (tmp_path / 'src' / 'variant.yml').write_text('version: normal\n')
    refused(tool, capsys, [source, nothing_written], 'net_kwargs')


def test_reduction_that_does_not_suit_the_network(tool, capsys, nothing_written, tmp_path):
    source = write_release(tmp_path / 'src', variant(**{**ALGM, 'selected_layers': (1, 9)}))
    refused(tool, capsys, [source, nothing_written], '9')


@pytest.mark.parametrize('there', ['model.pth', 'model.py'])
def test_existing_files_are_kept_unless_forced(tool, capsys, tmp_path, there):
    source = write_release(tmp_path / 'src')
    (tmp_path / there).write_text('precious')
    refused(tool, capsys, [source, tmp_path / 'model.pth'], there, '--force')
    assert (tmp_path / there).read_text() == 'precious'
    assert sorted(os.listdir(tmp_path)) == sorted(['src', there])
    assert run(tool, [str(source), str(tmp_path / 'model.pth'), '--force']) == 0
    assert (tmp_path / there).read_bytes() != b'precious'


def test_source_is_never_replaced(tool, capsys, tmp_path):
    source = write_release(tmp_path / 'src')
    before = source.read_bytes()
    refused(tool, capsys, [source, source, '--force'], 'source itself')
    assert source.read_bytes() == before


def test_destination_that_is_a_folder_or_a_config(tool, capsys, tmp_path):
    source = write_release(tmp_path / 'src')
    refused(tool, capsys, [source, tmp_path], 'is a folder')
    refused(tool, capsys, [source, tmp_path / 'model.py'], 'model.pth')


def test_destination_that_cannot_be_written(tool, capsys, tmp_path):
    source = write_release(tmp_path / 'src')
    (tmp_path / 'file').write_text('no folder')
    refused(tool, capsys, [source, tmp_path / 'file' / 'model.pth'], 'cannot be written')


def test_written_for_mmseg(tool, tmp_path, capsys):
    source = write_release(tmp_path / 'src', variant(net_kwargs(image_size=(32, 32))))
    assert run(tool, [str(source), str(tmp_path / 'model.pth'), '--to', 'mmseg']) == 0
    assert 'written for mmsegmentation 1.x' in capsys.readouterr().out
    assert read_config(tmp_path / 'model.py').model.type == 'EncoderDecoder'
    assert run(tool, [str(tmp_path / 'model.pth'), str(tmp_path / 'back.pth')]) == 0
    assert 'Recognised  mmsegmentation 1.x Segmenter' in capsys.readouterr().out
    ours, theirs = built(tmp_path / 'back.py', tmp_path / 'back.pth'), load_official(source)
    same = {key.replace('backbone.', 'encoder.'): tensor for key, tensor in ours.state_dict().items()}
    same = {key.replace('decode_head.decoder.', 'decoder.'): tensor for key, tensor in same.items()}
    assert all(torch.equal(tensor, theirs.state_dict()[key]) for key, tensor in same.items())


def test_distilled_release_for_mmseg(tool, capsys, nothing_written, tmp_path):
    source = write_release(tmp_path / 'src', variant(net_kwargs(distilled=True)))
    refused(tool, capsys, [source, nothing_written, '--to', 'mmseg'], 'distillation token')


def test_names_that_no_file_can_have_are_one_sentence(tool, capsys, nothing_written, tmp_path):
    source = write_release(tmp_path / 'src')
    refused(tool, capsys, [tmp_path / ('x' * 300), nothing_written], 'x' * 300)
    refused(tool, capsys, [source, tmp_path / f'{"x" * 300}.pth'], 'x' * 300)


@pytest.mark.parametrize('palette', ['red', [1, 2], [['a', 'b', 'c']], [[1, 2]], [[float('nan')] * 3], [[999] * 3], 5])
@pytest.mark.parametrize('classes', [5, 'red', None])
def test_malformed_classes_and_colours_are_left_out(tmp_path, palette, classes):
    meta = {'dataset_meta': {'classes': classes, 'palette': palette}}
    torch.save({'state_dict': {'weight': torch.ones(2)}, 'meta': meta}, tmp_path / 'x.pth')
    assert 'dataset_meta' not in convert(tmp_path / 'x.pth').meta


class TestMmengineFiles:
    @pytest.fixture
    def source(self, tmp_path):
        """What mmengine saves in the middle of a training, with its curves as objects."""
        from mmengine.logging import HistoryBuffer

        import mmseg_tr.registry  # noqa: F401

        path = tmp_path / 'iter_10.pth'
        meta = {'iter': 10, 'cfg': "model = dict(type='X')\n", 'dataset_meta': {'classes': ('a', 'b'), 'palette': None}}
        content = {'meta': meta, 'state_dict': {'backbone.weight': torch.ones(2)}, 'optimizer': {'state': {}}}
        torch.save({**content, 'message_hub': {'log_scalars': {'loss': HistoryBuffer([1.0], [1])}}}, path)
        return path

    def test_other_objects_are_named_and_need_trust(self, tool, capsys, nothing_written, source):
        content = torch.load(source, weights_only=False)
        content['message_hub']['path'] = Path('x')
        torch.save(content, source)
        refused(tool, capsys, [source, nothing_written], 'mmengine.logging.history_buffer.HistoryBuffer', '--trust')

    @pytest.mark.parametrize('trust', [[], ['--trust']])
    def test_file_with_curves_becomes_plain(self, tool, capsys, tmp_path, source, trust):
        assert run(tool, [str(source), str(tmp_path / 'model.pth'), *trust]) == 0
        content = torch.load(tmp_path / 'model.pth', weights_only=True)
        assert content['state_dict']['backbone.weight'].tolist() == [1, 1]
        assert content['meta']['iter'] == 10
        assert content['meta']['dataset_meta'] == {'classes': ['a', 'b']}
        assert (tmp_path / 'model.py').read_text() == "model = dict(type='X')\n"
        assert 'optimizer, message_hub' in capsys.readouterr().out

    def test_file_without_config_says_so(self, tool, capsys, tmp_path):
        torch.save({'state_dict': {'weight': torch.ones(2)}}, tmp_path / 'bare.pth')
        assert run(tool, [str(tmp_path / 'bare.pth'), str(tmp_path / 'model.pth')]) == 0
        assert 'no config' in capsys.readouterr().out
        assert not (tmp_path / 'model.py').exists()

    def test_variant_makes_no_sense_for_it(self, tool, capsys, nothing_written, tmp_path):
        torch.save({'state_dict': {'weight': torch.ones(2)}}, tmp_path / 'bare.pth')
        refused(tool, capsys, [tmp_path / 'bare.pth', nothing_written, '--variant', 'x.yml'], '--variant')

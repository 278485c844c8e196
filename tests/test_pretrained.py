"""Models as folders and on the hub: the same logits, bit for bit, and one sentence for what cannot be."""

import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch

import mmseg_tr
from mmseg_tr import create_model, from_pretrained
from mmseg_tr.checkpoints import convert_file
from mmseg_tr.checkpoints.folder import save_pretrained
from mmseg_tr.errors import CheckpointError, ConfigError
from mmseg_tr.weights.io import read_file
from tests.reduction.methods import METHODS
from tests.tiny import CLASSES, CONFIG

VIT = dict(embed_dim=32, depth=4, num_heads=2, patch_size=4)
MIT = dict(embed_dims=8, num_layers=[1, 1, 1, 1], num_heads=[1, 1, 1, 1])
SETTINGS = [*(method.settings for method in METHODS), dict(type='CTS', share=0.3), None]
STAGES = [
    dict(q_mode='n2d', q_s=(2, 2)),
    None,
    dict(kv_mode='bsm', kv_r=0.5, kv_sx=2, kv_sy=2),
    dict(q_mode='n1d', q_s=2),
]
MIT_SETTINGS = ['bsm_hq', 'n2d_2x2', 'downsample', STAGES, None]


def logits(model, side=32):
    with torch.no_grad():
        return model(torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0)))


@pytest.mark.filterwarnings('ignore::UserWarning')
@pytest.mark.parametrize('settings', SETTINGS, ids=lambda s: 'plain' if s is None else s['type'])
def test_a_vit_of_every_method_is_the_same_after_saving(settings, tmp_path):
    model = create_model('segmenter', settings, num_classes=3, arch=VIT, img_size=32, decoder_depth=1).eval()
    model.save_pretrained(tmp_path / 'model')
    loaded = from_pretrained(tmp_path / 'model')
    assert torch.equal(logits(loaded), logits(model))
    assert not loaded.training and loaded.recipe == model.recipe
    assert loaded.saved_settings() == model.saved_settings()


@pytest.mark.filterwarnings('ignore::UserWarning')
@pytest.mark.parametrize('settings', MIT_SETTINGS, ids=str)
def test_a_mit_of_every_setting_is_the_same_after_saving(settings, tmp_path):
    model = create_model('segformer', settings, num_classes=3, arch=MIT, channels=16, head='linear').eval()
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(from_pretrained(tmp_path), 64), logits(model, 64))


def test_a_seed_may_be_any_number(tmp_path):
    settings = dict(type='ACT', seed=2**40)
    create_model('segmenter', settings, num_classes=3, arch=VIT, img_size=32).save_pretrained(tmp_path)
    assert from_pretrained(tmp_path).encoder.reduction.seed == 2**40


def test_half_precision_and_another_method_are_kept(tmp_path):
    model = create_model('segmenter', num_classes=3, arch=VIT, img_size=(32, 16)).eval().bfloat16()
    model.encoder.reduction = model.encoder.fitted('tome')
    model.save_pretrained(tmp_path)
    loaded = from_pretrained(tmp_path)
    assert {weight.dtype for weight in loaded.parameters()} == {torch.bfloat16}
    assert loaded.encoder.grid == (8, 4) and loaded.encoder.reduction == model.encoder.reduction
    assert torch.equal(loaded.transform(torch.ones(3, 2, 2)), model.transform(torch.ones(3, 2, 2)))


def as_hub(folder: Path, name: str, cache: Path) -> None:
    """A folder as huggingface_hub keeps a fetched model."""
    home = cache / f'models--{name.replace("/", "--")}'
    shutil.copytree(folder, home / 'snapshots' / 'abc')
    (home / 'refs').mkdir(parents=True)
    (home / 'refs' / 'main').write_text('abc')


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A stand-in of the hub: what is pushed is in its cache; there is no network."""
    cache = tmp_path / 'cache'

    class Api:
        def __init__(self, token=None):
            pass

        def create_repo(self, name, private, exist_ok):
            return f'https://huggingface.co/{name}'

        def upload_folder(self, repo_id, folder_path, commit_message):
            as_hub(Path(folder_path), repo_id, cache)

    monkeypatch.setattr(huggingface_hub, 'HfApi', Api)
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_CACHE', str(cache))
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', True)
    monkeypatch.setenv('HF_HUB_CACHE', str(cache))
    return cache


def test_a_pushed_model_is_fetched_by_its_name(hub, tmp_path):
    model = create_model('segmenter', 'algm', num_classes=3, arch=VIT, img_size=32).eval()
    rows = [dict(name='plain', miou=66.6, pck=None, agreement=100.0, gmacs=0.43, fps=99.0)]
    compared = tmp_path / 'compare.json'
    compared.write_text(json.dumps(dict(about=dict(quality='mIoU', dataset='Mosaic', images_tested=8), rows=rows)))
    address = model.push_to_hub('me/tiny', row='algm_vit-s16_ade20k-512x512', comparison=compared)
    assert address == 'https://huggingface.co/me/tiny'
    assert torch.equal(logits(from_pretrained('me/tiny')), logits(model))
    card = next(hub.rglob('README.md')).read_text()
    assert card.startswith('---\nlibrary_name: mmseg_tr') and 'me/tiny' in card
    assert '| algm_vit-s16_ade20k-512x512 | ADE20K | 46.4 | 26.3 |' in card  # the metafile's
    assert '| plain | 66.60 | 100.00 | 0.43 | 99.00 |' in card  # the comparison's


def test_what_cannot_be_loaded_is_one_sentence(hub, tmp_path):
    model = create_model('segmenter', num_classes=3, arch=VIT, img_size=32)
    folder = model.save_pretrained(tmp_path / 'model')
    with pytest.raises(ConfigError, match='force'):
        model.save_pretrained(folder)
    model.save_pretrained(folder, force=True)
    with pytest.raises(CheckpointError, match="'me/none'"):
        from_pretrained('me/none')
    with pytest.raises(CheckpointError, match='nowhere'):
        from_pretrained(tmp_path / 'nowhere')
    settings = json.loads((folder / 'mmseg_tr.json').read_text())
    for key, value in (('options', dict(pretrained='/etc/passwd')), ('format', 9), ('kind', 'x'), ('num_classes', 4),
                       ('reduction', dict(type='CTS', policy_checkpoint='http://x/y.pth'))):  # fmt: skip
        (folder / 'mmseg_tr.json').write_text(json.dumps(settings | {key: value}))
        with pytest.raises(CheckpointError):
            from_pretrained(folder)
    (folder / 'mmseg_tr.json').write_text('{')
    with pytest.raises(CheckpointError, match=r'mmseg_tr\.json'):
        from_pretrained(folder)
    hand = mmseg_tr.nn.Segmenter(model.encoder, model.decoder)
    with pytest.raises(ConfigError, match='create_model'):
        hand.save_pretrained(tmp_path / 'other')


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A config and a checkpoint as training writes them."""
    folder = tmp_path_factory.mktemp('trained')
    from mmseg_tr.apis.build import build_model
    from mmseg_tr.apis.config import load_config

    config = folder / 'config.py'
    config.write_text(CONFIG.format(classes=CLASSES, root=str(folder), more='').replace(
        "out='tokens')", "out='tokens', reduction=dict(type='ToMe', r=4))"))  # fmt: skip
    loaded = load_config(config)
    model = build_model(loaded, None).eval()
    meta = dict(epoch=1, cfg=loaded.pretty_text, dataset_meta=dict(classes=list(CLASSES)))
    torch.save(dict(meta=meta, state_dict=model.state_dict()), folder / 'trained.pth')
    return config, folder / 'trained.pth', model


def test_mmengine_checkpoints_go_to_safetensors_and_back(trained, tmp_path):
    _, checkpoint, _ = trained
    written = convert_file(checkpoint, tmp_path / 'model.safetensors')
    convert_file(written.checkpoint, tmp_path / 'back.pth')
    before, inside, after = map(read_file, (checkpoint, written.checkpoint, tmp_path / 'back.pth'))
    assert before['state_dict'].keys() == after['state_dict'].keys()
    assert all(torch.equal(before['state_dict'][key], after['state_dict'][key]) for key in after['state_dict'])
    assert inside['meta']['dataset_meta'] == after['meta']['dataset_meta'] == dict(classes=list(CLASSES))


def test_a_checkpoint_with_its_config_is_a_folder(trained, tmp_path):
    _, checkpoint, model = trained
    folder = save_pretrained(checkpoint, tmp_path / 'model')
    assert json.loads((folder / 'mmseg_tr.json').read_text())['reduction'] == dict(type='ToMe', r=4)
    predictor = mmseg_tr.Predictor.from_pretrained(folder, device='cpu')
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        ours, theirs = predictor.model.encode_decode(image, [{}]), model.encode_decode(image, [{}])
    assert torch.equal(ours, theirs)
    with pytest.raises(CheckpointError, match='Predictor'):
        from_pretrained(folder)
    with pytest.raises(ConfigError) as raised:
        mmseg_tr.Predictor.from_pretrained('me/model')
    assert raised.value.parameters == ('trust',)


def test_code_in_the_config_of_a_checkpoint_is_not_run_and_not_written(trained, tmp_path):
    _, checkpoint, _ = trained
    content, mark = read_file(checkpoint), tmp_path / 'mark'
    leave = f"_x = __import__('pathlib').Path({str(mark)!r}).touch()\n"
    called = f'model = dict(type="os.system", command="touch {mark}")'
    for text in (leave + content['meta']['cfg'], leave, leave + called):
        torch.save(content | dict(meta=dict(cfg=text)), tmp_path / 'evil.pth')
        try:
            folder = save_pretrained(tmp_path / 'evil.pth', tmp_path / 'model')
        except CheckpointError as error:
            assert '\n' not in str(error)
        else:
            assert '__import__' not in (folder / 'config.py').read_text()
        assert not mark.exists()
    assert (tmp_path / 'model' / 'config.py').exists()  # of the first, whose other values are plain

"""Networks by name, how pictures enter them, and the summary on a bundled photograph."""

import json

import pytest
import torch

import mmseg_tr
from mmseg_tr.analysis import photographs
from mmseg_tr.compat import ensure_torchvision
from mmseg_tr.errors import CheckpointError, ConfigError, MissingExtraError
from mmseg_tr.hosts.named import open_model
from mmseg_tr.hosts.pictures import transform_of

ensure_torchvision()

import timm  # noqa: E402

TINY = 'timm:test_vit'  # 3 layers of 64 channels, 160 x 160


@pytest.fixture
def saved(tmp_path):
    """A folder with a tiny random DINOv2 and its image processor."""
    transformers = pytest.importorskip('transformers')
    sizes = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=64, patch_size=8)
    transformers.Dinov2Model(transformers.Dinov2Config(**sizes)).save_pretrained(tmp_path)
    settings = dict(image_mean=[0.1, 0.2, 0.3], image_std=[0.5, 0.6, 0.7], do_normalize=True, rescale_factor=1 / 255)
    (tmp_path / 'preprocessor_config.json').write_text(json.dumps(settings))
    return tmp_path


def test_a_model_of_timm_is_normalised_by_its_own_settings():
    found = open_model(TINY, 'none')
    assert found.size == (160, 160) and found.model.pretrained_cfg['mean'] == (0.5, 0.5, 0.5)
    assert found.transform.mean.flatten().tolist() == [0.5, 0.5, 0.5]


def test_a_saved_model_of_transformers_has_its_weights_and_its_image_processor(saved):
    found = open_model(f'transformers:{saved}')
    assert type(found.model).__name__ == 'Dinov2Model' and found.size == (64, 64)
    torch.testing.assert_close(found.transform.mean.flatten(), torch.tensor([0.1, 0.2, 0.3]))
    again = open_model(f'transformers:{saved}').model.state_dict()
    assert all(torch.equal(value, again[key]) for key, value in found.model.state_dict().items())
    other = open_model(f'transformers:{saved}', 'none').model.state_dict()
    assert not all(torch.equal(value, again[key]) for key, value in other.items())
    (saved / 'preprocessor_config.json').unlink()
    with pytest.raises(ConfigError, match='preprocessor_config.json'):
        open_model(f'transformers:{saved}')


@pytest.mark.parametrize(
    ('name', 'weights', 'said'),
    [
        ('resnet', None, 'timm:NAME or transformers:FOLDER_OR_NAME'),
        ('timm:test_vi', None, 'did you mean timm:test_vit'),
        ('timm:vit_nothing', None, 'not a model of timm'),
        (TINY, 'weights.pth', "'none' for random"),
    ],
)
def test_names_that_do_not_exist_are_refused(name, weights, said):
    with pytest.raises(ConfigError, match=said):
        open_model(name, weights)


def test_names_that_are_not_here_are_one_sentence(monkeypatch, tmp_path):
    pytest.importorskip('transformers')
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    for name in ('timm:test_vit.r160_in1k', 'transformers:nobody/nothing'):
        with pytest.raises(CheckpointError, match=f'{name} cannot be loaded') as caught:
            open_model(name)
        assert '\n' not in str(caught.value)
    with pytest.raises(ConfigError, match=r'config\.json'):
        open_model(f'transformers:{tmp_path}')


def test_a_normalisation_is_never_guessed():
    with pytest.raises(ConfigError, match='normalisation of this VisionTransformer is not known'):
        transform_of(timm.models.VisionTransformer(img_size=32, depth=1, embed_dim=32, num_heads=2))


def test_a_summary_without_an_image_takes_a_photograph(monkeypatch):
    model = mmseg_tr.apply(open_model(TINY, 'none').model, 'ToMe', r=8)
    found = mmseg_tr.summary(model, repeats=1, instead=0)
    assert found.plain_tokens == 101 and found.tokens == (93, 85, 77, 69, 61, 53)

    def absent(*_):
        raise MissingExtraError('scikit-image is not installed', name='skimage')

    monkeypatch.setattr('mmseg_tr.hosts.pictures.photograph_batch', absent)
    with pytest.raises(MissingExtraError, match='or give an image'):
        mmseg_tr.summary(model)
    assert photographs.NAMES  # the plain layer holds the collection


def test_a_method_that_does_not_pay_is_told_with_what_was_tried():
    model = mmseg_tr.apply(open_model(TINY, 'none').model, 'ToMe', r=1)
    found = mmseg_tr.summary(model, torch.randn(1, 3, 160, 160), repeats=2, instead=0.5)
    if found.time < 1:  # times are the machine's
        assert found.advice.startswith('leave it plain: 0.') and 'budget=0.5' in found.instead
    else:
        assert not found.instead

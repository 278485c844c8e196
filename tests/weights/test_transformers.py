"""Files of the installed transformers: folders of save_pretrained() load, bare state dicts name the way out."""

from __future__ import annotations

import pytest
import torch

from mmseg_tr import create_model
from mmseg_tr.errors import CheckpointError
from mmseg_tr.nn import ViT

transformers = pytest.importorskip('transformers', reason='transformers is not installed')

SETTINGS = dict(num_labels=3, num_attention_heads=[1, 2, 2, 3], depths=[1, 1, 1, 1], decoder_hidden_size=16)
ARCH = dict(arch=dict(embed_dims=8, num_layers=(1, 1, 1, 1), num_heads=(1, 2, 2, 3)), channels=16)


@torch.no_grad()
def test_a_folder_and_its_file_load_and_a_bare_state_dict_names_save_pretrained(tmp_path):
    torch.manual_seed(0)
    config = transformers.SegformerConfig(hidden_sizes=[8, 16, 16, 24], **SETTINGS)
    model = transformers.SegformerForSemanticSegmentation(config).eval()
    model.save_pretrained(tmp_path)
    image = torch.rand(1, 3, 64, 64)
    want = model(image).logits
    for source in (tmp_path, str(tmp_path / 'model.safetensors')):
        ours = create_model('segformer', num_classes=3, pretrained=source, resolution='quarter', **ARCH).eval()
        torch.testing.assert_close(ours(image), want, rtol=1e-4, atol=1e-5)
    torch.save(model.state_dict(), tmp_path / 'bare.pth')
    with pytest.raises(CheckpointError, match='save_pretrained'):
        create_model('segformer', num_classes=3, pretrained=tmp_path / 'bare.pth', **ARCH)


@pytest.mark.parametrize('name', ['ViT', 'Dinov2'])
def test_other_transformers_of_that_library_name_apply(tmp_path, name):
    config = getattr(transformers, f'{name}Config')(hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    getattr(transformers, f'{name}Model')(config).save_pretrained(tmp_path)
    arch = dict(embed_dim=16, depth=1, num_heads=2, patch_size=16)
    with pytest.raises(CheckpointError, match=r'mmseg_tr.apply\(\)'):
        ViT(arch, img_size=224, pretrained=tmp_path).init_weights()

"""The table of what fits where, written by this test: `python -m tests.hosts.test_support` writes it anew."""

from __future__ import annotations

import re
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import mmseg_tr
from mmseg_tr.errors import ConfigError
from mmseg_tr.hosts.sam import VisionTransformerSAM
from mmseg_tr.hosts.timm import Eva, VisionTransformer
from mmseg_tr.reduction import REDUCTIONS

pytest.importorskip('transformers')

from tests.hosts import test_dense_heads, test_sam, test_segformer, test_transformers

PAGE = Path(__file__).resolve().parents[2] / 'docs' / 'hosts.md'
BEGIN, END = '<!-- support: written by tests/hosts/test_support.py -->', '<!-- end of support -->'
SMALL = dict(img_size=64, patch_size=8, embed_dim=32, depth=4, num_heads=2, num_classes=0)
DECIDED, WITH_DECISIONS = dict(policy='random'), 'with decisions'  # of a method that decides before the blocks
SAM = dict(window_size=4, global_attn_indexes=(1, 3))


def networks() -> dict[str, nn.Module]:
    """A tiny network of every family, by its line in the table."""
    dims = dict(embed_dim=32, depth=4, num_heads=2, patch_size=8)
    dense = {name: test_dense_heads.network(name) for name in test_dense_heads.KINDS}
    other = {name: test_transformers.network(name) for name in ('ViT', 'DINOv2', 'registers', 'DINOv3')}
    return {
        'timm `VisionTransformer`: AugReg, DeiT, DINOv2 (registers), CLIP': VisionTransformer(**SMALL),
        'timm `VisionTransformer` without class token: SigLIP': VisionTransformer(
            **SMALL, class_token=False, global_pool='avg'
        ),
        'timm `Eva`: DINOv3, EVA-02, PE': Eva(**SMALL, use_rot_pos_emb=True, use_abs_pos_emb=False),
        'timm `VisionTransformerSAM`': VisionTransformerSAM(**SMALL, **SAM, use_rel_pos=True, neck_chans=8),
        'transformers `ViTModel`': other['ViT'],
        'transformers `Dinov2Model`; under Depth Anything and DPT': other['DINOv2'],
        'transformers `Dinov2WithRegistersModel`': other['registers'],
        'transformers `DINOv3ViTModel`': other['DINOv3'],
        'transformers DPT on its own ViT': dense['DPT'],
        'transformers EoMT': dense['EoMT'],
        'transformers EoMT on DINOv3': dense['EoMT on DINOv3'],
        'transformers ViTPose': dense['ViTPose'],
        'transformers `SamVisionModel`, `SamModel`': test_sam.network('transformers'),
        'transformers `SegformerModel`': test_segformer.network(),
        '`create_model`: Segmenter': mmseg_tr.create_model('segmenter', num_classes=2, arch=dims, img_size=64),
        '`create_model`: SegFormer': mmseg_tr.create_model('segformer_b0', num_classes=2),
    }


def reason(model: nn.Module, key: str) -> str:
    """The message with which a method is refused; empty where it fits."""
    # the form of the method that fits, where its settings decide
    settings = [{}, *([dict(form=form) for form in getattr(REDUCTIONS[key], 'FORMS', ())])]
    said = ''
    for chosen in (*settings, DECIDED):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')
                mmseg_tr.apply(model, key, **chosen)
        except ConfigError as error:
            said = said or str(error)
            continue
        mmseg_tr.remove(model)
        return WITH_DECISIONS if chosen is DECIDED else ''
    return said


def table() -> str:
    """The table, and the reasons below it."""
    torch.manual_seed(0)
    keys = sorted(REDUCTIONS, key=lambda key: REDUCTIONS[key].name)
    reasons: dict[str, int] = {}
    lines = [f'| Host | {" | ".join(REDUCTIONS[key].name for key in keys)} |', '|---' * (len(keys) + 1) + '|']
    for name, model in networks().items():
        cells = []
        for key in keys:
            said = reason(model, key).replace(REDUCTIONS[key].name, 'The method', 1).partition(':')[0].rstrip('.')
            if said == WITH_DECISIONS:
                cells.append(said)
            else:
                cells.append(f'no ({reasons.setdefault(said, len(reasons) + 1)})' if said else 'yes')
        lines.append(f'| {name} | {" | ".join(cells)} |')
    notes = [f'{number}. {said}.' for said, number in reasons.items()]
    return '\n'.join([*lines, '', 'Why not:', '', *notes])


def test_the_page_says_what_fits():
    found = re.search(f'{BEGIN}\n(.*?)\n{END}', PAGE.read_text(), re.DOTALL)
    assert found and found[1] == table(), 'write it anew: python -m tests.hosts.test_support'


if __name__ == '__main__':
    page = PAGE.read_text()
    written = re.sub(f'{BEGIN}\n.*?{END}', lambda _: f'{BEGIN}\n{table()}\n{END}', page, flags=re.DOTALL)
    sys.exit(0 if PAGE.write_text(written) else 1)

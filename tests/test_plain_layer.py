"""The plain layer runs where only torch and timm are installed, and nothing in it imports upward."""

import ast
import sys

import pytest

from tests.clean import OPENMMLAB, ROOT, run_clean

ROOMS = ('analysis', 'nn', 'reduction', 'weights')
FILES = sorted(file for room in ROOMS for file in (ROOT / 'mmseg_tr' / room).rglob('*.py'))
OURS = tuple(f'mmseg_tr.{name}' for name in (*ROOMS, 'compat', 'cpu', 'errors', 'files', 'version'))

FORWARD = """
import importlib, pkgutil
import torch
import mmseg_tr
for room in ('mmseg_tr.nn', 'mmseg_tr.reduction', 'mmseg_tr.weights'):
    package = importlib.import_module(room)
    for module in pkgutil.walk_packages(package.__path__, room + '.'):
        importlib.import_module(module.name)
from mmseg_tr.nn import MaskTransformer, Segmenter, ViT
arch = dict(embed_dim=32, depth=3, num_heads=2, patch_size=8)
torch.manual_seed(0)
encoder = ViT(arch, img_size=64, out='tokens', reduction=dict(type='ALGM', layers=(1, 2), threshold=-1.0))
model = Segmenter(encoder, MaskTransformer(5, 32, num_heads=2)).eval()
image = torch.rand(2, 3, 64, 64)
with torch.no_grad():
    print(tuple(model(image).shape), encoder.forward_tokens(image).x.shape[1] < 65)
loaded = {name.split('.')[0] for name in sys.modules}
print(sorted(loaded & {'mmengine', 'mmcv', 'mmseg', 'mmpose', 'mmdet'}))
"""


def test_it_runs_a_reduced_segmenter_without_openmmlab():
    shape, loaded = run_clean(FORWARD, blocked=OPENMMLAB).splitlines()
    assert shape == '(2, 5, 64, 64) True'
    assert loaded == '[]'


def test_importing_the_package_loads_neither_torch_nor_timm():
    assert run_clean("import mmseg_tr; print({'torch', 'timm'} & set(sys.modules))") == 'set()'


def test_the_openmmlab_layer_names_the_missing_extra():
    code = """
try:
    import mmseg_tr.registry
except ImportError as error:
    print(error)
"""
    assert "pip install 'mmseg_tr[seg]'" in run_clean(code, blocked=OPENMMLAB)


@pytest.mark.parametrize('file', FILES, ids=lambda file: f'{file.parent.name}/{file.name}')
def test_no_file_imports_upward(file):
    # numpy, safetensors and yaml come with timm, which requires them itself or through torchvision
    allowed = {'torch', 'timm', 'numpy', 'safetensors', 'yaml', *sys.stdlib_module_names}
    for module in imported(ast.parse(file.read_text())):
        if module == 'mmseg_tr' or module.startswith('mmseg_tr.'):
            assert module.startswith(OURS), f'{file} imports {module}'
        else:
            assert module.split('.')[0] in allowed, f'{file} imports {module}'


def imported(tree: ast.AST) -> list[str]:
    """Every module a file names in an import, wherever the import stands."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, 'imports are absolute'
            names += [
                f'{node.module}.{alias.name}' if node.module == 'mmseg_tr' else node.module for alias in node.names
            ]
    return names

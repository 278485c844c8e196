"""The package's layers, drawn from what its files import: arrows point down, and there is no circle."""

import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter

from tests.clean import OPENMMLAB, run_clean
from tests.fresh import run_fresh
from tests.sources import PACKAGE, Import, imports, modules

# From the bottom up. A room is a folder or a file of mmseg_tr; it imports its own row and the rows below.
PLAIN = (
    ('version', 'errors', 'paths', 'files', 'compat', 'console', 'cpu', 'signals', 'values', 'options'),
    ('weights',),
    ('reduction',),
    ('nn',),
    ('hosts', 'analysis', 'zoo'),
    ('__init__',),
)
OPENMMLAB_LAYER = (
    ('loader',),
    ('registry',),
    ('models', 'datasets', 'evaluation', 'engine', 'visualization', 'checkpoints'),
    ('apis',),
    ('cli',),
)
RANK = {room: rank for rank, row in enumerate(PLAIN + OPENMMLAB_LAYER) for room in row}
FIRST_OPENMMLAB = len(PLAIN)
# torch and timm, with what timm itself requires; everything else is an extra of the distribution
REQUIRED = {'torch', 'timm', 'numpy', 'safetensors', 'yaml', *sys.stdlib_module_names}


def room_of(module: str) -> str:
    """The room of a module of the package: 'nn' of mmseg_tr.nn.vit, '__init__' of the package itself."""
    return (module.split('.') + ['__init__'])[1]


def package_imports() -> Iterator[tuple[str, Import]]:
    """(module, what it imports) over the whole package."""
    for module, file in modules().items():
        for found in imports(file):
            yield module, found


def ours(found: Import) -> bool:
    return found.name.split('.')[0] == PACKAGE


def is_lazy(module: str, found: Import) -> bool:
    """Whether the package itself loads it when somebody first asks, so that importing the package loads nothing."""
    return module == PACKAGE and found.inside != ''


def upward() -> list[str]:
    return [
        str(found)
        for module, found in package_imports()
        if ours(found) and RANK[room_of(found.name)] > RANK[room_of(module)]
    ]


def hidden() -> list[str]:
    """Imports inside functions of what is always there: own modules and required packages."""
    return [
        str(found)
        for module, found in package_imports()
        if found.inside and (ours(found) or found.name.split('.')[0] in REQUIRED) and not is_lazy(module, found)
    ]


def beyond_plain() -> list[str]:
    """What the plain layer imports beyond torch and timm: optional packages inside functions only, OpenMMLab never."""
    wrong = []
    for module, found in package_imports():
        top = found.name.split('.')[0]
        plain = RANK[room_of(module)] < FIRST_OPENMMLAB
        if plain and not ours(found) and top not in REQUIRED and (top in OPENMMLAB or not found.inside):
            wrong.append(str(found))
    return wrong


def circles() -> list[str]:
    """The first circle among modules, and the first among rooms."""
    between_modules, between_rooms = {}, {}
    for module, found in package_imports():
        if ours(found) and not is_lazy(module, found):
            between_modules.setdefault(module, set()).add(found.name)
            if room_of(module) != room_of(found.name):
                between_rooms.setdefault(room_of(module), set()).add(room_of(found.name))
    wrong = []
    for graph in (between_modules, between_rooms):
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            wrong.append(' <- '.join(error.args[1]))
    return wrong


def test_every_room_has_its_row():
    rooms = {room_of(module) for module in modules()}
    assert rooms <= set(RANK), 'a new folder or file of mmseg_tr goes into PLAIN or OPENMMLAB_LAYER above'


def test_nothing_imports_upward():
    assert upward() == []


def test_no_module_and_no_room_stands_in_a_circle():
    assert circles() == []


def test_nothing_imports_the_commands():
    assert [str(f) for m, f in package_imports() if ours(f) and room_of(f.name) == 'cli' != room_of(m)] == []


def test_functions_import_optional_packages_only():
    assert hidden() == []


def test_the_plain_layer_needs_torch_and_timm_only():
    assert beyond_plain() == []


FORWARD = """
import importlib, pkgutil, sys
import torch
import mmseg_tr
for room in {rooms!r}:
    module = importlib.import_module('mmseg_tr.' + room)
    for found in pkgutil.walk_packages(getattr(module, '__path__', ()), module.__name__ + '.'):
        importlib.import_module(found.name)
from mmseg_tr.nn import MaskTransformer, Segmenter, ViT
arch = dict(embed_dim=32, depth=3, num_heads=2, patch_size=8)
torch.manual_seed(0)
encoder = ViT(arch, img_size=64, out='tokens', reduction=dict(type='ALGM', layers=(1, 2), threshold=-1.0))
model = Segmenter(encoder, MaskTransformer(5, 32, num_heads=2)).eval()
image = torch.rand(2, 3, 64, 64)
with torch.no_grad():
    print(tuple(model(image).shape), encoder.forward_tokens(image).x.shape[1] < 65)
loaded = {{name.split('.')[0] for name in sys.modules}}
print(sorted(loaded & {{'mmengine', 'mmcv', 'mmseg', 'mmpose', 'mmdet'}}))
"""


def test_the_plain_layer_runs_a_reduced_segmenter_without_openmmlab():
    rooms = [room for row in PLAIN for room in row if f'{PACKAGE}.{room}' in modules()]
    shape, loaded = run_fresh(FORWARD.format(rooms=rooms), blocked=OPENMMLAB).splitlines()
    assert shape == '(2, 5, 64, 64) True'
    assert loaded == '[]'


def test_importing_the_package_loads_neither_torch_nor_timm():
    assert run_clean("import mmseg_tr, sys; print({'torch', 'timm'} & set(sys.modules))") == 'set()'


def test_the_openmmlab_layer_names_the_missing_extra():
    code = """
try:
    import mmseg_tr.registry
except ImportError as error:
    print(error)
"""
    assert "pip install 'mmseg_tr[seg]'" in run_fresh(code, blocked=OPENMMLAB)

"""Configs of mmseg and of mmpose find this package's classes by `mmseg_tr.Name`, and by name alone in its own scope."""

import importlib

import pytest

pytest.importorskip('mmengine', reason='needs the extra [seg]')

from mmengine.config import Config
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import DefaultScope, Registry, root

from mmseg_tr import registry
from mmseg_tr.errors import installed
from mmseg_tr.registry import MODELS, SCOPE
from tests.clean import run_clean

OURS = {name: value for name, value in vars(registry).items() if isinstance(value, Registry)}
LOCATIONS = sorted({place for child in OURS.values() for place in child._locations})
TINY = dict(arch=dict(embed_dim=16, depth=1, num_heads=2, patch_size=8), img_size=32)


@pytest.mark.parametrize('name', OURS)
def test_each_registry_is_a_child_of_mmengines(name):
    assert OURS[name].parent is getattr(root, name)
    assert OURS[name].scope == SCOPE
    assert OURS[name].name == OURS[name].parent.name


@pytest.mark.parametrize('location', LOCATIONS)
def test_each_location_can_be_imported(location):
    importlib.import_module(location)


# One interpreter loads what others wrote, which takes seconds; each of its forks starts with another of our modules,
# and it builds from a config at last, which imports the registry.
FIRST_IMPORTS = """
import os, sys
from mmseg_tr.compat import ensure_openmmlab
ensure_openmmlab()
import mmengine.runner, mmseg.models, mmseg.apis, timm
if {pose!r}:
    import mmpose.models, mmpose.datasets, mmpose.evaluation
for location in {locations!r}:
    child = os.fork()
    if not child:
        for name in [name for name in sys.modules if name.split('.')[0] == 'mmseg_tr']:
            del sys.modules[name]
        __import__(location)
        os._exit(0)
    print(location, os.waitpid(child, 0)[1], flush=True)
for name in [name for name in sys.modules if name.split('.')[0] == 'mmseg_tr']:
    del sys.modules[name]
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
config = Config.fromfile({config!r})
init_default_scope(config.default_scope)
print('built', type(MODELS.build(config.model)).__name__)
"""


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    file = tmp_path_factory.mktemp('registry') / 'config.py'
    imports = "custom_imports = dict(imports=['mmseg_tr.registry'], allow_failed_imports=False)"
    file.write_text(f"{imports}\ndefault_scope = 'mmseg'\nmodel = dict(type='mmseg_tr.ViT', **{TINY!r})\n")
    return str(file)


@pytest.fixture(scope='module')
def first_imports(config):
    """What the interpreter prints: how each fork ended, and the class of the network that a config builds."""
    lines = run_clean(FIRST_IMPORTS.format(locations=LOCATIONS, pose=installed('mmpose'), config=config)).splitlines()
    return dict(line.split() for line in lines if line.startswith(('mmseg_tr', 'built')))


def test_each_location_can_be_the_first_import_of_a_program(first_imports):
    assert {name: ended for name, ended in first_imports.items() if name != 'built'} == dict.fromkeys(LOCATIONS, '0')


def test_a_config_that_imports_the_registry_builds_in_a_new_process(first_imports, config):
    assert first_imports['built'] == 'ViT'
    assert Config.fromfile(config).default_scope == 'mmseg'


@pytest.mark.parametrize('framework', ['mmengine', 'mmseg', 'mmpose'])
def test_a_network_is_found_from_every_scope(framework):
    if not installed(framework):
        pytest.skip(f'{framework} is not installed')
    theirs = importlib.import_module(f'{framework}.registry').MODELS
    vit = theirs.build(dict(type='mmseg_tr.ViT', **TINY))
    assert type(vit).__module__ == 'mmseg_tr.nn.vit'


def test_the_default_scope_of_a_config_decides_what_a_bare_name_means():
    with DefaultScope.overwrite_default_scope(SCOPE):
        assert MODELS.get('ViT').__module__ == 'mmseg_tr.nn.vit'
        assert ROOT_MODELS.get('mmseg_tr.ViT') is MODELS.get('ViT')


def test_an_unknown_name_is_refused_by_its_scope():
    with pytest.raises(KeyError, match='NoSuchNetwork'):
        ROOT_MODELS.build(dict(type='mmseg_tr.NoSuchNetwork'))

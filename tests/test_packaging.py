"""The package that pip builds holds what it should and asks for what it should."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from importlib.metadata import version

import pytest

from mmseg_tr import __version__
from tests.clean import ROOT


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp('wheel')
    build = ['wheel', '--quiet', '--no-deps', '--no-build-isolation', '--no-index', '--wheel-dir', str(folder)]
    done = subprocess.run([sys.executable, '-m', 'pip', *build, str(source(folder))], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (file,) = folder.glob('*.whl')
    return zipfile.ZipFile(file)


def source(folder):
    """A copy of what the wheel is built from, so that building leaves nothing in the checkout."""
    copy = folder / 'source'
    ignored = shutil.ignore_patterns('__pycache__')
    for name in ('mmseg_tr', 'local_configs', 'tools', 'benchmarks'):
        shutil.copytree(ROOT / name, copy / name, ignore=ignored)
    for name in ('pyproject.toml', 'setup.py', 'MANIFEST.in', 'LICENSE', 'README.md', 'model-index.yml'):
        shutil.copy(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope='module')
def unpacked(wheel, tmp_path_factory):
    """The wheel as pip lays it out, away from the checkout."""
    folder = tmp_path_factory.mktemp('installed')
    wheel.extractall(folder)
    return folder


def run_installed(unpacked, *arguments, cwd):
    """`mmseg-tr ARGUMENTS` of the unpacked wheel, whose own packages come first."""
    code = (
        f'import sys; sys.path.insert(0, {str(unpacked)!r}); import mmseg_tr; from mmseg_tr.cli.command import main; '
        f'assert mmseg_tr.__file__.startswith({str(unpacked)!r}); sys.exit(main({[str(a) for a in arguments]!r}))'
    )
    environment = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
    return subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=cwd, env=environment)


def test_the_package_is_found_beside_a_checkout_of_its_name(tmp_path):
    """A script in the folder that the repository was cloned into: Python looks there first."""
    (tmp_path / 'mmseg_tr').mkdir()
    (tmp_path / 'mine.py').write_text('from mmseg_tr import __version__\nprint(__version__)\n')
    environment = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
    done = subprocess.run([sys.executable, 'mine.py'], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.stdout.strip() == __version__, done.stderr


@pytest.fixture(scope='module')
def metadata(wheel):
    (name,) = [name for name in wheel.namelist() if name.endswith('.dist-info/METADATA')]
    return Parser().parsestr(wheel.read(name).decode())


def test_the_wheel_holds_every_module_and_nothing_else_at_the_top(wheel):
    ours = {str(file.relative_to(ROOT)) for file in (ROOT / 'mmseg_tr').rglob('*.py')}
    assert ours <= set(wheel.namelist())
    assert {name.split('/')[0] for name in wheel.namelist()} == {'mmseg_tr', f'mmseg_tr-{__version__}.dist-info'}


def test_the_wheel_carries_configs_and_tools_where_mim_looks(wheel):
    carried = [*(ROOT / 'tools').glob('*.*'), *(ROOT / 'local_configs').rglob('*.*'), ROOT / 'model-index.yml']
    carried = {
        f'mmseg_tr/.mim/{file.relative_to(ROOT)}' for file in carried if file.is_file() and file.suffix != '.pyc'
    }
    assert carried <= set(wheel.namelist())
    (record,) = [name for name in wheel.namelist() if name.endswith('.dist-info/RECORD')]
    assert carried <= {line.split(',')[0] for line in wheel.read(record).decode().splitlines()}


def test_the_installed_command_trains_outside_the_checkout(unpacked, tmp_path):
    name = 'segmenter_vit-tiny-p8_photo-mosaic-128x128'
    small = ('train_cfg.max_iters=1', 'train_cfg.val_interval=1', 'val_dataloader.dataset.length=1')
    small = (*small, 'train_dataloader.batch_size=2')
    done = run_installed(unpacked, 'train', name, '--work-dir', 'here', '--cfg-options', *small, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'here' / 'iter_1.pth').is_file()


def test_the_installed_command_lists_its_tools_and_configs(unpacked, tmp_path):
    usage = run_installed(unpacked, cwd=tmp_path)
    names = {file.stem.replace('_', '-') for file in (ROOT / 'tools').glob('[!_]*.*')}
    assert names <= {line.split()[0] for line in usage.stdout.splitlines() if line.startswith('  ')}
    listed = run_installed(unpacked, 'configs', 'algm_vit-s16', cwd=tmp_path)
    assert 'algm/algm_vit-s16_ade20k-512x512.py' in listed.stdout.split()


def test_the_benchmark_suites_are_in_the_sdist_alone_and_the_installed_command_says_so(unpacked, tmp_path):
    assert 'graft benchmarks' in (ROOT / 'MANIFEST.in').read_text().splitlines()
    assert not list(unpacked.rglob('benchmarks'))
    done = run_installed(unpacked, 'benchmark', '--list', cwd=tmp_path)
    assert done.returncode == 2 and not done.stdout
    (sentence,) = done.stderr.splitlines()
    assert 'checkout' in sentence and 'python -m benchmarks' in sentence


def test_an_unknown_command_is_answered_in_one_sentence(unpacked, tmp_path):
    done = run_installed(unpacked, 'trian', cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.strip() == "mmseg-tr: there is no command 'trian': did you mean train?"


def test_the_version_has_one_place(metadata):
    assert metadata['Version'] == __version__


def test_the_licence_travels_with_it(wheel, metadata):
    assert metadata['License-Expression'] == 'Apache-2.0'
    assert any(name.endswith('LICENSE') for name in wheel.namelist())


def test_the_base_package_needs_torch_and_timm_only(metadata):
    base = [needed for needed in metadata.get_all('Requires-Dist') if 'extra ==' not in needed]
    assert {name_of(needed) for needed in base} == {'torch', 'timm'}


def test_the_extras_are_the_documented_ones(metadata):
    assert {'seg', 'seg-full', 'pose', 'dev'} <= set(metadata.get_all('Provides-Extra'))


def test_one_environment_never_gets_both_builds_of_mmcv(metadata):
    needed = metadata.get_all('Requires-Dist')
    assert [extra_of(line) for line in needed if name_of(line) == 'mmcv'] == ['seg-full']
    assert [extra_of(line) for line in needed if name_of(line) == 'mmcv-lite'] == ['seg']


def test_every_requirement_is_pinned_by_the_constraints(metadata):
    lines = (ROOT / 'requirements' / 'constraints.txt').read_text().splitlines()
    pinned = {name_of(line) for line in lines if not line.startswith('#')}
    own = [line for line in metadata.get_all('Requires-Dist') if 'onedl' not in line]  # in an environment of its own
    needed = {name_of(line) for line in own}
    assert needed - pinned <= {'mmseg-tr', 'mmcv'}


def test_an_installed_torch_is_kept_with_what_it_requires():
    file = ROOT / 'requirements' / 'constraints.txt'
    script = file.with_name('installed_torch.py')
    done = subprocess.run([sys.executable, str(script), str(file)], capture_output=True, text=True, check=True)
    kept = {name_of(line): line for line in done.stdout.splitlines() if not line.startswith('#')}
    assert kept['torch'] == f'torch=={version("torch")}'
    assert 'sympy' not in kept  # torch may ask for one version and no other
    assert 'sympy==' in file.read_text()
    assert 'timm' in kept


def name_of(requirement: str) -> str:
    return re.sub('[-_.]+', '-', re.match(r'[\w.-]+', requirement)[0].lower())


def extra_of(requirement: str) -> str:
    return re.search(r'extra == [\'"]([\w-]+)', requirement)[1]

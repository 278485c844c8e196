"""Every tool on good input: nothing on the terminal that only the packages below it have to say about themselves."""

import re
import warnings

from tests.clean import ROOT
from tests.tiny import write_config, write_dataset
from tests.tools.command import call

FAST = ('--images', 2, '--repeats', 1, '--batch-size', 2)
CKPT = 'wd/iter_4.pth'
# a tool's name -> its arguments, in an order in which each finds what it needs
COMMANDS = {
    'train': ('tiny.py', '--work-dir', 'wd'),
    'test': ('tiny.py', CKPT, '--work-dir', 'wt'),
    'check_dataset': ('tiny.py',),
    'get_fps_flops': (
        'tiny.py',
        '--num-images',
        2,
        '--batch-size',
        1,
        '--repeats',
        1,
        '--seconds',
        1,
        '--no-published',
    ),
    'compare': ('tiny.py', '--reduction', 'tome', '--checkpoint', CKPT, '--out', 'compared', *FAST),
    'infer': ('tiny.py', CKPT, 'data/images/00.png', '--out', 'inferred'),
    'report': ('tiny.py', '--checkpoint', CKPT, '--reduction', 'tome', '--scenes', 1, '--out', 'report.html'),
    'show_attention': ('tiny.py', CKPT, 'data/images/00.png', 'attention'),
    'show_merging': ('tiny.py', CKPT, 'data/images/00.png', 'merging', '--reduction', 'tome'),
    'tune': ('tiny.py', CKPT, '--budget-miou', 90, '--reduction', 'tome', '--frac-dataset', 1, *FAST),
    'export': ('tiny.py', CKPT, 'tiny.pt2', '--shape', '32x32', '--batch-size', 1),
    'convert_checkpoint': (CKPT, 'converted.pth'),
    'plot_logs': ('wd', '--out', 'curves.png'),
    'new_config': ('--images', 'data/images', '--labels', 'data/labels', '--classes', *'abc', '--ignore', 255),
    'prepare_dataset': ('coco', 'data', '--check'),
    'methods': (),
    'benchmark': ('--list',),
}
# a folder of releases, a server, a browser and a whole demo: their own tests look at what they print
ELSEWHERE = {'app', 'convert_jbd', 'demo', 'reproduce'}
NOISE = re.compile(r'mmengine - |Warning|Loads checkpoint|loading annotations')


def test_every_tool_is_looked_at():
    tools = {file.stem for file in (ROOT / 'tools').glob('*.py')}
    assert tools == COMMANDS.keys() | ELSEWHERE


def test_every_tool_that_runs_the_packages_below_can_show_what_they_print(capsys):
    plain = {'benchmark', 'convert_checkpoint', 'convert_jbd', 'methods', 'plot_logs'}
    for name in (COMMANDS.keys() | ELSEWHERE) - plain:
        assert call(name, '--help') == 0
        assert '--verbose' in capsys.readouterr().out, name


def test_tools_print_no_talk_of_other_packages(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('MMSEG_TR_VERBOSE', '')
    write_config(tmp_path, write_dataset(tmp_path / 'data'))
    noisy = {}
    for name, arguments in COMMANDS.items():
        with warnings.catch_warnings(record=True) as raised:
            warnings.simplefilter('default')
            for hidden in (DeprecationWarning, PendingDeprecationWarning, ImportWarning):  # by Python itself
                warnings.simplefilter('ignore', hidden)
            status = call(name, *arguments)
        said = ''.join(capfd.readouterr())
        found = [f'{one.category.__name__}: {one.message} ({one.filename}:{one.lineno})' for one in raised]
        found += [line for line in said.splitlines() if NOISE.search(line)]
        if found or status != (name == 'prepare_dataset'):  # which has nothing to find here
            noisy[name] = (status, found, said)
    assert not noisy, noisy

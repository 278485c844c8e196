"""Every example of the documentation runs, every command and link in it exists, the site builds without a warning."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks.ideal import sliced_network
from mmseg_tr import create_model
from mmseg_tr.analysis.photographs import photograph_batch
from mmseg_tr.apis.build import build_model
from mmseg_tr.apis.config import load_config
from mmseg_tr.apis.tune.spaces import space
from mmseg_tr.cli.command import tools
from mmseg_tr.paths import find_config
from mmseg_tr.reduction import REDUCTIONS
from tests.tools.command import call

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(page for page in (ROOT / 'docs').rglob('*.md') if '_build' not in page.parts)
FOLDERS = ('local_configs/', *(f'{folder.name}/' for folder in (ROOT / 'local_configs').iterdir()))
COMMAND = re.compile(r'\s*(mmseg-tr|python tools/)')
BLOCK = re.compile(r'^```(python|bash run|bash)\n(.*?)^```', re.DOTALL | re.MULTILINE)
# what makes a command that runs for minutes end in seconds: the same code, fewer updates and pictures
QUICK = {
    'train': [
        *('--cfg-options', 'train_cfg.max_iters=1', 'train_cfg.val_interval=1', 'train_dataloader.batch_size=2'),
        'val_dataloader.dataset.indices=1',
    ],
    'test': ['--frac-dataset', '0.02'],
    'compare': ['--images', '2', '--repeats', '1', '--batch-size', '2'],
    'get-fps-flops': ['--num-images', '2', '--batch-size', '1', '--repeats', '1', '--seconds', '1'],
}
# pretrained weights would be fetched
RANDOM = {'cracks.py': ['model.backbone.pretrained=None'], 'cracks_policy.py': ['model.pretrained=None']}


def blocks(page: Path) -> list[tuple[str, str]]:
    return BLOCK.findall(page.read_text())


def commands(text: str) -> list[list[str]]:
    """The commands of a block, each as the words behind `mmseg-tr`; lines may go on behind a backslash."""
    found = []
    for line in text.replace('\\\n', ' ').splitlines():
        words = shlex.split(line, comments=True) if COMMAND.match(line) else []
        if words[:1] == ['python']:
            words[:2] = ['mmseg-tr', Path(words[1]).stem.replace('_', '-')]
        if len(words) > 1:
            found.append(words[1:])
    return found


def indented(page: Path) -> str:
    """Lines of a page that stand as code by their indent."""
    return '\n'.join(re.findall(r'^    (\S.*)$', BLOCK.sub('', page.read_text()), re.MULTILINE))


def names(pages: list[Path]) -> list[str]:
    return [str(page.relative_to(ROOT / 'docs')) for page in pages]


def named_commands(page: Path) -> list[list[str]]:
    texts = [text for kind, text in blocks(page) if kind != 'python']
    return [command for text in (*texts, indented(page)) for command in commands(text)]


RUNNING = [page for page in PAGES if any(kind != 'bash' for kind, _ in blocks(page))]
NAMING = [page for page in PAGES if named_commands(page)]


def forget_methods_afterwards(monkeypatch) -> None:
    """What a page registers is known to this test alone."""
    known = dict(REDUCTIONS)
    for name in [*known, 'Pool']:
        monkeypatch.setitem(REDUCTIONS, name, None)  # noted even where it is new, so that it goes
    REDUCTIONS.clear()
    REDUCTIONS.update(known)


@pytest.mark.parametrize('page', RUNNING, ids=names(RUNNING))
def test_examples_of_the_page_run_in_its_order(page, tmp_path, monkeypatch):
    """Python of one page shares its names; commands run in one empty folder."""
    monkeypatch.chdir(tmp_path)
    forget_methods_afterwards(monkeypatch)
    space: dict = {}
    for kind, text in blocks(page):
        text = text.replace('iter_2400', 'iter_1')
        if kind == 'python':
            exec(compile(text, page.name, 'exec'), space)
        elif kind == 'bash run':
            for name, *arguments in commands(text):
                random = RANDOM.get(arguments[0], []) if name == 'train' else []
                quick = [*QUICK.get(name, []), *random]
                assert call(name.replace('-', '_'), *arguments, *quick) == 0, f'mmseg-tr {name}'


@pytest.fixture(scope='module')
def small_model(tmp_path_factory):
    """A config of a small plain Segmenter, a file of random weights for it, and a picture."""
    folder = tmp_path_factory.mktemp('small')
    config = find_config(Path('segmenter/segmenter_vit-tiny-p8_photo-mosaic-128x128.py'))
    torch.save(dict(meta={}, state_dict=build_model(load_config(config), None).state_dict()), folder / 'plain.pth')
    Image.fromarray(photograph_batch(1, (128, 128))[0].transpose(1, 2, 0)).save(folder / 'picture.png')
    return str(config), str(folder / 'plain.pth'), str(folder / 'picture.png')


POOL = ('--reduction', 'type=Pool,layer=2')
IN_TOOLS = {
    'show_merging': lambda config, weights, picture: (config, weights, picture, 'shown', *POOL),
    'show_attention': lambda config, weights, picture: (
        *(config, weights, picture, 'attention', '--layer-id', 3),
        *('--cfg-options', "model.backbone.reduction=dict(type='Pool', layer=2)"),
    ),
    'export': lambda config, weights, picture: (config, weights, 'pool.pt2', '--batch-size', 1, *POOL),
    'get_fps_flops': lambda config, weights, picture: (
        *(config, '--checkpoint', weights, *QUICK['get-fps-flops'], '--cfg-options'),
        "model.backbone.reduction=dict(type='pool', layer=2)",
    ),
    'tune': lambda config, weights, picture: (
        *(config, weights, '--speed-up', 1.05, '--by', 'work', '--frac-dataset', 0.5, '--images', 2),
        *('--batch-size', 1, '--repeats', 1, '--reduction', 'type=Pool'),
        *('--cfg-options', 'test_dataloader.dataset.indices=4'),
    ),
    'compare': lambda config, weights, picture: (
        *(config, 'pooled.py', '--checkpoint', weights, '--frac-dataset', 0.02, '--images', 2),
        *('--batch-size', 1, '--repeats', 1),
    ),
}


@pytest.fixture
def pool(monkeypatch, tmp_path):
    """The class of the worked example, registered as the page does it."""
    monkeypatch.chdir(tmp_path)
    forget_methods_afterwards(monkeypatch)
    space: dict = {}
    for kind, text in blocks(ROOT / 'docs' / 'add_a_method.md'):
        if kind == 'python':
            exec(compile(text, 'add_a_method.md', 'exec'), space)
    return space['Pool']


@pytest.mark.parametrize('tool', IN_TOOLS)
def test_the_method_of_the_worked_example_works_by_name_in_every_tool(tool, pool, small_model):
    config = small_model[0]
    Path('pooled.py').write_text(f"_base_ = {config!r}\nmodel = dict(backbone=dict(reduction=dict(type='Pool')))\n")
    assert call(tool, *IN_TOOLS[tool](*small_model)) == 0


def test_the_method_of_the_worked_example_works_by_name_in_python(pool):
    arch = dict(embed_dim=32, depth=4, num_heads=2, patch_size=8)
    model = create_model('segmenter', 'pool', arch=arch, img_size=64, num_classes=3).eval()
    assert model.encoder.reduction == pool(layer=2)
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert sliced_network(model, image)(image).shape == model(image).shape
    assert [ladder.rungs[0]['layer'] for ladder in space(dict(type='pool'), 4, (8, 8))] == [4]


@pytest.mark.parametrize('page', NAMING, ids=names(NAMING))
def test_commands_of_the_page_are_ones_that_exist(page):
    """Commands that need a data set or weights are not run: their arguments are read, and their configs are there."""
    for name, *arguments in named_commands(page):
        if name == 'configs':
            continue
        file = tools()[name]
        if file.suffix == '.py':
            parse_args(file)(arguments)
        for word in arguments:
            if word.startswith(FOLDERS):
                find_config(Path(word))


def parse_args(file: Path):
    """What reads the command line of a tool."""
    spec = importlib.util.spec_from_file_location(f'documented_{file.stem}', file)
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module.parse_args


INLINE = [page for page in [*PAGES, ROOT / 'README.md'] if '`mmseg-tr ' in page.read_text()]


@pytest.mark.parametrize('page', INLINE, ids=[page.name for page in INLINE])
def test_commands_inside_sentences_name_tools_and_options_that_exist(page):
    for text in re.findall(r'`mmseg-tr ([^`]+)`', page.read_text()):
        name, *words = text.split()
        if name.isupper() or name in ('configs', 'COMMAND'):
            continue
        assert name in tools(), text
        known = (ROOT / 'mmseg_tr' / 'cli' / 'options.py').read_text() + tools()[name].read_text()
        unknown = [word for word in words if word.startswith('--') and f"'{word.partition('=')[0]}'" not in known]
        assert not unknown, text


@pytest.mark.parametrize('page', PAGES, ids=names(PAGES))
def test_links_of_the_page_lead_somewhere(page):
    text = re.sub(r'```.*?```', '', page.read_text(), flags=re.DOTALL)
    for target in re.findall(r'\]\((?!https?:|#|mailto:)([^)#\s]+)', text):
        here = page.parent / target
        assert here.exists() or here.with_name(f'{here.name}.md').exists(), target


@pytest.mark.filterwarnings('ignore:.*Check CHANGES for Sphinx API')
def test_the_site_builds_without_a_warning(tmp_path, capfd):
    sphinx = pytest.importorskip('sphinx.cmd.build')
    build = ['-q', '-W', '--keep-going', '-b', 'html', '-d', str(tmp_path / 'trees')]
    status = sphinx.build_main([*build, str(ROOT / 'docs'), str(tmp_path / 'site')])
    assert status == 0, capfd.readouterr().err
    assert 'forward_tokens' in (tmp_path / 'site' / 'api.html').read_text()

"""Each repair is made where its cause is present, and only there."""

import json
import pickle
import sys

import pytest

from mmseg_tr import compat
from mmseg_tr.compat import ensure_mmcv, ensure_torchvision, ensure_xtcocotools
from mmseg_tr.errors import MissingExtraError, installed, require_extra
from tests.fresh import run_fresh


@pytest.fixture
def packages(tmp_path):
    """Makes stand-in packages: packages({'name/file.py': text})."""

    def make(files: dict[str, str]):
        for name, text in files.items():
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return tmp_path

    return make


# A torchvision whose compiled library did not load stops at the same line.
BROKEN_TORCHVISION = """
import torch
torch.library.register_fake('torchvision::nms')(lambda dets, scores, iou_threshold: dets)
"""


def test_torchvision_without_its_operators_imports(packages):
    folder = packages({'torchvision/__init__.py': BROKEN_TORCHVISION})
    code = 'from mmseg_tr.compat import ensure_torchvision as mend; print(mend(), mend()); import torchvision'
    assert run_fresh(code, packages=folder) == 'True False'


def test_a_working_torchvision_is_left_alone(packages):
    folder = packages({'torchvision/__init__.py': ''})
    code = """
import torch
from mmseg_tr.compat import ensure_torchvision
print(ensure_torchvision(), hasattr(torch.ops.torchvision, 'nms'))
"""
    assert run_fresh(code, packages=folder) == 'False False'


def test_another_failure_of_torchvision_is_not_hidden(packages):
    folder = packages({'torchvision/__init__.py': "raise RuntimeError('out of cheese')"})
    code = """
from mmseg_tr.compat import ensure_torchvision
try:
    ensure_torchvision()
except RuntimeError as error:
    print(error)
"""
    assert run_fresh(code, packages=folder) == 'out of cheese'


def test_nothing_is_mended_twice():
    pytest.importorskip('mmseg_tr.registry')
    assert [ensure_torchvision(), ensure_mmcv(), ensure_xtcocotools()] == [False] * 3


def test_mmcv_with_its_operators_is_left_alone(packages):
    folder = packages({'mmcv/__init__.py': '', 'mmcv/_ext.py': "built = 'yes'"})
    code = 'from mmseg_tr.compat import ensure_mmcv; print(ensure_mmcv()); import mmcv._ext; print(mmcv._ext.built)'
    assert run_fresh(code, packages=folder).split() == ['False', 'yes']


def test_an_operator_of_mmcv_lite_says_what_to_install(packages):
    folder = packages({'mmcv/__init__.py': ''})
    code = """
from mmseg_tr import compat
from mmseg_tr.compat import ensure_mmcv
print(ensure_mmcv())
import mmcv._ext
print(hasattr(mmcv._ext, 'nms'), hasattr(mmcv._ext, '__wrapped__'), mmcv._ext.get_compiler_version())
try:
    mmcv._ext.nms(1, 2)
except ImportError as error:
    print(error)
"""
    mended, present, sentence = run_fresh(code, packages=folder).splitlines()
    assert mended == 'True'
    assert present == 'True False not available (mmcv-lite)'
    assert "'nms' needs full mmcv" in sentence
    assert 'mmseg_tr[seg-full]' in sentence


@pytest.mark.skipif(not installed('mmseg'), reason='needs the extra [seg]')
def test_openmmlab_imports_after_this_package_alone():
    """After mmseg_tr.registry it does in every test."""
    code = 'import mmseg_tr; from mmseg.apis import init_model; from mmseg_tr import Predictor; print(1)'
    if installed('mmpose'):
        code += '\nimport mmpose.models, mmpose.evaluation, mmpose.datasets; print(2)'
    assert run_fresh(code).split()[-1] == ('2' if installed('mmpose') else '1')


@pytest.mark.skipif(not installed('mmengine'), reason='needs the extra [seg]')
@pytest.mark.parametrize('left', [None, b'', b'\x80\x05\x95'], ids=['nothing', 'an empty file', 'half a file'])
def test_mmengine_imports_whatever_another_process_left_of_yapfs_grammar(left, tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    grammar = compat._yapf_cache() / f'Grammar-py{".".join(map(str, sys.version_info))}.pickle'
    assert grammar.is_relative_to(tmp_path)
    if left is not None:
        grammar.parent.mkdir(parents=True)
        grammar.write_bytes(left)
    run_fresh('import mmseg_tr, mmengine')
    assert pickle.loads(grammar.read_bytes())


@pytest.mark.skipif(not installed('yapf'), reason='needs the extra [seg]')
def test_one_process_at_a_time_makes_yapfs_grammar(tmp_path, monkeypatch):
    """A cache folder that cannot be written to holds nothing up."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    cache = compat._yapf_cache()
    code = f"""
import importlib, filelock
from mmseg_tr import compat
real = importlib.import_module
def load(name):
    if name != 'yapf':
        return real(name)
    taken = filelock.FileLock({str(cache / 'mmseg_tr.lock')!r})
    try:
        with taken.acquire(timeout=0):
            print('free')
    except filelock.Timeout:
        print('taken')
importlib.import_module = load
compat._yapf_cache = lambda: __import__('pathlib').Path({str(cache)!r})
print(compat.ensure_yapf())
"""
    assert run_fresh(code).split() == ['taken', 'True']
    (tmp_path / 'file').touch()
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
    run_fresh('import mmseg_tr, mmengine')


def test_an_xtcocotools_that_imports_is_left_alone(packages):
    folder = packages({'xtcocotools/__init__.py': '', 'xtcocotools/cocoeval.py': "COCOeval = 'theirs'"})
    code = """
from mmseg_tr.compat import ensure_xtcocotools
print(ensure_xtcocotools())
from xtcocotools.cocoeval import COCOeval
print(COCOeval)
"""
    assert run_fresh(code, packages=folder).split() == ['False', 'theirs']


@pytest.mark.skipif(not installed('pycocotools'), reason='needs the extra [pose]')
def test_an_xtcocotools_of_another_numpy_is_replaced(packages):
    broken = "raise ValueError('numpy.dtype size changed, may indicate binary incompatibility')"
    folder = packages({'xtcocotools/__init__.py': '', 'xtcocotools/cocoeval.py': broken})
    code = """
from mmseg_tr.compat import ensure_xtcocotools
print(ensure_xtcocotools(), ensure_xtcocotools())
import xtcocotools.mask
from xtcocotools.coco import COCO
print(COCO.__module__, xtcocotools.mask.encode.__name__)
"""
    assert run_fresh(code, packages=folder).split() == ['True', 'False', 'mmseg_tr.compat', 'encode']


@pytest.fixture
def coco_tools():
    pytest.importorskip('pycocotools')
    ensure_xtcocotools()
    coco, cocoeval = pytest.importorskip('xtcocotools.coco'), pytest.importorskip('xtcocotools.cocoeval')
    if coco.COCO.__module__ != 'mmseg_tr.compat':
        pytest.skip('xtcocotools itself is installed and works')
    return coco.COCO, cocoeval.COCOeval


def people(**annotation) -> dict:
    points = [10, 10, 2, 30, 30, 2]
    label = dict(id=1, image_id=1, category_id=1, keypoints=points, num_keypoints=2, bbox=[5, 5, 40, 40], **annotation)
    category = dict(id=1, name='person', keypoints=['head', 'foot'])
    return dict(images=[dict(id=1, width=64, height=64)], annotations=[label], categories=[category])


def average_precision(coco_tools, shift: float, **kwargs) -> float:
    """AP of one figure whose keypoints are `shift` pixels beside the labelled ones."""
    coco, evaluator = coco_tools
    truth = coco(ann_data=people(area=400))
    points = [10 + shift, 10, 2, 30 + shift, 30, 2]
    found = truth.loadRes([dict(image_id=1, category_id=1, keypoints=points, score=0.9)])
    run = evaluator(truth, found, 'keypoints', sigmas=[0.05, 0.05], **kwargs)
    run.evaluate()
    run.accumulate()
    run.summarize()
    return float(run.stats[0])


def test_annotations_without_iscrowd_are_read(coco_tools, tmp_path):
    coco, _ = coco_tools
    file = tmp_path / 'people.json'
    file.write_text(json.dumps(people()))
    assert coco(str(file)).anns[1]['iscrowd'] == 0
    assert coco(ann_data=people()).anns[1]['iscrowd'] == 0


def test_keypoints_are_scored_with_the_given_sigmas(coco_tools):
    assert average_precision(coco_tools, shift=0) == pytest.approx(1)
    # Similarity exp(-d^2 / (2 area (2 sigma)^2)) of two pixels is 0.607: thresholds 0.5, 0.55 and 0.6 of ten.
    assert average_precision(coco_tools, shift=2) == pytest.approx(0.3)


def test_the_area_can_come_from_the_box(coco_tools):
    # 0.53 * 40 * 40 = 848 instead of 400: similarity 0.79, and six of ten thresholds.
    assert average_precision(coco_tools, shift=2, use_area=False) == pytest.approx(0.6)


def test_what_only_xtcocotools_knows_is_refused(coco_tools):
    coco, evaluator = coco_tools
    with pytest.raises(ValueError, match="'keypoints_crowd' needs xtcocotools"):
        evaluator(None, None, 'keypoints_crowd')
    with pytest.raises(ValueError, match='test_index'):
        coco(test_index=[1])


def test_a_missing_extra_is_named():
    with pytest.raises(MissingExtraError, match=r"to fly.*pip install 'mmseg_tr\[seg\]'"):
        require_extra('seg', 'no_such_module', 'to fly')
    require_extra('seg', 'json', 'to read')


def test_two_openmmlabs_in_one_environment_are_named(monkeypatch):
    installed = {'mmengine', 'onedl-mmcv'}
    monkeypatch.setattr(compat, '_distributed', lambda name: name in installed)
    with pytest.raises(MissingExtraError, match='mmengine and onedl-mmcv') as raised:
        compat.check_one_openmmlab()
    assert raised.value.name == 'onedl-mmcv'
    installed.remove('mmengine')
    compat.check_one_openmmlab()

"""Import-time workarounds for OpenMMLab dependencies. Each applies only if its problem is detected.

Every function returns whether it acted. Nothing here changes a class or function of another library: a missing module
or operator gets a stand-in, and what is present stays unchanged.

- `ensure_yapf`, before `import mmengine`: processes that start together and write the same cached grammar.
- `ensure_torchvision`, before `import timm` or mmengine's Runner: a CUDA build of torchvision with a CPU build of
  torch (mmengine#1655).
- `ensure_mmcv`, before `import mmseg` or `import mmpose`: mmcv-lite, which has no compiled operators (mmengine#1655).
- `ensure_xtcocotools`, before `import mmpose`: no xtcocotools that works with numpy 2 (mmpose#3218).
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.machinery
import importlib.metadata
import pickle
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from mmseg_tr.errors import MissingExtraError, installed

_OPERATORS = (
    'nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor',
    'qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor',
)
UPSTREAM = ('mmengine', 'mmcv', 'mmcv-lite', 'mmsegmentation')
ONEDL = ('onedl-mmengine', 'onedl-mmcv', 'onedl-mmsegmentation')
_libraries: list[torch.library.Library] = []  # an operator exists as long as the library that defined it


def ensure_openmmlab() -> None:
    """Apply every workaround that the installed ones of mmengine, mmcv, mmseg and mmpose need.

    Raises MissingExtraError where OpenMMLab and onedl are both installed, which write the same folders.
    """
    check_one_openmmlab()
    ensure_torchvision()
    ensure_mmcv()
    if installed('mmpose'):
        ensure_xtcocotools()


def check_one_openmmlab() -> None:
    """Raise MissingExtraError unless the distributions of OpenMMLab are all upstream's, or all of onedl."""
    upstream = [name for name in UPSTREAM if _distributed(name)]
    onedl = [name for name in ONEDL if _distributed(name)]
    if upstream and onedl:
        raise MissingExtraError(
            f'{upstream[0]} and {onedl[0]} are both installed and write the same folders: make a new environment with '
            "pip install 'mmseg_tr[seg]' or pip install 'mmseg_tr[onedl]', not both.",
            name=onedl[0],
        )


def _distributed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def ensure_yapf() -> bool:
    """Import yapf, which mmengine's configs need, one process at a time and with a cached grammar that is whole.

    Its first import writes a grammar to the user's cache folder and gives the file its name before its content is
    written out: a process that starts at the same time reads an empty file, and one killed at that moment leaves it
    to every later one. `import mmengine` then fails with EOFError.
    """
    if 'yapf' in sys.modules or not installed('yapf'):
        return False
    filelock = importlib.import_module('filelock')  # comes with torch
    cache = _yapf_cache()
    with contextlib.ExitStack() as stack:
        # Without a folder to write to, yapf caches nothing; a lock that stays taken must not hold the program up.
        with contextlib.suppress(OSError, filelock.Timeout):
            cache.mkdir(parents=True, exist_ok=True)
            stack.enter_context(filelock.FileLock(cache / 'mmseg_tr.lock', timeout=60))
        try:
            importlib.import_module('yapf')
        except (EOFError, pickle.UnpicklingError):
            for half in cache.glob('*.pickle'):
                half.unlink(missing_ok=True)
            _forget('yapf')
            importlib.import_module('yapf')
    return True


def _yapf_cache() -> Path:
    platformdirs = importlib.import_module('platformdirs')  # comes with yapf
    return Path(platformdirs.user_cache_dir('YAPF', 'Google', version=importlib.metadata.version('yapf')))


def ensure_torchvision() -> bool:
    """Make `import torchvision` work where its compiled operators do not load.

    The registry's torchvision is built for CUDA. With a CPU build of torch its library does not load, and
    the import fails with `operator torchvision::nms does not exist`. Declaring the operators lets it pass (image
    transforms and models work); calling one of them still fails in torch, which has no kernel for it.
    """
    if 'torchvision' in sys.modules or not installed('torchvision'):
        return False
    try:
        importlib.import_module('torchvision')
        return False
    except RuntimeError as error:
        if 'torchvision::nms' not in str(error):
            raise
    _forget('torchvision')
    library = torch.library.Library('torchvision', 'FRAGMENT')
    for schema in _OPERATORS:
        library.define(schema)
    _libraries.append(library)
    importlib.import_module('torchvision')
    return True


def ensure_mmcv() -> bool:
    """Make `import mmcv.ops` work with mmcv-lite; its compiled operators raise when one is called.

    mmseg, mmdet and mmpose import `mmcv.ops` for a few optional models; the rest of them never calls an operator.
    """
    if not installed('mmcv') or installed('mmcv._ext'):
        return False
    _provide(
        'mmcv._ext',
        __getattr__=_missing_operator,
        get_compiler_version=_not_built,
        get_compiling_cuda_version=_not_built,
    )
    return True


def _missing_operator(name: str):
    if name.startswith('__'):
        raise AttributeError(name)

    def operator(*args, **kwargs):
        raise MissingExtraError(
            f'the compiled operator {name!r} needs full mmcv, and mmcv-lite is installed: '
            "pip uninstall mmcv-lite, then pip install 'mmseg_tr[seg-full]'",
            name='mmcv._ext',
        )

    operator.__name__ = name
    return operator


def _not_built() -> str:  # mmcv.utils.collect_env asks which compilers built the operators
    return 'not available (mmcv-lite)'


def ensure_xtcocotools() -> bool:
    """Serve mmpose's imports of xtcocotools from pycocotools where xtcocotools is absent or does not import.

    Its newest wheels are built for numpy 1 and end at Python 3.11. Annotations, masks and the metrics of types
    'keypoints', 'bbox' and 'segm' are served; 'keypoints_crowd' raises ValueError. Without pycocotools
    nothing is done.
    """
    if 'xtcocotools' in sys.modules or not installed('pycocotools'):
        return False
    try:
        importlib.import_module('xtcocotools.cocoeval')
        return False
    except (ImportError, ValueError, AttributeError, RuntimeError):  # absent, or built for another numpy
        _forget('xtcocotools')
    from pycocotools import coco, cocoeval, mask

    annotations, evaluation = _coco_class(coco.COCO), _cocoeval_class(cocoeval.COCOeval)
    _provide('xtcocotools', __path__=[], __version__='0+pycocotools')
    _provide('xtcocotools.coco', COCO=annotations)
    _provide('xtcocotools.cocoeval', COCOeval=evaluation, Params=cocoeval.Params)
    sys.modules['xtcocotools.mask'] = mask
    vars(sys.modules['xtcocotools'])['mask'] = mask
    return True


def _coco_class(base: type) -> type:
    class COCO(base):
        """pycocotools' COCO with xtcocotools' arguments and its defaults of `iscrowd` and `num_keypoints`."""

        def __init__(self, annotation_file=None, test_index=None, ann_data=None):
            if test_index is not None:
                raise ValueError('test_index is known to xtcocotools only, which is not installed')
            super().__init__(annotation_file if ann_data is None else None)
            if ann_data is not None:
                self.dataset = ann_data
                self.createIndex()
            self.anno_file = [annotation_file]
            for annotation in self.dataset.get('annotations', ()):
                annotation.setdefault('iscrowd', 0)
                if 'keypoints' in annotation:
                    annotation.setdefault('num_keypoints', sum(flag > 0 for flag in annotation['keypoints'][2::3]))

    return COCO


def _cocoeval_class(base: type) -> type:
    allowed = ('keypoints', 'bbox', 'segm')

    class COCOeval(base):
        """pycocotools' COCOeval with xtcocotools' arguments and rules.

        Keypoint sigmas, areas taken from boxes; detections whose keypoint scores are all zero are dropped; an
        annotation with id 0 can be matched, which pycocotools reads as "not matched".
        """

        def __init__(self, cocoGt=None, cocoDt=None, iouType='keypoints', sigmas=None, use_area=True):
            if iouType not in allowed:
                raise ValueError(f'iouType {iouType!r} needs xtcocotools, which is not installed; allowed: {allowed}')
            super().__init__(cocoGt, cocoDt, iouType)
            self.use_area = use_area
            if sigmas is not None:
                self.params.kpt_oks_sigmas = np.asarray(sigmas)

        def _prepare(self):
            super()._prepare()
            if self.params.iouType == 'keypoints':
                for key, found in self._dts.items():
                    self._dts[key] = [one for one in found if any(one['keypoints'][2::3])]
            first = min((label['id'] for labels in self._gts.values() for label in labels), default=1)
            for labels in self._gts.values() if first < 1 else ():
                labels[:] = [dict(label, id=label['id'] + 1 - first) for label in labels]
            for labels in self._gts.values():
                for i, label in enumerate(labels):
                    if 'area' not in label or not self.use_area:
                        width, height = label['bbox'][2:]
                        labels[i] = dict(label, area=width * height * 0.53)  # xtcocotools' share of a box

    return COCOeval


def _forget(package: str) -> None:
    """Remove a half-imported package from sys.modules, so that the next import starts from scratch."""
    for name in [name for name in sys.modules if name.split('.')[0] == package]:
        del sys.modules[name]


def _provide(name: str, **attributes) -> None:
    """Put a stand-in module into sys.modules and, for a submodule, on its parent."""
    module = ModuleType(name, 'A stand-in made by mmseg_tr.compat.')
    module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package='__path__' in attributes)
    module.__file__ = f'<{name} by mmseg_tr.compat>'
    vars(module).update(attributes)
    sys.modules[name] = module
    parent, _, child = name.rpartition('.')
    if parent:
        setattr(sys.modules[parent], child, module)

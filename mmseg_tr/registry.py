"""Registries of this package, children of mmengine's: a config of mmseg or of mmpose can say `mmseg_tr.ViT`.

`default_scope` stays 'mmseg' or 'mmpose'. A config with
``custom_imports = dict(imports=['mmseg_tr.registry'], allow_failed_imports=False)`` runs under mmseg's own tools too:
importing this file is what makes the OpenMMLab packages import together (mmseg_tr/compat.py).
"""

from mmseg_tr.compat import ensure_openmmlab
from mmseg_tr.errors import require_extra

require_extra('seg', 'mmengine', "to use this package's registries")
ensure_openmmlab()

from mmengine import registry as _root  # noqa: E402 (torchvision has to import first)
from mmengine.registry import Registry  # noqa: E402

from mmseg_tr import loader  # noqa: E402

loader.register()  # mmengine reads every checkpoint through weights.io.read_file

SCOPE = 'mmseg_tr'


def _child(parent: Registry, *locations: str) -> Registry:
    return Registry(
        parent.name, parent=parent, scope=SCOPE, locations=[f'{SCOPE}.{location}' for location in locations]
    )


MODELS = _child(_root.MODELS, 'models')
# the other modules of datasets/ import no framework
DATASETS = _child(_root.DATASETS, 'datasets.mosaic', 'datasets.image_folders', 'datasets.pose')
TRANSFORMS = _child(_root.TRANSFORMS, 'datasets.mosaic', 'datasets.label_transforms', 'datasets.pose')
METRICS = _child(_root.METRICS, 'evaluation')
HOOKS = _child(_root.HOOKS, 'engine')
VISBACKENDS = _child(_root.VISBACKENDS, 'engine')
OPTIM_WRAPPERS = _child(_root.OPTIM_WRAPPERS, 'engine')
OPTIM_WRAPPER_CONSTRUCTORS = _child(_root.OPTIM_WRAPPER_CONSTRUCTORS, 'engine')
PARAM_SCHEDULERS = _child(_root.PARAM_SCHEDULERS, 'engine')

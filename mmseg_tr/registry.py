"""This package's registries: children of mmengine's, so that a config of mmseg or of mmpose can say `mmseg_tr.ViT`.

`default_scope` stays 'mmseg' or 'mmpose'. A config that says
``custom_imports = dict(imports=['mmseg_tr.registry'], allow_failed_imports=False)`` runs under mmseg's own tools too:
importing this file is what makes the OpenMMLab packages import together (mmseg_tr/compat.py).
"""

from mmseg_tr.compat import ensure_openmmlab
from mmseg_tr.errors import require_extra

require_extra('seg', 'mmengine', "to use this package's registries")
ensure_openmmlab()

from mmengine import registry as _root  # noqa: E402 (torchvision has to import first)
from mmengine.registry import Registry  # noqa: E402

SCOPE = 'mmseg_tr'


def _child(parent: Registry, *locations: str) -> Registry:
    return Registry(
        parent.name, parent=parent, scope=SCOPE, locations=[f'{SCOPE}.{location}' for location in locations]
    )


MODELS = _child(_root.MODELS, 'models')
MODEL_WRAPPERS = _child(_root.MODEL_WRAPPERS, 'models')
# the neighbours of these two are plain and import no framework
DATASETS = _child(_root.DATASETS, 'datasets.mosaic', 'datasets.pose')
DATA_SAMPLERS = _child(_root.DATA_SAMPLERS, 'datasets')
TRANSFORMS = _child(_root.TRANSFORMS, 'datasets.mosaic', 'datasets.pose')
METRICS = _child(_root.METRICS, 'evaluation')
EVALUATOR = _child(_root.EVALUATOR, 'evaluation')
HOOKS = _child(_root.HOOKS, 'engine')
LOOPS = _child(_root.LOOPS, 'engine')
OPTIMIZERS = _child(_root.OPTIMIZERS, 'engine')
OPTIM_WRAPPERS = _child(_root.OPTIM_WRAPPERS, 'engine')
OPTIM_WRAPPER_CONSTRUCTORS = _child(_root.OPTIM_WRAPPER_CONSTRUCTORS, 'engine')
PARAM_SCHEDULERS = _child(_root.PARAM_SCHEDULERS, 'engine')
LOG_PROCESSORS = _child(_root.LOG_PROCESSORS, 'engine')
TASK_UTILS = _child(_root.TASK_UTILS, 'models')
VISUALIZERS = _child(_root.VISUALIZERS, 'visualization')
VISBACKENDS = _child(_root.VISBACKENDS, 'visualization')

# Registers this package; mmpose's own tools can run these configs too.
custom_imports = dict(imports=['mmseg_tr.registry'], allow_failed_imports=False)
default_scope = 'mmpose'

env_cfg = dict(
    cudnn_benchmark=False, mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0), dist_cfg=dict(backend='nccl')
)
randomness = dict(seed=0)

vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='PoseLocalVisualizer', vis_backends=vis_backends, name='visualizer')
log_level = 'INFO'

load_from = None
resume = False

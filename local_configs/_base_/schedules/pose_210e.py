# The published schedule, with one change: it ended the steps at epoch 70, before the first of them.
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=5e-4, betas=(0.9, 0.999), weight_decay=0.01))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, begin=0, end=500, by_epoch=False),
    dict(type='MultiStepLR', milestones=[170, 200], gamma=0.1, begin=0, end=210, by_epoch=True),
]
auto_scale_lr = dict(base_batch_size=16)

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=210, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(
        type='mmseg_tr.SafeCheckpointHook', interval=1, max_keep_ckpts=1, save_best='PCK@0.1', rule='greater'
    ),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='PoseVisualizationHook', enable=False),
)
log_processor = dict(type='LogProcessor', by_epoch=True, num_digits=6)
# Running statistics of the batch norms are averaged over the processes after each epoch.
custom_hooks = [dict(type='SyncBuffersHook')]
# Batch norms of several GPUs share their statistics.
sync_bn = 'torch'

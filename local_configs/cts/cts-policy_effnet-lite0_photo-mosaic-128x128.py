_base_ = [
    '../_base_/models/cts-policy_effnet-lite0.py',
    '../_base_/datasets/photo_mosaic.py',
    '../_base_/schedules/cts-policy_50k.py',
    '../_base_/runtime/default.py',
]

# From random weights in minutes on two CPU cores.
model = dict(data_preprocessor=dict(size=(128, 128)), pretrained=None)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
train_dataloader = dict(batch_size=8)
train_cfg = dict(max_iters=1000, val_interval=250)
default_hooks = dict(logger=dict(interval=50), checkpoint=dict(interval=250))
val_evaluator = dict(_delete_=True, type='mmseg_tr.PolicyAccuracy')
test_evaluator = val_evaluator
tta_model = None  # no classes to average

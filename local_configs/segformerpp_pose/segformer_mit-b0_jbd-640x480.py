_base_ = [
    '../_base_/models/segformer-pose_mit-b0.py',
    '../_base_/datasets/jbd_640x480.py',
    '../_base_/schedules/pose_210e.py',
    '../_base_/runtime/pose.py',
]

model = dict(head=dict(num_keypoints=20, decoder={{_base_.codec}}))
train_cfg = dict(val_interval=10)
default_hooks = dict(checkpoint=dict(interval=10))

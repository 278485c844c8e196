_base_ = [
    '../_base_/models/segformer-pose_mit-b0.py',
    '../_base_/datasets/photo_figures.py',
    '../_base_/schedules/photo_figures_short.py',
    '../_base_/runtime/pose.py',
]

model = dict(
    backbone=dict(
        arch=dict(_delete_=True, embed_dims=16, num_layers=(1, 1, 2, 2), num_heads=(1, 2, 5, 8)),
        drop_path_rate=0.0,
        pretrained=None,
    ),
    head=dict(in_channels=(16, 32, 80, 128), channels=48, num_keypoints=14, decoder={{_base_.codec}}),
)

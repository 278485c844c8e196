model = dict(
    type='TopdownPoseEstimator',
    data_preprocessor=dict(
        type='PoseDataPreprocessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True
    ),
    backbone=dict(type='mmseg_tr.MiT', arch='b0', drop_path_rate=0.1, pretrained=True),
    head=dict(
        type='mmseg_tr.SegformerPoseHead',
        in_channels=(32, 64, 160, 256),
        channels=256,
        num_keypoints=17,
        loss=dict(type='KeypointMSELoss', use_target_weight=True),
    ),
    test_cfg=dict(flip_test=True, flip_mode='heatmap', shift_heatmap=True),
)

_base_ = '../segmenter/segmenter_vit-s16_pascal-context-480x480.py'

policy_checkpoint = 'work_dirs/cts-policy_effnet-lite0_pascal-context-480x480/iter_50000.pth'
model = dict(
    backbone=dict(reduction=dict(type='CTS', shared=90, policy_checkpoint=policy_checkpoint)),
    test_cfg=dict(stride=(320, 320)),
)

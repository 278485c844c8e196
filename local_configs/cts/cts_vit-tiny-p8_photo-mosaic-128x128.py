_base_ = '../segmenter/segmenter_vit-tiny-p8_photo-mosaic-128x128.py'

policy_checkpoint = 'work_dirs/cts-policy_effnet-lite0_photo-mosaic-128x128/iter_1000.pth'
model = dict(backbone=dict(reduction=dict(type='CTS', share=0.3, policy_checkpoint=policy_checkpoint)))

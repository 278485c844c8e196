_base_ = '../segmenter/segmenter_vit-l16_pascal-context-480x480_expedite.py'

model = dict(backbone=dict(reduction=dict(type='ACT', q_hashes=24)))

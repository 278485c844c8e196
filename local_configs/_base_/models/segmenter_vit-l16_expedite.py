_base_ = './segmenter_vit-l16.py'

# How the Expedite repository runs Segmenter; the weights are the same.
model = dict(
    backbone=dict(norm_eps=1e-6, pos_resize='bicubic'),
    decode_head=dict(enlarge='straight'),
    test_cfg=dict(small_images='shrink'),
)

_base_ = [
    '../_base_/models/vitpose_vit-tiny-p16.py',
    '../_base_/datasets/photo_figures.py',
    '../_base_/schedules/photo_figures_short.py',
    '../_base_/runtime/pose.py',
]

model = dict(head=dict(decoder={{_base_.codec}}))

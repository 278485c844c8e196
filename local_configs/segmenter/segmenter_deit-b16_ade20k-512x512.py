_base_ = [
    '../_base_/models/segmenter_deit-b16.py',
    '../_base_/datasets/ade20k_512x512.py',
    '../_base_/schedules/ade20k_64e.py',
    '../_base_/runtime/default.py',
]

_base_ = [
    '../_base_/models/segformer_mit-b5.py',
    '../_base_/datasets/cityscapes_1024x1024.py',
    '../_base_/schedules/adamw_160k.py',
    '../_base_/runtime/default.py',
]

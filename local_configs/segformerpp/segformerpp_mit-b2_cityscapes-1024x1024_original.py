_base_ = './segformer_mit-b2_cityscapes-1024x1024.py'

train_dataloader = dict(batch_size=4, num_workers=8)

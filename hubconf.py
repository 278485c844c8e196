"""Entry points of torch.hub; torch and timm are all they need.

model = torch.hub.load(REPOSITORY, 'segformer_plusplus', backbone='b5', tome_strategy='bsm_hq', out_channels=19)
transform = torch.hub.load(REPOSITORY, 'data_transforms', resolution=(1024, 1024))
logits = model(transform(picture)[None])  # (1, 19, 256, 256)
"""

from mmseg_tr.nn.image_transform import IMAGENET_MEAN, IMAGENET_STD, ImageTransform
from mmseg_tr.zoo import create_model

__all__ = ['create_model', 'data_transforms', 'segformer_plusplus']

dependencies = ['torch', 'timm']


def segformer_plusplus(
    backbone='b5', tome_strategy='bsm_hq', out_channels=19, pretrained=False, checkpoint_url=None, resolution='quarter'
):
    """SegFormer++ in eval mode: (B, 3, H, W) -> logits (B, out_channels, ceil(H/4), ceil(W/4)).

    backbone: 'b0' to 'b5'. tome_strategy: a preset's name ('bsm_hq', 'bsm_fast', 'n2d_2x2', 'downsample', None), or a
        list of one dict per stage.
    pretrained: True loads the backbone's ImageNet weights, once they are fetched.
    checkpoint_url: URL, file or name of weights of the whole model instead; each URL is kept under a name of its own.
    resolution: 'quarter', as published, or 'full' for logits at the size of the image.
    Raises ConfigError for settings that do not exist, CheckpointError when weights cannot be had or do not fit.
    """
    source = checkpoint_url if checkpoint_url is not None else bool(pretrained)
    model = create_model(
        f'segformer_{backbone}', tome_strategy, num_classes=out_channels, pretrained=source, resolution=resolution
    )
    return model.eval()


def data_transforms(resolution=(1024, 1024), mean=IMAGENET_MEAN, std=IMAGENET_STD):
    """A function from an RGB picture (PIL, array (H, W, 3) or tensor (3, H, W)) to the normalised tensor (3, h, w).

    resolution: (height, width) in pixels, or None to keep the picture's. mean, std: of values in 0..1.
    """
    return ImageTransform(resolution, mean, std)

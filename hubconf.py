"""Entry points of torch.hub; torch and timm are all they need.

model = torch.hub.load(REPOSITORY, 'segformer_plusplus', backbone='b5', tome_strategy='bsm_hq', out_channels=19)
transform = torch.hub.load(REPOSITORY, 'data_transforms', resolution=(1024, 1024))
logits = model(transform(picture)[None])  # (1, 19, 256, 256)
"""

from pathlib import Path

import numpy as np
import torch

from mmseg_tr.analysis.measure import MeasureOptions, measure
from mmseg_tr.analysis.network import network_of
from mmseg_tr.errors import ConfigError, DatasetError
from mmseg_tr.nn.image_transform import IMAGENET_MEAN, IMAGENET_STD, ImageTransform
from mmseg_tr.zoo import create_model

__all__ = [
    'cityscapes_benchmark',
    'create_model',
    'data_transforms',
    'random_benchmark_entrypoint',
    'segformer_plusplus',
]

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


def random_benchmark_entrypoint(model, batch_size=1, image_size=(3, 1024, 1024), repeats=4):
    """Images per second of a network on random images, as the published benchmark: mean and deviation of the repeats.

    image_size: (C, H, W), or a list of such sizes; batch_size: one number, or a list. Returns a dict by
    'CxHxW, batch B' of dict(fps=, std=, gmacs=). On random images adaptive methods merge other tokens than on pictures.
    Raises ConfigError for sizes that are not positive.
    """
    sizes = [image_size] if isinstance(image_size[0], int) else image_size
    batches = [batch_size] if isinstance(batch_size, int) else batch_size
    found = {}
    for channels, height, width in sizes:
        for batch in batches:
            if min(channels, height, width, batch, repeats) < 1:
                raise ConfigError(f'sizes must be positive, got {(channels, height, width)} in batches of {batch}.')
            rates = [_timed(model, torch.rand(batch, channels, height, width)) for _ in range(repeats)]
            fps = np.array([rate for rate, _ in rates])
            label = f'{channels}x{height}x{width}, batch {batch}'
            found[label] = dict(fps=float(fps.mean()), std=float(fps.std()), gmacs=rates[0][1])
    return found


def cityscapes_benchmark(model, images, resolution=(1024, 2048), count=50, reference=None):
    """Images per second of a network on pictures of Cityscapes, and how often it predicts as a reference.

    images: the folder leftImg8bit/val, or any with .png files. resolution: (height, width) at which they enter.
    reference: a folder with a PNG of class numbers for each picture, under the same name; made if it does not exist.
    Returns dict(fps=, gmacs=, images=, agreement=), percent of equal pixels, None where the reference was made.
    Raises DatasetError for a folder without pictures, and for a reference of another size.
    """
    from PIL import Image  # torch.hub's list of dependencies has no Pillow

    files = sorted(Path(images).rglob('*.png'))[:count]
    if not files:
        raise DatasetError(f'images must be a folder with .png files, such as leftImg8bit/val, got {images}.')
    device, transform = next(model.parameters()).device, data_transforms(resolution)
    steps, times, same, work = network_of(model.eval()), [], [], 0.0
    make = reference is not None and not Path(reference).is_dir()
    for file in files:
        with Image.open(file) as picture:
            image = transform(picture.convert('RGB'))[None].to(device)
        rate, work = _timed(model, image)
        times.append(1 / rate)
        if reference is None:
            continue
        with torch.inference_mode():
            label = steps.labels(steps.scores(image), image)[0].cpu().numpy().astype(np.uint8)
        place = Path(reference) / file.name
        if make:
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(label).save(place)
            continue
        expected = np.asarray(Image.open(place)) if place.is_file() else None
        if expected is None or expected.shape != label.shape:
            raise DatasetError(f'reference must hold a PNG of {label.shape} class numbers for {file.name}: {place}.')
        same.append((expected == label).mean())
    agreement = 100 * float(np.mean(same)) if same else None
    return dict(fps=len(times) / sum(times), gmacs=work, images=len(files), agreement=agreement)


def _timed(model, batch):
    """Images per second of one batch, and GMACs per image."""
    batch = batch.to(next(model.parameters()).device)
    found, _ = measure(dict(model=model), [batch], MeasureOptions(repeats=1, seconds=None))
    return 1 / found['model'].seconds.scores, found['model'].work.total() / 1e9

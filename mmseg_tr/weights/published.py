"""Published weights by name: where their authors keep them."""

from __future__ import annotations

from dataclasses import dataclass

OPENMMLAB = 'https://download.openmmlab.com/mmsegmentation/v0.5'
AUGSBURG = 'https://mediastore.rz.uni-augsburg.de/get'
INRIA = 'https://www.rocq.inria.fr/cluster-willow/rstrudel/segmenter/checkpoints'


@dataclass(frozen=True)
class Published:
    """sha256: the first hexadecimal digits of the file's hash, '' where its publisher does not give them."""

    url: str
    sha256: str = ''


def _hashed(url: str) -> Published:
    """OpenMMLab ends file names with the first eight digits."""
    return Published(url, url.rpartition('-')[2].removesuffix('.pth'))


# MiT after training on ImageNet-1K
MIT = {
    'mit_b0': '20220624-7e0fe6dd',
    'mit_b1': '20220624-02e5a6a1',
    'mit_b2': '20220624-66e8bf70',
    'mit_b3': '20220624-13b1141c',
    'mit_b4': '20220624-d588d980',
    'mit_b5': '20220624-658746d9',
}
# whole SegFormers of OpenMMLab: our config -> folder and date of theirs
SEGFORMER = {
    'segformer_mit-b0_ade20k-512x512': ('512x512_160k_ade20k', '20210726_101530-8ffa8fda'),
    'segformer_mit-b1_ade20k-512x512': ('512x512_160k_ade20k', '20210726_112106-d70e859d'),
    'segformer_mit-b2_ade20k-512x512': ('512x512_160k_ade20k', '20210726_112103-cbd414ac'),
    'segformer_mit-b3_ade20k-512x512': ('512x512_160k_ade20k', '20210726_081410-962b98d2'),
    'segformer_mit-b4_ade20k-512x512': ('512x512_160k_ade20k', '20210728_183055-7f509d7d'),
    'segformer_mit-b5_ade20k-512x512': ('512x512_160k_ade20k', '20210726_145235-94cedf59'),
    'segformer_mit-b5_ade20k-640x640': ('640x640_160k_ade20k', '20210801_121243-41d2845b'),
    'segformer_mit-b0_cityscapes-1024x1024': ('8x1_1024x1024_160k_cityscapes', '20211208_101857-e7f88502'),
    'segformer_mit-b1_cityscapes-1024x1024': ('8x1_1024x1024_160k_cityscapes', '20211208_064213-655c7b3f'),
    'segformer_mit-b2_cityscapes-1024x1024': ('8x1_1024x1024_160k_cityscapes', '20211207_134205-6096669a'),
    'segformer_mit-b3_cityscapes-1024x1024': ('8x1_1024x1024_160k_cityscapes', '20211206_224823-a8f8a177'),
    'segformer_mit-b4_cityscapes-1024x1024': ('8x1_1024x1024_160k_cityscapes', '20211207_080709-07f6c333'),
    'segformer_mit-b5_cityscapes-1024x1024': ('8x1_1024x1024_160k_cityscapes', '20211206_072934-87a052ec'),
}
# Those of SegFormer++, trained with the setting in the name. The publication gives one link, K0IGkx4O2s, for ADE20K
# fast and for a pose network: it holds one of them, and loading it into the other network is refused.
SEGFORMERPP = {
    'segformerpp_mit-b5_cityscapes-1024x1024_original': 'yzE65lzm6N',
    'segformerpp_mit-b5_cityscapes-1024x1024_bsm-hq': 'i8fY8uXJrV',
    'segformerpp_mit-b5_cityscapes-1024x1024_bsm-fast': 'cmG974iAxt',
    'segformerpp_mit-b5_cityscapes-1024x1024_n2d-2x2': 'p0uMKbw531',
    'segformerpp_mit-b5_cityscapes-1024x1024_downsample': '73zkKSO21t',
    'segformerpp_mit-b5_ade20k-640x640_original': 'nKEjUHNAfK',
    'segformerpp_mit-b5_ade20k-640x640_bsm-hq': 'Odyie8usgj',
    'segformerpp_mit-b5_ade20k-640x640_bsm-fast': 'K0IGkx4O2s',
    'segformerpp_mit-b5_ade20k-640x640_n2d-2x2': 'w5_Pxx4Q5C',
    'segformerpp_mit-b5_ade20k-640x640_downsample': 'dFVvZQL6iL',
}

# whole Segmenters of their authors: our config -> folder of theirs
SEGMENTER = {
    'segmenter_vit-ti16_ade20k-512x512': 'ade20k/seg_tiny_mask',
    'segmenter_vit-s16_ade20k-512x512': 'ade20k/seg_small_mask',
    'segmenter_vit-b16_ade20k-512x512': 'ade20k/seg_base_mask',
    'segmenter_vit-b8_ade20k-512x512_linear': 'ade20k/seg_base_patch8',
    'segmenter_vit-l16_ade20k-640x640': 'ade20k/seg_large_mask_640',
    'segmenter_deit-b16_ade20k-512x512_linear': 'ade20k/seg_base_deit_linear',
    'segmenter_deit-b16_ade20k-512x512': 'ade20k/seg_base_deit_mask',
    'segmenter_vit-l16_pascal-context-480x480': 'pascal_context/seg_large_mask',
    'segmenter_vit-l16_cityscapes-768x768': 'cityscapes/seg_large_mask',
}


def _segformer(name: str, kind: str, date: str) -> Published:
    stem = f'segformer_{name.split("_")[1]}_{kind}'
    return _hashed(f'{OPENMMLAB}/segformer/{stem}/{stem}_{date}.pth')


PUBLISHED: dict[str, Published] = {
    **{name: _hashed(f'{OPENMMLAB}/pretrain/segformer/{name}_{date}.pth') for name, date in MIT.items()},
    **{name: _segformer(name, *where) for name, where in SEGFORMER.items()},
    **{name: Published(f'{AUGSBURG}/{key}/') for name, key in SEGFORMERPP.items()},
    **{name: Published(f'{INRIA}/{folder}/checkpoint.pth') for name, folder in SEGMENTER.items()},
}

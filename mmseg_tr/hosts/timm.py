"""Networks of timm: VisionTransformer and its distilled form."""

from __future__ import annotations

from mmseg_tr.compat import ensure_torchvision
from mmseg_tr.errors import ConfigError
from mmseg_tr.hosts.host import Host

ensure_torchvision()  # timm imports torchvision

from timm.layers import Attention  # noqa: E402
from timm.models.deit import VisionTransformerDistilled  # noqa: E402
from timm.models.vision_transformer import Block, VisionTransformer  # noqa: E402
from torch import nn  # noqa: E402


def timm_host(model: nn.Module) -> Host | None:
    """How a VisionTransformer of timm is laid out; None for another network.

    Raises ConfigError where its parts are not those that this package knows.
    """
    if type(model) not in (VisionTransformer, VisionTransformerDistilled):
        return None
    for number, block in enumerate(model.blocks, 1):
        if type(block) is not Block or type(block.attn) is not Attention:
            kind = block if type(block) is not Block else block.attn
            raise ConfigError(
                f'block {number} has a {type(kind).__name__}, which is not supported: only plain blocks of timm are. '
                'Another library may have replaced it; for blocks of your own see mmseg_tr.Host.'
            )
    if not isinstance(model.patch_drop, nn.Identity):
        raise ConfigError('patch_drop_rate must be 0: a network that drops patches in training has no grid.')
    embed = model.patch_embed
    fixed = not model.dynamic_img_size
    return Host(
        blocks='blocks',
        prefix=model.num_prefix_tokens,
        grid=tuple(embed.grid_size) if fixed else None,
        patch_embed=None if fixed else 'patch_embed',
        patch_size=tuple(embed.patch_size),
        pads=embed.dynamic_img_pad,
        class_token=model.cls_token is not None,
        image_size=tuple(embed.img_size) if embed.img_size is not None else None,
    )

"""Networks of golden cases: a timm ViT from the settings, and what a method does in one forward."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from mmseg_tr.checkpoints import load_official
from mmseg_tr.nn import ViT
from mmseg_tr.reduction import Tokens
from mmseg_tr.reduction.observe import Observer
from tests.parity.harness import Case


@dataclass
class Recording(Observer):
    """Tokens that enter and leave every block, and what attention() handed to after_attention()."""

    entered: dict[int, Tokens] = field(default_factory=dict)
    left: dict[int, Tokens] = field(default_factory=dict)
    seen: dict[int, Tensor] = field(default_factory=dict)

    def before_block(self, tokens, layer):
        self.entered[layer] = super().before_block(tokens, layer)
        return self.entered[layer]

    def after_attention(self, tokens, layer, seen):
        self.seen[layer] = seen
        return super().after_attention(tokens, layer, seen)

    def after_block(self, tokens, layer):
        self.left[layer] = super().after_block(tokens, layer)
        return self.left[layer]


def timm_network(case: Case, reduction: dict | None) -> tuple[ViT, dict[str, Tensor]]:
    """The timm ViT of a case with its weights, and those of its classification head."""
    s, weights = case.settings, load_file(case.folder / case.settings['weights'])
    vit = s['vit']
    arch = dict(embed_dim=vit['dim'], depth=vit['depth'], num_heads=vit['heads'], patch_size=vit['patch'])
    for key in ('mlp_ratio', 'class_token', 'reg_tokens', 'no_embed_class', 'distilled', 'qkv_bias', 'init_values'):
        if key in vit:
            arch[key] = vit[key]
    size = vit['img'] if isinstance(vit['img'], int) else tuple(vit['img'])
    model = ViT(arch, size, reduction=reduction, norm_eps=s['layernorm_eps'], out='tokens').eval()
    head = {name: weights.pop(name) for name in list(weights) if name.startswith('head')}
    model.load_state_dict(weights)
    return model, head


def recorded(model: ViT, image: Tensor) -> tuple[Recording, Tokens]:
    """What the method of a network did in a forward, and the tokens after the final norm."""
    record = Recording(model.method())
    return record, model.forward_tokens(image, reduction=record)


def classes(tokens: Tokens, head: dict[str, Tensor], class_token: bool) -> Tensor:
    """Logits of the classification head: of the class token, without one of the mean of the patch tokens."""
    pooled = tokens.x[:, 0] if class_token else tokens.patches().x.mean(1)
    logits = F.linear(pooled, head['head.weight'], head['head.bias'])
    if 'head_dist.weight' in head:  # the mean of both classifiers, as timm has it at inference
        logits = (logits + F.linear(tokens.x[:, 1], head['head_dist.weight'], head['head_dist.bias'])) / 2
    return logits


def compare_classifier(case: Case, reduction: dict | None) -> tuple[Recording, Tokens]:
    """A patched timm ViT up to its classes: every output of the case; returns what its method did, and its tokens."""
    image = case.take('image')
    model, head = timm_network(case, reduction)
    record, tokens = recorded(model, image)
    compare_blocks(case, record)
    case.compare('features', tokens.x)
    case.compare('map', tokens.to_map())
    case.compare('logits', classes(tokens, head, case.settings['vit'].get('class_token', True)))
    if case.holds('features', f64=True):
        case.compare('features', model.double().forward_tokens(image.double()).x, f64=True)
    return record, tokens


def compare_segmenter(case: Case, reduction: dict | None) -> tuple[Recording, Tokens]:
    """As compare_classifier(), of an official Segmenter up to its classes."""
    image, model = case.take('image'), load_official(case.release(), reduction)
    record, tokens = recorded(model.encoder, image)
    compare_blocks(case, record)
    case.compare('masks', model.scores(image))
    case.compare('logits', model(image))
    return record, tokens


def compare_blocks(case: Case, record: Recording) -> None:
    """Tokens that left the blocks, where a case has them."""
    for layer, tokens in record.left.items():
        case.compare(f'block{layer}', tokens.x)


def assigned(record: Recording) -> dict[int, Tensor]:
    """Layer that merged -> the token of every patch after it."""
    last = record.left[max(record.left)]
    return {step.layer: step.assignment for step in last.steps}


def token_map(tokens: Tokens) -> Tensor:
    """Final token of every input token, prefix included, (B, E + N)."""
    prefix = torch.arange(tokens.num_prefix).expand(len(tokens.index), -1)
    return torch.cat([prefix, tokens.index + tokens.num_prefix], 1)

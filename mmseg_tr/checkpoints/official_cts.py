"""Official releases of CTS: Segmenter's files with a policy network in them, and the policy network's own file.

A release that was trained without sharing (policy_method: no_sharing) holds no policy network: it is a Segmenter.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mmseg_tr.checkpoints import official_segmenter
from mmseg_tr.checkpoints.converted import Converted, refuse_variant
from mmseg_tr.checkpoints.segmenter_config import segmenter_config
from mmseg_tr.errors import CheckpointError
from mmseg_tr.reduction.cts.policy import check_policy_state
from mmseg_tr.weights import io, keymap
from mmseg_tr.weights.fit import check_tensors
from mmseg_tr.weights.formats import POLICY, checkpoint_path, is_cts_release, is_policy
from mmseg_tr.weights.variant import Network, normalization, read_variant, section, whole

STRIDES = {'ade20k': 512, 'cityscapes': 512, 'pascal_context': 320}
IN_SEGMENTER, IN_SEGMENTOR, IN_CLASSIFIER = 'encoder.reduction.policy.', 'backbone.reduction.policy.', 'policy.'


def split_policy(model_state: Mapping[str, Tensor], where: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the entries of a release without the policy network, and those of the policy network without prefix.

    Raises CheckpointError unless the latter are exactly those of a policy network.
    """
    check_tensors(model_state, where)
    kept, names = keymap.split(model_state, (POLICY,))
    policy = {name.removeprefix(POLICY): model_state[name] for name in names}
    check_policy_state(policy, where)
    return kept, io.contiguous(policy)


def cts_reduction(net_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `reduction` that net_kwargs of a CTS release describe.

    Raises CheckpointError for another policy_method than policy_net, and for a policy_schedule that does not add up.
    """
    method = net_kwargs.get('policy_method')
    if method != 'policy_net':
        raise CheckpointError(
            f'net_kwargs.policy_method of variant.yml is {method!r}: policy_net is what can be converted.'
        )
    schedule = net_kwargs.get('policy_schedule')
    if not isinstance(schedule, list | tuple) or len(schedule) != 2:
        raise CheckpointError(f'net_kwargs.policy_schedule of variant.yml is {schedule!r}: two numbers are needed.')
    # none kept, or none shared, is possible: only both together are not
    kept, shared = (
        whole({'policy_schedule': part}, 'policy_schedule', 'net_kwargs') if part else 0 for part in schedule
    )
    net = Network.from_net_kwargs(net_kwargs)
    patches = -(-net.image_size[0] // net.patch_size) * -(-net.image_size[1] // net.patch_size)
    if kept + 4 * shared != patches:
        raise CheckpointError(
            f'net_kwargs.policy_schedule of variant.yml is {(kept, shared)}: {kept} patches and {shared} superpatches '
            f'of four do not make the {patches} patches of the network.'
        )
    return {'type': 'CTS', 'shared': shared}


def load_official(
    release: str | os.PathLike, reduction: Mapping[str, Any] | None = None, *, variant: str | os.PathLike | None = None
) -> nn.Module:
    """Return the network of an official release, in eval mode, with its weights loaded strictly.

    release: its folder or checkpoint file. variant: the description, by default variant.yml next to the checkpoint.
    reduction: switched on in the encoder; the settings in a release are not used by default. A release's
    policy network is loaded where reduction is a CTS whose policy is 'network', and left out elsewhere.
    Raises CheckpointError for a release that cannot be read or contradicts itself.
    """
    path = checkpoint_path(release)
    payload = io.read_file(path)
    if not is_cts_release(payload):
        return official_segmenter.load_payload(payload, path, reduction, variant)
    net_kwargs = section(read_variant(variant or path.with_name('variant.yml')), 'net_kwargs')
    rest, policy = split_policy(payload['model'], str(path))
    state, _ = official_segmenter.official_to_segmenter(rest, net_kwargs, where=str(path))
    model = official_segmenter.build_segmenter(net_kwargs, reduction)
    if any(key.startswith(IN_SEGMENTER) for key in model.state_dict()):
        state |= {IN_SEGMENTER + key: value for key, value in policy.items()}
    model.load_state_dict(state, strict=True)
    return model.eval()


def convert(payload: Mapping[str, Any], path: Path, *, variant: str | os.PathLike | None = None) -> Converted:
    """Turn a release, or a policy network alone, into weights of this package; see `mmseg_tr.checkpoints.convert`."""
    if is_policy(payload):
        return _convert_policy(payload, path, variant)
    variant_path = Path(variant) if variant else path.with_name('variant.yml')
    settings = read_variant(variant_path)
    net_kwargs = section(settings, 'net_kwargs', variant_path)
    rest, policy = split_policy(payload['model'], str(path))
    state, dropped = official_segmenter.official_to_segmenter(rest, net_kwargs, where=str(path))
    state = keymap.rename(state, keymap.SEGMENTER_TO_SEGMENTOR)
    state |= {IN_SEGMENTOR + key: value for key, value in policy.items()}
    net, reduction = Network.from_net_kwargs(net_kwargs), cts_reduction(net_kwargs)
    inference, dataset = (section(settings, f'{part}_kwargs', variant_path) for part in ('inference', 'dataset'))
    stride = STRIDES.get(str(dataset.get('dataset')))  # of the published evaluation, not of validation in training
    if stride and stride <= whole(inference, 'window_size', 'inference_kwargs'):
        inference['window_stride'] = stride
    config = segmenter_config(net, normalization(settings), inference, dataset, reduction)
    source = {'format': 'official CTS', 'backbone': net.backbone}
    if isinstance(payload.get('epoch'), int):
        source['epoch'] = payload['epoch']
    return Converted(
        what=f'official CTS release, {net.backbone} with {net.decoder} decoder, {net.num_classes} classes, '
        f'{reduction["shared"]} shared superpatches',
        state_dict=state,
        meta={**config.meta, 'source': source},
        config=config.text,
        dropped=dropped,
        notes=config.notes,
        testable=config.has_dataset,
    )


def _convert_policy(payload: Mapping[str, Any], path: Path, variant: str | os.PathLike | None) -> Converted:
    """Return a checkpoint of `mmseg_tr.PolicyClassifier` from the file of the published training."""
    refuse_variant(variant, path, 'a policy network')
    check_policy_state(payload, str(path))
    return Converted(
        what='official CTS policy network',
        state_dict={IN_CLASSIFIER + key: value for key, value in io.contiguous(payload).items()},
        meta={'source': {'format': 'official CTS policy network'}},
        notes=(
            'a CTS config names it as model.backbone.reduction.policy_checkpoint, before or after conversion; for its '
            'accuracy take a config local_configs/cts/cts-policy_*.py.',
        ),
    )

"""Compare methods in a network of another library, which needs no dataset: work, speed, agreement with plain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmseg_tr.analysis.network import method_name, reduction_of
from mmseg_tr.analysis.speed import mixed_precision
from mmseg_tr.apis.build import machine, pick_precision, precision_name, prepare_device
from mmseg_tr.apis.compare import ComparedModel, Comparison
from mmseg_tr.apis.compare.loop import Progress, Tested, measure_costs
from mmseg_tr.apis.compare.models import PLAIN
from mmseg_tr.apis.compare.options import CompareOptions
from mmseg_tr.apis.hosts import batch_of, open_named, reduced
from mmseg_tr.errors import ConfigError
from mmseg_tr.hosts.report import count_tokens


def compare_named(
    name: str,
    checkpoint: str | None = None,
    options: CompareOptions | None = None,
    pictures: str | None = None,
    progress: Progress = lambda _: None,
) -> Comparison:
    """Time every method of options.methods and options.reductions, and the plain network, on the same pictures.

    name: timm:NAME or transformers:FOLDER_OR_NAME. checkpoint: 'none' for random weights; by default those of the name.
    pictures: a folder; by default the bundled photographs. Raises ConfigError, CheckpointError or DatasetError.
    """
    options = options or CompareOptions()
    refuse_those_of_configs(options)
    place, dtype = prepare_device(options.device, options.compiled), pick_precision(options.amp, options.device)
    named = open_named(name, checkpoint, place)
    progress('applying')
    models = {PLAIN: named.model} | {text: reduced(named, text) for text in (*options.methods, *options.reductions)}
    inputs = batch_of(named, pictures, named.size, options.images)
    options = replace(options, batch_size=options.batch_for(len(inputs)))
    tested = Tested(None, list(inputs.split(1)), 1.0)
    agreement = agreement_with_plain(models, tested.inputs, dtype)
    costs = measure_costs(models, tested, options, dtype, progress)
    rows = []
    for text, model in models.items():
        method, cost = reduction_of(model), costs[text]
        if method is not None:
            tokens = [float(count) for count in count_tokens(model, named.model, inputs[:1])[0]]
            cost = replace(cost, tokens_per_layer=tokens)
        rows.append(
            ComparedModel(
                name=text,
                method=PLAIN if method is None else method_name(method),
                settings={} if method is None else method.settings(),
                **dict.fromkeys(('miou', 'pck', 'pck_strict')),
                agreement=agreement[text],
                **asdict(cost),
            )
        )
    about = dict(
        checkpoint=checkpoint or name,
        quality='agreement',
        dataset=str(pictures or 'bundled photographs'),
        images_tested=len(inputs),
        images_timed=len(inputs),
        shape=list(named.size),
        windows_per_image=1.0,
        batch_size=options.batch_size,
        machine=machine(place),
        threads=torch.get_num_threads(),
        precision=precision_name(dtype),
        torch=torch.__version__,
    )
    return Comparison(tuple(rows), about)


def refuse_those_of_configs(options: CompareOptions) -> None:
    """Raise ConfigError for an option that only the network of a config has."""
    given = dict(
        cfg_options=options.cfg_options,
        fraction=options.fraction != 1.0,
        work=options.work,
        rivals=options.rivals,
        smaller=options.smaller,
    )
    for wrong in (name for name, value in given.items() if value):
        raise ConfigError(f'{wrong} is for a config, and model names a network.', parameters=[wrong])


@torch.inference_mode()
def agreement_with_plain(
    models: Mapping[str, nn.Module], inputs: list[Tensor], amp: torch.dtype | None
) -> dict[str, float]:
    """Percent of the predicted classes that equal the plain network's; without classes, mean cosine of the outputs."""
    found = dict.fromkeys(models, 0.0)
    for image in inputs:
        with mixed_precision(image.device, amp):
            outputs = {name: output_of(model(image)) for name, model in models.items()}
        classes, plain = outputs[PLAIN]
        for name, (_, out) in outputs.items():
            if classes:
                same = (out.argmax(1) == plain.argmax(1)).float().mean()
            else:
                same = F.cosine_similarity(out.float().flatten(1), plain.float().flatten(1)).mean()
            found[name] += 100 * same.item() / len(inputs)
    return found


def output_of(result: Any) -> tuple[bool, Tensor]:
    """The tensor that a network returns first, and whether it holds scores of classes, (B, K, ...)."""
    if isinstance(result, Tensor):
        return result.dim() == 2, result
    logits = getattr(result, 'logits', None)
    if logits is not None:
        return True, logits
    values = result.values() if isinstance(result, Mapping) else result
    return False, next(value for value in values if isinstance(value, Tensor))

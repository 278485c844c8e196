"""What a benchmark found out about a network and its plain counterpart."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from mmseg_tr.analysis.speed import Seconds


@dataclass(frozen=True)
class Measured:
    """One network at one shape and batch size; everything is per image.

    gmacs: 1e9 multiply-adds from normalised image to logits at its size, under the chosen rule; gflops: twice that.
    gmacs_all: under the rule 'all'. parts: gmacs by part of the network; parts_all: the same under 'all'.
    params: parameters that inference can use. images_per_second: from normalised image to scores on the decoder's grid;
    images_per_second_to_labels: to the class of every pixel, or to keypoints. tokens_per_layer: mean number of tokens
    that leave each layer, prefix tokens included; None for a network without mmseg_tr's ViT. tokens_per_stage: queries
    and keys of each stage's attention, of a MiT. peak_memory: bytes on the GPU, None on a CPU.
    """

    gmacs: float
    gflops: float
    gmacs_all: float
    params: int
    images_per_second: float
    images_per_second_to_labels: float
    tokens_per_layer: list[float] | None
    parts: dict[str, float]
    parts_all: dict[str, float]
    peak_memory: int | None
    tokens_per_stage: list[dict[str, int]] | None = None


@dataclass(frozen=True)
class Run:
    """A network and its plain counterpart at one shape and batch size.

    images: how many different images were measured. plain: the same object as model when that reduces nothing.
    ratios: plain over model: work (gmacs), work_all (gmacs_all), work_to_scores (gmacs without the enlargement), time
        (to scores), time_to_labels; efficiency = time / work_to_scores, the share of the saved work that became saved
        time; time_over_published, of the plain network with attention as published.
    published_images_per_second: of the plain network with attention as published; None where that was not timed.
    shares: of the time to scores that merging and restoring take (apis.timing.scope_shares).
    unknown: operators whose cost no counting rule knows. labels: what images become in the end, 'labels' or 'poses'.
    """

    shape: tuple[int, int]
    batch_size: int
    images: int
    rule: str
    model: Measured
    plain: Measured
    ratios: dict[str, float] | None = None
    published_images_per_second: float | None = None
    shares: dict[str, float] | None = None
    unknown: tuple[str, ...] = ()
    labels: str = 'labels'

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, lists and strings."""
        return dict(
            shape=list(self.shape),
            batch_size=self.batch_size,
            images=self.images,
            count=self.rule,
            model=asdict(self.model),
            plain=asdict(self.plain),
            ratios=self.ratios,
            published_images_per_second=self.published_images_per_second,
            shares=self.shares,
            unknown_operators=list(self.unknown),
            labels=self.labels,
        )


def ratios_of(measured: dict[str, Measured], times: dict[str, Seconds]) -> dict[str, float] | None:
    """What Run.ratios holds; None without a plain network beside the model."""
    if 'plain' not in measured:
        return None
    model, plain = measured['model'], measured['plain']
    work_to_scores = (plain.gmacs - plain.parts.get('enlargement', 0)) / (
        model.gmacs - model.parts.get('enlargement', 0)
    )
    time = times['plain'].scores / times['model'].scores
    ratios = dict(
        work=plain.gmacs / model.gmacs,
        work_all=plain.gmacs_all / model.gmacs_all,
        work_to_scores=work_to_scores,
        time=time,
        time_to_labels=times['plain'].labels / times['model'].labels,
        efficiency=time / work_to_scores,
    )
    if 'published' in times:
        ratios['time_over_published'] = times['published'].scores / times['model'].scores
    return ratios

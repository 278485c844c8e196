"""Segmenter's learning-rate schedule: polynomial decay to a floor, with an optional warm-up."""

from __future__ import annotations

from mmengine.optim import _ParamScheduler
from mmengine.optim.scheduler.param_scheduler import INF, OptimizerType

from mmseg_tr.errors import ConfigError
from mmseg_tr.reduction.checks import check_integer, check_number
from mmseg_tr.registry import PARAM_SCHEDULERS


def polynomial_lr(
    t: int,
    base_lr: float,
    iter_max: int,
    iter_warmup: int = 0,
    min_lr: float = 1e-5,
    power: float = 0.9,
    step_size: int = 1,
    published_start: bool = False,
) -> float:
    """Return the learning rate of update `t`, counted from 0.

    (base_lr - min_lr) * (1 - t / iter_max) ** power + min_lr, and constant after `iter_max`. During a warm-up
    t / iter_warmup * (1 - iter_warmup / iter_max) ** power replaces the power term, so that both meet at its end, and
    update 0 uses `min_lr`; with `published_start` it uses `base_lr`, as in the published code. With a `step_size`
    above 1 the rate moves only at updates that are its multiples.
    """
    moved_at = min(t, iter_max) // step_size * step_size  # the last update at which the rate changed
    if moved_at == 0 and (published_start or not iter_warmup):
        return base_lr
    if moved_at < iter_warmup:
        decay = moved_at / iter_warmup * (1 - iter_warmup / iter_max) ** power
    else:
        decay = (1 - moved_at / iter_max) ** power
    return (base_lr - min_lr) * decay + min_lr


@PARAM_SCHEDULERS.register_module()
class SegmenterPolyLR(_ParamScheduler):
    """`polynomial_lr` for every parameter group, each from its own initial learning rate.

    Unlike mmengine's PolyLR it is a closed form, so that it cannot drift from the published values, and it reaches
    `eta_min` at update `end` itself. Say ``by_epoch=False`` in the config even though it is the default here: where it
    is absent mmengine's Runner takes the number of epochs, not of updates, as the `end` that is not given.

    eta_min: the learning rate that the decay ends at.
    power: exponent of the decay.
    begin, end: updates (epochs with `by_epoch`) between which the decay runs.
    warmup: updates that the warm-up takes; 0 for none. published_start: its first update uses the full rate.
    step_size: the rate changes only every so many updates.
    last_step, verbose: as in every mmengine scheduler.
    Raises ConfigError when a setting is out of range, or the schedule's length is not known.
    """

    def __init__(
        self,
        optimizer: OptimizerType,
        eta_min: float = 1e-5,
        power: float = 0.9,
        begin: int = 0,
        end: int = INF,
        warmup: int = 0,
        step_size: int = 1,
        by_epoch: bool = False,
        last_step: int = -1,
        verbose: bool = False,
        published_start: bool = False,
    ):
        self.eta_min, self.power, self.warmup, self.step_size = eta_min, power, warmup, step_size
        self.published_start = published_start
        self.length = end - begin
        self._check(end)
        # mmengine omits the last update; the published schedule still changes there, to eta_min
        super().__init__(optimizer, 'lr', begin, end + 1, last_step, by_epoch, verbose)

    @classmethod
    def build_iter_from_epoch(
        cls, *args, begin: int = 0, end: int = INF, warmup: int = 0, by_epoch: bool = True, epoch_length: int, **kwargs
    ) -> SegmenterPolyLR:
        """Build the schedule with epochs converted to updates, for ``convert_to_iter_based=True``."""
        if not by_epoch:
            raise ConfigError('SegmenterPolyLR: convert_to_iter_based needs by_epoch=True, got by_epoch=False')
        end = end if end == INF else end * epoch_length
        return cls(*args, begin=begin * epoch_length, end=end, warmup=warmup * epoch_length, by_epoch=False, **kwargs)

    def load_state_dict(self, state_dict: dict) -> None:
        """Restore the position in the schedule, not its settings: on resume, the config's schedule applies."""
        for key in ('base_values', 'last_step', '_global_step'):
            setattr(self, key, state_dict[key])
        if self.begin <= self._global_step < self.end:
            for group, value in zip(self.optimizer.param_groups, self._get_value()):
                group[self.param_name] = value
        self._last_value = [group[self.param_name] for group in self.optimizer.param_groups]

    def _get_value(self) -> list[float]:
        return [
            polynomial_lr(
                self.last_step,
                base,
                self.length,
                self.warmup,
                self.eta_min,
                self.power,
                self.step_size,
                self.published_start,
            )
            for base in self.base_values
        ]

    def _check(self, end: int) -> None:
        if end == INF:
            raise ConfigError('SegmenterPolyLR needs end, the update at which the learning rate reaches eta_min')
        if self.length < 1:
            raise ConfigError(f'SegmenterPolyLR: end={end} must be above begin={end - self.length}')
        check_integer('SegmenterPolyLR: warmup', self.warmup, 0, self.length, hint='the length of the schedule')
        check_integer('SegmenterPolyLR: step_size', self.step_size, 1)
        for name in ('eta_min', 'power'):
            check_number(f'SegmenterPolyLR: {name}', getattr(self, name), 0)

"""What the command lines of tools/ share: their common options, and mistakes told in one sentence."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from mmseg_tr.errors import (
    CheckpointError,
    ConfigError,
    DatasetError,
    DeviceError,
    ExportError,
    MissingExtraError,
    require_extra,
)

MISTAKES = (CheckpointError, ConfigError, DatasetError, DeviceError, ExportError, MissingExtraError)
LAUNCHERS = ('none', 'pytorch', 'slurm', 'mpi')


def run_tool(main: Callable[[Sequence[str] | None], None], argv: Sequence[str] | None = None) -> int:
    """Run a tool's `main`; return its exit status.

    0 when it is done, 2 when the user's input or machine cannot be used: then one sentence stands on stderr. Any other
    exception is a fault of this package and keeps its traceback.
    """
    status = _status_of(main, argv)
    distributed = sys.modules.get('mmseg_tr.engine.distributed')  # torch is not imported for a tool that did without
    if distributed is not None:
        distributed.end_process(status)
    return status


def _status_of(main: Callable[[Sequence[str] | None], None], argv: Sequence[str] | None) -> int:
    tool = Path(sys.argv[0]).name
    try:
        main(argv)
    except MISTAKES as error:
        print(f'{tool}: {sentence(error)}', file=sys.stderr, flush=True)
        return 2
    except OSError as error:  # a folder that cannot be written, a full disk
        where = f'{error.filename}: ' if error.filename else ''
        print(f'{tool}: {where}{error.strerror or error}', file=sys.stderr, flush=True)
        return 2
    except KeyboardInterrupt:
        print(f'{tool}: interrupted', file=sys.stderr, flush=True)
        return 130
    return 0


def sentence(error: BaseException) -> str:
    """The message of `error`, without the traceback that a DataLoader's worker process wraps around it."""
    text = str(error).strip()
    if 'Original Traceback' in text:
        marker = f'{type(error).__module__}.{type(error).__qualname__}: '
        text = text.rpartition(marker)[2] or text.splitlines()[-1]
    return ' '.join(text.split())


def require_openmmlab(purpose: str) -> None:
    """Raise MissingExtraError, naming the extra, unless what runs segmentation configs is installed."""
    for module in ('mmengine', 'mmcv', 'mmseg'):
        require_extra('seg', module, purpose)


def common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that tools/train.py and tools/test.py share, under the names that OpenMMLab's users know."""
    parser.add_argument('--work-dir', help='folder for logs and results (default: work_dirs/ and the name of CONFIG)')
    parser.add_argument('--amp', action='store_true', help='mixed precision: float16 on a GPU, bfloat16 on a CPU')
    cfg_options_argument(parser)
    parser.add_argument('--launcher', choices=LAUNCHERS, default='none', help='what started the processes')
    # torchrun's predecessor hands the local rank over as an argument
    parser.add_argument('--local_rank', '--local-rank', type=int, help=argparse.SUPPRESS)


def cfg_options_argument(parser: argparse.ArgumentParser) -> None:
    """Add --cfg-options."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=_key_values(),
        metavar='KEY=VALUE',
        help='settings that replace those of the config, such as train_cfg.max_iters=100 or key="[(a,b),(c,d)]"',
    )


def export_local_rank(args: argparse.Namespace) -> None:
    """Put the local rank where mmengine looks for it."""
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank or 0))


def _key_values() -> type[argparse.Action]:
    """mmengine's parser of key=value pairs, its exceptions turned into the parser's own error."""
    from mmengine.config import DictAction

    class KeyValues(DictAction):
        def __call__(self, parser, namespace, values, option_string=None):
            try:
                super().__call__(parser, namespace, values, option_string)
            except (ValueError, AssertionError, IndexError):
                parser.error(f'{option_string} takes key=value pairs, got {" ".join(values)}')

    return KeyValues

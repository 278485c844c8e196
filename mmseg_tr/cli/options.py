"""Common options of the command lines in tools/, and error reporting in one sentence."""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from mmseg_tr import signals
from mmseg_tr.console import LINE
from mmseg_tr.errors import ConfigError, InputError, Interrupted, WriteError, chain, require_extra
from mmseg_tr.paths import find_config
from mmseg_tr.values import read_value

# Options that are not the parameter's name with dashes; `option_name` derives the others.
OPTION_NAMES = {
    'average': '--average-counts',
    'batch_sizes': '--batch-size',
    'budget': '--fixed',
    'comparison': '--compare',
    'compiled': '--compile',
    'file_name': '--name',
    'form': '--format',
    'fraction': '--frac-dataset',
    'loss': '--budget-miou',
    'metrics': '--eval',
    'reductions': '--reduction',
    'rule': '--count',
    'shapes': '--shape',
}
LAUNCHERS = ('none', 'pytorch', 'slurm', 'mpi')


def run_tool(
    main: Callable[[Sequence[str] | None], None],
    argv: Sequence[str] | None = None,
    resume: Callable[[], str] | None = None,
) -> int:
    """Run a tool's `main`; return its exit status.

    0 when it is done, 2 when the user's input or machine cannot be used, with one sentence on stderr. Any other
    exception is a fault of this package and keeps its traceback. Ctrl-C and the signals that end a program give one
    line and 128 plus the signal's number. resume: returns the command that continues what was interrupted.
    """
    logging.raiseExceptions = False  # no traceback for every line of a log file on a full disk
    os.environ['MMSEG_TR_TOOL'] = '1'  # for engine.terminal
    try:
        with signals.raised_once():
            status = _status_of(main, argv, resume)
    finally:
        os.environ.pop('MMSEG_TR_TOOL', None)
    if status > 128:
        signals.ignore()
    distributed = sys.modules.get('mmseg_tr.engine.distributed')  # do not import torch for a tool that did not
    if distributed is not None:
        distributed.end_process(status)
    return status


def _status_of(
    main: Callable[[Sequence[str] | None], None], argv: Sequence[str] | None, resume: Callable[[], str] | None
) -> int:
    # which Python hides by default
    warnings.filterwarnings('default', '.* is deprecated and will be removed in', DeprecationWarning)
    try:
        main(argv)
    except SystemExit:
        raise
    except BaseException as error:
        number = signals.stopped_by(error)
        if number is not None:
            if os.environ.get('RANK', os.environ.get('SLURM_PROCID', '0')) == '0':
                _say(_stopped(error, resume))
            return 128 + number
        if isinstance(error, InputError | WriteError):
            _say(sentence(error))
        elif isinstance(error, OSError):
            _say(f'{f"{error.filename}: " if error.filename else ""}{error.strerror or error}')
        else:
            raise
        return 2
    return 0


def _say(text: str) -> None:
    LINE.close()
    print(f'{Path(sys.argv[0]).name}: {text}', file=sys.stderr, flush=True)


def _stopped(error: BaseException, resume: Callable[[], str] | None) -> str:
    """Return the message after a signal: what was kept, and how to continue."""
    kept = next((one for one in chain(error) if isinstance(one, Interrupted)), None)
    text = str(kept) if kept is not None else 'interrupted'
    return f'{text}; continue with {resume()}' if resume is not None and getattr(kept, 'resumable', False) else text


def sentence(error: BaseException) -> str:
    """Return the message of `error` with options in place of parameters, without a DataLoader worker's traceback."""
    text = str(error).strip()
    if 'Original Traceback' in text:
        marker = f'{type(error).__module__}.{type(error).__qualname__}: '
        text = text.rpartition(marker)[2] or text.splitlines()[-1]
    for name in getattr(error, 'parameters', ()):
        text = re.sub(rf'(?<![\w./-]){re.escape(name)}(?!\w|\.\w)', option_name(name), text, count=1)
    return ' '.join(text.split())


def option_name(parameter: str) -> str:
    """Return the option, or positional argument, that sets a parameter: 'work_dir' -> '--work-dir'."""
    return OPTION_NAMES.get(parameter, f'--{parameter.replace("_", "-")}')


def require_openmmlab(purpose: str, *configs: str | None) -> None:
    """Raise MissingExtraError, naming the extra, unless the packages that run configs are installed.

    configs: those that were named. Raises ConfigError for one that does not exist, seconds before what runs it is
    imported.
    """
    for module in ('mmengine', 'mmcv', 'mmseg'):
        require_extra('seg', module, purpose)
    for config in filter(None, configs):
        find_config(Path(config))


def common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that tools/train.py and tools/test.py share, under OpenMMLab's names."""
    parser.add_argument('--work-dir', help='folder for logs and results (default: work_dirs/ and the name of CONFIG)')
    parser.add_argument('--amp', action='store_true', help='mixed precision: float16 on a GPU, bfloat16 on a CPU')
    verbose_argument(parser)
    cfg_options_argument(parser)
    parser.add_argument('--launcher', choices=LAUNCHERS, default='none', help='what started the processes')
    # torch.distributed.launch passes the local rank as an argument
    parser.add_argument('--local_rank', '--local-rank', type=int, help=argparse.SUPPRESS)


def cfg_options_argument(parser: argparse.ArgumentParser) -> None:
    """Add --cfg-options."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=KeyValues,
        metavar='KEY=VALUE',
        help='settings that replace those of the config, such as train_cfg.max_iters=100 or '
        '"model.backbone.reduction=dict(type=\'ALGM\', layers=(1, 5))"',
    )


def verbose_argument(parser: argparse.ArgumentParser) -> None:
    """Add -v, which brings the output of OpenMMLab's packages to the terminal."""
    parser.add_argument(
        '-v',
        '--verbose',
        action=Verbose,
        nargs=0,
        default=argparse.SUPPRESS,  # the other arguments may be the settings of a function
        help='show everything that the packages below print, as it comes',
    )


class Verbose(argparse.Action):
    """Sets the variable that mmseg_tr.engine.terminal reads, here and in data-loading processes."""

    def __call__(self, parser, namespace, values, option_string=None):
        os.environ['MMSEG_TR_VERBOSE'] = '1'


def reduction_argument(parser: argparse.ArgumentParser) -> None:
    """Add --reduction."""
    parser.add_argument(
        '--reduction',
        metavar='METHOD',
        help="over the config's: a name (tome), settings (type=ToMe,r=8, or r=8 for those of the config's method), or "
        'None for the plain model; `mmseg-tr methods` lists them',
    )


def model_argument(parser: argparse.ArgumentParser) -> None:
    """Add --model."""
    parser.add_argument(
        '--model',
        metavar='NAME',
        help='in place of a config, a network of another library: timm:NAME or transformers:FOLDER_OR_NAME',
    )


def check_source(configs: object, model: str | None) -> None:
    """Raise ConfigError unless there is either a config or a model."""
    if bool(configs) == bool(model):
        given = 'both' if configs else 'neither'
        raise ConfigError(f'either a config or --model must be given, got {given}.')


def export_local_rank(args: argparse.Namespace) -> None:
    """Set the local rank in the environment, where mmengine reads it."""
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank or 0))


class KeyValues(argparse.Action):
    """Collect KEY=VALUE pairs in a dict; values.read_value parses the values."""

    def __call__(self, parser, namespace, values, option_string=None):
        found = dict(getattr(namespace, self.dest) or {})
        for pair in values:
            key, equals, text = pair.partition('=')
            if not (key and equals):
                parser.error(f'{option_string} takes KEY=VALUE pairs, got {pair!r}')
            try:
                found[key] = read_value(text)
            except ValueError as error:
                parser.error(f'{option_string} {pair} cannot be read: {error}')
        setattr(namespace, self.dest, found)

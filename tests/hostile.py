"""Hostile files of weights by every way in: nothing of them runs, memory stays bounded, one sentence.

python -m tests.hostile [PART [SECONDS]] prints a line for every fault and the counts. PART: of the name of a way or
kind; the order is drawn, so that any number of seconds takes a sample of all.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import pickle
import random
import re
import resource
import signal
import struct
import sys
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import mmengine.config.config
import numpy as np
import torch
from mmengine.logging.history_buffer import HistoryBuffer
from safetensors.torch import save, save_file

from mmseg_tr import Predictor, from_pretrained, loader
from mmseg_tr.apis.train import train
from mmseg_tr.checkpoints import folder as folders
from mmseg_tr.errors import InputError, WriteError
from mmseg_tr.hosts.named import open_model
from mmseg_tr.weights.io import as_safetensors, read_file
from tests.datasets.prepare.server import Server, serve
from tests.tiny import write_config, write_dataset
from tests.tools.command import call

MOST = 1 << 30  # bytes that a trial may add to the process
SECONDS = 60
KNOWN = ('loads', 'refused')


class Mark:
    """Unpickles as a call that leaves a mark."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@dataclass
class Room:
    """A folder with a tiny data set, its config and a checkpoint; mark: what code out of a file would leave."""

    folder: Path
    config: Path
    checkpoint: Path
    content: dict[str, Any]
    server: Server

    @property
    def mark(self) -> Path:
        return self.folder / 'mark'

    def python(self) -> str:
        return f"_x = __import__('pathlib').Path({str(self.mark)!r}).touch()\n"


@contextlib.contextmanager
def room(folder: Path) -> Iterator[Room]:
    """Make the data set and train for two iterations."""
    config = write_config(folder, write_dataset(folder / 'data', count=2))
    with quiet():
        train(str(config), work_dir=str(folder / 'first'), cfg_options={'train_cfg.max_iters': 2})
    checkpoint = folder / 'first' / 'iter_2.pth'
    (folder / 'served').mkdir()
    with serve(folder / 'served') as server:
        yield Room(folder, config, checkpoint, torch.load(checkpoint, weights_only=True), server)


@contextlib.contextmanager
def quiet() -> Iterator[io.StringIO]:
    """What is printed, on stderr, without warnings."""
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        yield said


# kinds of files: what of a good checkpoint is replaced, by the path to its place


def replaced(content: Any, place: tuple[str, ...], value: Any) -> Any:
    """A copy of nested dicts with another value at a place."""
    if not place:
        return value
    return {**content, place[0]: replaced(content.get(place[0], {}), place[1:], value)}


def saved(place: tuple[str, ...], value: Callable[[Room], Any], **options: Any) -> Callable[[Room, Path], None]:
    """A file of torch.save that holds another value at a place."""
    return lambda here, path: torch.save(replaced(here.content, place, value(here)), path, **options)


def first_key(content: dict[str, Any]) -> str:
    return 'backbone.blocks.0.attn.qkv.weight' if 'state_dict' in content else next(iter(content))


def weight(change: Callable[[torch.Tensor], Any]) -> Callable[[Room, Path], None]:
    """A checkpoint with one tensor changed."""

    def write(here: Room, path: Path) -> None:
        key = first_key(here.content)
        torch.save(replaced(here.content, ('state_dict', key), change(here.content['state_dict'][key])), path)

    return write


def changed(change: Callable[[bytearray], bytes | bytearray], **options: Any) -> Callable[[Room, Path], None]:
    """A good checkpoint whose bytes are changed."""

    def write(here: Room, path: Path) -> None:
        torch.save(here.content, path, **options)
        path.write_bytes(change(bytearray(path.read_bytes())))

    return write


def bytes_of(content: bytes | Callable[[Room], bytes]) -> Callable[[Room, Path], None]:
    return lambda here, path: path.write_bytes(content(here) if callable(content) else content) and None


def flipped(seed: int, count: int) -> Callable[[bytearray], bytearray]:
    def flip(content: bytearray) -> bytearray:
        chance = random.Random(seed)
        for _ in range(count):
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        return content

    return flip


def rezipped(
    edit: Callable[[str, bytes], tuple[str, bytes]] = lambda name, record: (name, record),
    compress: int = zipfile.ZIP_STORED,
    more: Callable[[zipfile.ZipFile], Any] = lambda archive: None,
) -> Callable[[Room, Path], None]:
    """A good checkpoint whose archive is written anew."""

    def write(here: Room, path: Path) -> None:
        with zipfile.ZipFile(here.checkpoint) as archive:
            records = [edit(name, archive.read(name)) for name in archive.namelist()]
        with zipfile.ZipFile(path, 'w', compress) as archive, warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of names that stand twice
            for name, record in records:
                archive.writestr(name, record)
            more(archive)

    return write


def pickled(record: Callable[[bytes], bytes]) -> Callable[[Room, Path], None]:
    return rezipped(lambda name, old: (name, record(old) if name.endswith('data.pkl') else old))


def encrypted(content: bytearray) -> bytearray:
    for start, place in ((b'PK\x03\x04', 6), (b'PK\x01\x02', 8)):
        at = content.find(start)
        while at >= 0:
            content[at + place] |= 1
            at = content.find(start, at + 4)
    return content


def number(value: int) -> bytes:
    return b'\x8a\x08' + struct.pack('<q', value)


def deep(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def weights_as_safetensors(meta: Any) -> Callable[[Room, Path], None]:
    """A .safetensors file with this meta; the path's suffix is changed by `file_of`."""
    return lambda here, path: path.write_bytes(as_safetensors({**here.content, 'meta': meta})) and None


def header(text: bytes, length: int | None = None) -> Callable[[Room, Path], None]:
    return bytes_of(struct.pack('<Q', len(text) if length is None else length) + text)


def flipped_safetensors(here: Room, path: Path) -> None:
    save_file(here.content['state_dict'], path)
    path.write_bytes(flipped(7, 3)(bytearray(path.read_bytes())))


CODE = {
    'touch': lambda here: Mark(Path.touch, here.mark),
    'os.system': lambda here: Mark(os.system, f'touch {here.mark}'),
    'eval': lambda here: Mark(eval, here.python().partition('= ')[2].strip()),
    'exec': lambda here: Mark(exec, here.python()),
    'getattr': lambda here: Mark(getattr, Path(here.mark), 'touch'),
    'torch.load': lambda here: Mark(torch.load, str(here.mark)),
    'partial': lambda here: functools.partial(os.system, f'touch {here.mark}'),
}
PLACES = [('state_dict', 'x'), ('optimizer',), ('meta', 'cfg'), ('meta', 'config'), ('message_hub', 'x'), ('x',), ()]
STATE = ('state_dict',)
KINDS: dict[str, Callable[[Room, Path], None]] = {
    **{f'code: {name} in the weights': saved(('state_dict', 'x'), code) for name, code in CODE.items()},
    **{f'code: in {"/".join(place) or "place of all"}': saved(place, CODE['touch']) for place in PLACES},
    'code: in the curves': saved(
        ('message_hub', 'log_scalars'), lambda here: {'a': HistoryBuffer([1.0], [1]), 'x': Mark(Path.touch, here.mark)}
    ),
    'code: older format': saved(('x',), CODE['touch'], _use_new_zipfile_serialization=False),
    **{
        f'code: bare pickle, protocol {protocol}': bytes_of(
            lambda here, protocol=protocol: pickle.dumps(Mark(Path.touch, here.mark), protocol=protocol)
        )
        for protocol in (0, 2, 5)
    },
    **{
        f'python text: {"/".join(place)}': saved(place, lambda here: here.python() + here.content['meta']['cfg'])
        for place in (('meta', 'cfg'), ('meta', 'config'), ('message_hub', 'runtime_info', 'cfg'), ('cfg',))
    },
    'python text: a type that is called': saved(
        ('meta', 'cfg'), lambda here: f'model = dict(type="os.system", command="touch {here.mark}")'
    ),
    'python text: alone': saved(('meta', 'cfg'), lambda here: here.python()),
    'bomb: expanded to 1e15': saved(('state_dict', 'x'), lambda here: torch.zeros(1).expand(10**15)),
    'bomb: a weight expanded': weight(lambda w: torch.zeros(1, 1).expand(10**7, 10**7)),
    'bomb: strides of 0': saved(('meta', 'x'), lambda here: torch.zeros(1).as_strided((10**6, 10**6), (0, 0))),
    'bomb: bytearray of 1e12': pickled(lambda old: b'\x80\x02c__builtin__\nbytearray\n' + number(10**12) + b'\x85R.'),
    'bomb: storage of 1e15': pickled(
        lambda old: old.replace(b'M\x00\x0c', number(10**15)).replace(b'K ', number(10**15))
    ),
    'bomb: zip of zeros': rezipped(compress=zipfile.ZIP_DEFLATED, more=lambda z: z.writestr('archive/x', bytes(10**8))),
    'bomb: long text': saved(('meta', 'cfg'), lambda here: 'x = [' + '[' * 5000 + ']' * 5000 + ']'),
    'bomb: text of doubled lists': saved(
        ('meta', 'cfg'), lambda here: 'a0 = [1]\n' + ''.join(f'a{i + 1} = [a{i}, a{i}]\n' for i in range(90))
    ),
    'nesting: 200 lists': saved(('meta', 'x'), lambda here: deep(200)),
    'nesting: 200,000 lists': pickled(lambda old: b'\x80\x02' + b']' * 200_000 + b'a' * 199_999 + b'.'),
    'archive: encrypted': changed(encrypted),
    'archive: deflated': rezipped(compress=zipfile.ZIP_DEFLATED),
    'archive: bzip2': rezipped(compress=zipfile.ZIP_BZIP2),
    'archive: lzma': rezipped(compress=zipfile.ZIP_LZMA),
    'archive: another method': changed(
        lambda c: re.sub(rb'(PK\x01\x02.{6})..', lambda m: m[1] + b'c\0', bytes(c), flags=re.DOTALL)
    ),
    'archive: names that climb': rezipped(more=lambda z: z.writestr('../../../../tmp/x', 'x')),
    'archive: a deep name': rezipped(more=lambda z: z.writestr('a/' * 2000 + 'x', 'x')),
    'archive: 5,000 records': rezipped(more=lambda z: [z.writestr(f'archive/data/x{i}', '') for i in range(5000)]),
    'archive: two data.pkl': rezipped(more=lambda z: z.writestr('other/data.pkl', b'\x80\x02]q\x00.')),
    'archive: no records': bytes_of(b'PK\x05\x06' + bytes(18)),
    'archive: other zip': lambda here, path: zipfile.ZipFile(path, 'w').writestr('hello.txt', 'hello'),
    'archive: TorchScript': lambda here, path: torch.jit.script(torch.nn.Linear(2, 2)).save(str(path)),
    'archive: records missing': rezipped(lambda name, old: (name.replace('data/0', 'data/00'), old)),
    **{
        f'damage: {count} flipped bits, {seed}': changed(flipped(seed, count))
        for seed, count in ((0, 1), (1, 1), (2, 1), (3, 9), (4, 999))
    },
    **{
        f'damage: cut at {share}': changed(lambda c, share=share: c[: int(len(c) * share)])
        for share in (0.01, 0.5, 0.999)
    },
    'damage: zeros': changed(lambda c: bytes(len(c))),
    'damage: zeros in the middle': changed(lambda c: c[:2000] + bytes(9000) + c[11000:]),
    'damage: older format, cut': changed(lambda c: c[: len(c) // 2], _use_new_zipfile_serialization=False),
    'damage: older format, flipped': changed(flipped(5, 20), _use_new_zipfile_serialization=False),
    'foreign: empty': bytes_of(b''),
    'foreign: HTML': bytes_of(b'<!DOCTYPE html><html><body>404</body></html>'),
    'foreign: text': bytes_of('ä text'.encode('latin-1')),
    'foreign: a picture': lambda here, path: (
        path.write_bytes((here.folder / 'data/images/00.png').read_bytes()) and None
    ),
    'foreign: a folder': lambda here, path: path.mkdir(),
    'foreign: npz': lambda here, path: np.savez(path.open('wb'), pos_embedding=np.zeros((1, 5, 4))),
    'foreign: a config': bytes_of(lambda here: here.python().encode()),
    'foreign: gzip': bytes_of(b'\x1f\x8b\x08' + bytes(50)),
    **{
        f'content: {value!r:.20}': saved((), lambda here, value=value: value)
        for value in (
            None,
            5,
            'x',
            [],
            {},
            [1, 2],
            {'state_dict': None},
            {'state_dict': {}},
            {'state_dict': {1: 2}},
            {1: 2},
        )
    },
    'weights: sparse': weight(lambda w: w.to_sparse()),
    'weights: CSR': weight(lambda w: w.to_sparse_csr()),
    'weights: quantized': weight(lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8)),
    'weights: complex': weight(lambda w: w.to(torch.complex64)),
    'weights: bool': weight(lambda w: w > 0),
    'weights: int64': weight(lambda w: w.long()),
    'weights: float8': weight(lambda w: w.to(torch.float8_e4m3fn)),
    'weights: on meta': weight(lambda w: w.to('meta')),
    'weights: NaN': weight(lambda w: w * float('nan')),
    'weights: another shape': weight(lambda w: w[:3]),
    'weights: a number': weight(lambda w: 5),
    'weights: None': weight(lambda w: None),
    'weights: a list': weight(lambda w: [1.0]),
    'weights: nested': weight(lambda w: torch.nested.nested_tensor([w[0], w[1, :3]])),
    'weights: a name with colours': saved(('state_dict', '\x1b[31m\nx'), lambda here: torch.zeros(1)),
    'weights: a name that is a number': saved(STATE, lambda here: {**here.content['state_dict'], 5: torch.zeros(1)}),
    **{f'meta: {value!r:.20}': saved(('meta',), lambda here, value=value: value) for value in (None, 5, [], {}, 'x')},
    **{
        f'meta: {"/".join(place)}={value!r:.20}': saved(('meta', *place), lambda here, value=value: value)
        for place in (
            ('iter',),
            ('epoch',),
            ('seed',),
            ('cfg',),
            ('dataset_meta',),
            ('dataset_meta', 'classes'),
            ('dataset_meta', 'palette'),
        )
        for value in (None, -1, 10**400, 10**9, float('nan'), 'red', [[0, 0, 999]], {'a': 1})
    },
    **{
        f'training: {"/".join(place)}={value!r:.20}': saved(place, lambda here, value=value: value)
        for place in (
            ('optimizer',),
            ('optimizer', 'state'),
            ('optimizer', 'param_groups'),
            ('message_hub',),
            ('message_hub', 'runtime_info'),
            ('message_hub', 'runtime_info', 'best_ckpt'),
            ('param_schedulers',),
        )
        for value in (None, 5, [], {}, 'data/images/00.png', {'a': [1]})
    },
    'safetensors: code in meta': weights_as_safetensors({'cfg': 'import os'}),
    'safetensors: nested meta': lambda here, path: (
        path.write_bytes(save(here.content['state_dict'], {'mmseg_tr.meta': '[' * 10**5})) and None
    ),
    'safetensors: meta of 5,000 digits': lambda here, path: (
        path.write_bytes(save(here.content['state_dict'], {'mmseg_tr.meta': '{"iter": ' + '9' * 5000 + '}'})) and None
    ),
    'safetensors: meta is a list': lambda here, path: (
        path.write_bytes(save(here.content['state_dict'], {'mmseg_tr.meta': '[]'})) and None
    ),
    'safetensors: length of 1e18': header(b'{}', 10**18),
    'safetensors: nested header': header(b'{"a":' * 10**5),
    'safetensors: offsets outside': header(
        json.dumps({'a': dict(dtype='F32', shape=[10**15], data_offsets=[0, 4 * 10**15])}).encode()
    ),
    'safetensors: shape that overflows': header(
        json.dumps({'a': dict(dtype='F32', shape=[2**40, 2**40], data_offsets=[0, 0])}).encode()
    ),
    'safetensors: a type of its own': header(
        json.dumps({'a': dict(dtype='X9', shape=[1], data_offsets=[0, 4])}).encode() + bytes(4)
    ),
    'safetensors: flipped': flipped_safetensors,
}
MUST = {
    'bomb': {'bomb: long text', 'bomb: text of doubled lists'},
    'archive': {'archive: names that climb', 'archive: a deep name', 'archive: 5,000 records', 'archive: two data.pkl'},
}


def file_of(kind: str, here: Room, name: str = 'hostile') -> Path:
    """The file of a kind, made anew."""
    path = here.folder / 'served' / f'{name}{".safetensors" if kind.startswith("safetensors") else ".pth"}'
    if path.is_dir():
        path.rmdir()
    path.unlink(missing_ok=True)
    KINDS[kind](here, path)
    return path


# ways in: what takes a path, or an address


def tool(name: str, *arguments: Any) -> Callable[[Room, str], None]:
    """Run a tool; {} in an argument is the file, {out} a new folder, {config} and {image} those of the room."""

    def run(here: Room, source: str) -> None:
        out = Path(tempfile.mkdtemp(dir=here.folder))
        places = dict(file=source, out=out, config=here.config, image=here.folder / 'data' / 'images' / '00.png')
        with quiet() as said:
            status = call(name, *(str(argument).format(**places) for argument in arguments))
        lines = [line for line in said.getvalue().splitlines() if line.startswith(Path(sys.argv[0]).name + ': ')]
        if status == 2 and len(lines) == 1:
            raise InputError(lines[0])
        if status not in (0, 1):
            raise AssertionError(f'status {status}: {said.getvalue()[-300:]}')

    return run


def within(function: Callable[[Room, str], Any]) -> Callable[[Room, str], None]:
    def run(here: Room, source: str) -> None:
        with quiet():
            function(here, source)

    return run


def as_last(here: Room, source: str) -> None:
    """The file lies in the work folder, which is resumed."""
    out = Path(tempfile.mkdtemp(dir=here.folder))
    if Path(source).is_file():
        (out / 'iter_2.pth').write_bytes(Path(source).read_bytes())
    (out / 'last_checkpoint').write_text(str(out / 'iter_2.pth'))
    tool('train', '{config}', '--work-dir', str(out), '--resume', '--cfg-options', *SHORT)(here, source)


def as_saved_folder(here: Room, source: str) -> None:
    """A folder of save_pretrained() whose weights are the file."""
    out = Path(tempfile.mkdtemp(dir=here.folder))
    folders.save_pretrained(here.checkpoint, out)
    if Path(source).is_file():
        (out / 'model.safetensors').write_bytes(Path(source).read_bytes())
    Predictor.from_pretrained(out, device='cpu')


# config.json of a tiny network of transformers
VIT = dict(
    architectures=['ViTModel'],
    model_type='vit',
    hidden_size=8,
    num_hidden_layers=1,
    num_attention_heads=1,
    intermediate_size=8,
    image_size=32,
    patch_size=16,
)


def as_transformers_folder(here: Room, source: str) -> None:
    """A folder of transformers whose weights are the file."""
    out = Path(tempfile.mkdtemp(dir=here.folder))
    (out / 'config.json').write_text(json.dumps(VIT))
    processor = dict(image_mean=[0.5] * 3, image_std=[0.5] * 3)
    (out / 'preprocessor_config.json').write_text(json.dumps(processor))
    if Path(source).is_file():
        name = 'model.safetensors' if source.endswith('.safetensors') else 'pytorch_model.bin'
        (out / name).write_bytes(Path(source).read_bytes())
    open_model(f'transformers:{out}')


def as_hook(here: Room, source: str) -> None:
    """A hook of mmengine's that loads a file when training starts."""
    from mmengine.hooks import Hook
    from mmengine.registry import HOOKS
    from mmengine.runner import load_checkpoint

    class Loads(Hook):
        def __init__(self, file: str) -> None:
            self.file = file

        def before_train(self, runner: Any) -> None:
            load_checkpoint(runner.model, self.file)

    HOOKS.register_module(name='LoadsHostile', module=Loads, force=True)
    out = Path(tempfile.mkdtemp(dir=here.folder))
    hook = [dict(type='LoadsHostile', file=source)]
    train(str(here.config), work_dir=str(out), cfg_options={'custom_hooks': hook, 'train_cfg.max_iters': 1})


SHORT = ('train_cfg.max_iters=3', 'train_cfg.val_interval=100')
PRETRAINED = "\"model.backbone.init_cfg=dict(type='Pretrained', checkpoint='{file}', prefix='backbone.')\""
NEW = ('--work-dir', '{out}/new', '--cfg-options', *SHORT)
WAYS: dict[str, Callable[[Room, str], None]] = {
    'test': tool('test', '{config}', '{file}', '--work-dir', '{out}'),
    'train --resume': tool('train', '{config}', '--resume', '{file}', *NEW),
    'train --resume, in the folder': within(as_last),
    'train --load-from': tool('train', '{config}', '--load-from', '{file}', *NEW),
    'load_from=': tool('train', '{config}', *NEW, 'load_from={file}'),
    'pretrained=': tool('train', '{config}', *NEW, 'model.backbone.pretrained={file}'),
    'init_cfg=': tool('train', '{config}', *NEW, PRETRAINED.strip('"').replace('{file}', '{file}')),
    'policy_checkpoint=': tool(
        'train',
        '{config}',
        *NEW,
        "model.backbone.reduction=dict(type='CTS', shared=1, policy_checkpoint='{file}')",
    ),
    'a hook': within(as_hook),
    'export': tool('export', '{config}', '{file}', '{out}/a.pt2'),
    'convert_checkpoint': tool('convert_checkpoint', '{file}', '{out}/new.pth'),
    'convert_checkpoint to mmseg': tool('convert_checkpoint', '{file}', '{out}/new.pth', '--to', 'mmseg'),
    'report': tool(
        'report', '{config}', '--checkpoint', '{file}', '--out', '{out}/a.html', '--scenes', 1, '--reduction', 'algm'
    ),
    'infer': tool('infer', '{config}', '{file}', '{image}', '{out}/masks'),
    'compare': tool(
        'compare',
        '{config}',
        '--methods',
        'algm',
        '--checkpoint',
        '{file}',
        '--out',
        '{out}/c',
        '--images',
        1,
        '--repeats',
        1,
        '--batch-size',
        1,
        '--frac-dataset',
        0.5,
    ),
    'tune': tool(
        'tune',
        '{config}',
        '{file}',
        '--reduction',
        'algm',
        '--speed-up',
        1.0,
        '--images',
        1,
        '--repeats',
        1,
        '--batch-size',
        1,
        '--out',
        '{out}/t.py',
        '--work-dir',
        '{out}/w',
    ),
    'show_merging': tool('show_merging', '{config}', '{file}', '{image}', '{out}/m'),
    'show_attention': tool('show_attention', '{config}', '{file}', '{image}', '{out}/a'),
    'Predictor': within(lambda here, source: Predictor(here.config, source, device='cpu')),
    'save_pretrained': within(
        lambda here, source: folders.save_pretrained(source, tempfile.mkdtemp(dir=here.folder), force=True)
    ),
    'Predictor.from_pretrained': within(as_saved_folder),
    'from_pretrained': within(lambda here, source: from_pretrained(source)),
    'open_model': within(as_transformers_folder),
}
ADDRESSES = ('train --load-from', 'load_from=', 'pretrained=', 'init_cfg=', 'policy_checkpoint=', 'a hook', 'Predictor')
SLOW = ('compare', 'tune', 'report', 'export')  # where a file loads


def limit_memory() -> None:
    """Let this process have 4 GB more than it has: what asks for more is a fault, and the machine stays usable."""
    used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (4 << 30), resource.getrlimit(resource.RLIMIT_AS)[1]))


def trial(run: Callable[[], None], mark: Path) -> str:
    """'loads', 'refused', or what else came of it."""
    before = peak()
    signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(TimeoutError('it does not end')))
    signal.alarm(SECONDS)
    try:
        run()
        found = 'loads'
    except (InputError, WriteError) as error:
        found = 'refused' if '\n' not in str(error).strip() else f'several lines: {error}'
    except BaseException as error:  # what is looked for
        if isinstance(error, KeyboardInterrupt):
            raise
        found = f'{type(error).__name__}: {str(error)[:200]}'.replace('\n', ' ')
    finally:
        signal.alarm(0)
    if mark.exists():
        mark.unlink()
        return 'CODE RAN'
    grown = peak() - before
    return found if grown < MOST else f'{grown >> 20} MB'


def peak() -> int:
    """The peak of this process' memory since the last call, in bytes."""
    lines = Path('/proc/self/status').read_text().splitlines()
    value = next(int(line.split()[1]) for line in lines if line.startswith('VmHWM'))
    with contextlib.suppress(OSError):
        Path('/proc/self/clear_refs').write_text('5')
    return value << 10


def outcome(here: Room, way: str, kind: str, address: str = '') -> str:
    """What comes of a kind of file by a way. address: 'http' or a hub's prefix, '' for the path."""
    path = file_of(kind, here)
    source, url = str(path), f'{here.server.url}/{path.name}'
    before = user_files(here)
    with mock.patch.dict(os.environ, MMSEG_TR_CACHE=tempfile.mkdtemp(dir=here.folder)):
        if address == 'http':
            source = url
        elif address:
            source = f'{address}model'
            with mock.patch.dict(loader.HUBS, {address: lambda: {'model': url}}):
                return trial(lambda: WAYS[way](here, source), here.mark)
        found = trial(lambda: WAYS[way](here, source), here.mark)
    if user_files(here) != before:
        return f'LOST: {before.items() ^ user_files(here).items()}'
    group = kind.partition(':')[0]
    if found == 'loads' and group in MUST and kind not in MUST[group] and way != 'from_pretrained':
        return 'loads what must be refused'
    if found == 'loads' and kind.startswith('damage') and 'older' not in kind:
        same = read_file(path)['state_dict'], here.content['state_dict']
        if not all(torch.equal(same[0][key], same[1][key]) for key in same[1]):
            return 'loads damaged weights'
    return found


def user_files(here: Room) -> dict[str, int]:
    """What is the user's: nothing of it may be lost or changed."""
    places = [here.config, *(here.folder / 'data').rglob('*.png'), *(here.folder / 'first').glob('*.pth')]
    return {str(path): path.stat().st_mtime_ns for path in places}


def sweep(here: Room, chosen: Callable[[str, str, str], bool]) -> Iterator[tuple[str, str, str, str]]:
    """Way, kind, address and outcome of the trials that are chosen."""
    trials = [
        (way, kind, address)
        for way in WAYS
        for address in ('', *(('http', *loader.HUBS) if way in ADDRESSES else ()))
        for kind in KINDS
        if chosen(way, kind, address)
    ]
    random.Random(0).shuffle(trials)
    for way, kind, address in trials:
        yield way, kind, address, outcome(here, way, kind, address)


def by_hand(part: str) -> Callable[[str, str, str], bool]:
    """All files by their path, every seventh by an address; of the many that differ in a number, other ones by way."""
    order = {name: place for names in (KINDS, WAYS) for place, name in enumerate(names)}

    def chosen(way: str, kind: str, address: str) -> bool:
        place = order[kind] + order[way]
        if part not in way and part not in kind:
            return False
        if kind.startswith(('meta', 'training')) and place % (16 if way in SLOW else 4):
            return False
        return not address or (place + len(address)) % 7 == 0

    return chosen


def main(part: str = '', seconds: str = 'inf') -> int:
    """Sweep for at most so many seconds; returns the number of faults."""
    torch.set_num_threads(1)
    mmengine.config.config.FormatCode = lambda text, **_: (text, True)
    counts: Counter[str] = Counter()
    kinds: dict[str, Counter[str]] = {}
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, room(Path(folder)) as here:
        limit_memory()
        for way, kind, address, found in sweep(here, by_hand(part)):
            told = found if found in KNOWN else 'faults'
            counts[told] += 1
            kinds.setdefault(kind.partition(':')[0], Counter())[told] += 1
            if told == 'faults':
                print(f'{way}, {kind}{", " if address else ""}{address} -> {found}', flush=True)
            if time.perf_counter() - start > float(seconds):
                break
    for group, count in kinds.items():
        print(f'{group}: {dict(count)}')
    print(
        f'{len(WAYS)} ways, {len(KINDS)} kinds: {sum(counts.values())} trials, {dict(counts)}, '
        f'{time.perf_counter() - start:.0f} s'
    )
    return counts['faults']


if __name__ == '__main__':
    sys.exit(min(main(*sys.argv[1:]), 1))

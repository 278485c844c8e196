"""Convert torch.export programs to ONNX files and run them under ONNX Runtime. Needs the extra `export`."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from mmseg_tr.apis.export.program import Program
from mmseg_tr.errors import ExportError, first_line, require_extra

OPSET = 18


def require_onnx() -> None:
    """Raise MissingExtraError unless everything that writing and checking ONNX files needs is installed."""
    for module in ('onnx', 'onnxscript', 'onnxruntime'):
        require_extra('export', module, 'to export a network as ONNX')


def write_onnx(program: torch.export.ExportedProgram, path: Path, description: Mapping[str, str] | None = None) -> None:
    """Translate a program to ONNX, weights included, with its description as metadata. Raises ExportError."""
    names = dict(input_names=['image'], output_names=['output'])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            translated = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=OPSET,
                verbose=False,
                custom_translation_table=translations(),
                **names,
            )
    except Exception as error:
        raise ExportError(f'this network cannot be translated to ONNX: {first_line(error)}') from error
    name_batch(translated.model)
    translated.model.metadata_props.update(description or {})
    translated.save(path)


def name_batch(model) -> None:
    """Rename the free axis, which the exporter numbers, to 'batch' in every shape of an ONNX model."""
    (image,) = model.graph.inputs
    numbered = re.compile(rf'\b{re.escape(str(image.shape[0]))}\b')
    values = [image, *model.graph.outputs, *(value for node in model.graph for value in node.outputs)]
    for value in values:
        for place, length in enumerate(value.shape or ()):
            if not isinstance(length, int) and length.value is not None:
                value.shape[place] = numbered.sub('batch', length.value)


def translations() -> dict[object, Callable]:
    """Return ONNX translations of operators that torch's exporter lacks."""
    from onnxscript import opset18 as op

    def sort_stable(self, stable=None, dim=-1, descending=False):
        """torch.sort(stable=True) as a TopK over all: among equals, ONNX puts the lower index first."""
        length = op.Shape(self, start=dim, end=None if dim == -1 else dim + 1)
        return op.TopK(self, length, axis=dim, largest=int(descending), sorted=1)

    return {torch.ops.aten.sort.stable: sort_stable}


def read_onnx(path: Path, threads: int | None = None) -> Program:
    """Load a file of write_onnx() into ONNX Runtime on the CPU. threads: by default one per core."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.add_session_config_entry('session.intra_op.allow_spinning', '0')  # idle threads would slow torch down
    session = onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
    return lambda image: torch.from_numpy(session.run(None, {session.get_inputs()[0].name: image.numpy()})[0])

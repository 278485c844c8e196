"""Sizes that keep the code readable, and no list of methods outside the methods' own room."""

import ast
import re
from pathlib import Path

import pytest

from mmseg_tr.analysis.mac_rules import ALIASES, RULES
from mmseg_tr.reduction import REDUCTIONS
from tests.clean import ROOT
from tests.sources import PACKAGE, files, modules, parse, short, walk

SOURCES = files(PACKAGE, 'tools', 'benchmarks')
LINES_OF_A_FILE, LINES_OF_A_FUNCTION, PARAMETERS = 300, 60, 8
FOLDER_SHARE = 0.25  # of the package's lines, sub-folders counted
# Where the methods live, where published formats are read, what trains CTS's policy, and what the demo shows.
NAMES_METHODS = (
    'mmseg_tr/reduction/', 'mmseg_tr/checkpoints/', 'mmseg_tr/weights/', 'mmseg_tr/models/seg/policy_trainer.py',
    'mmseg_tr/datasets/policy_labels.py', 'mmseg_tr/evaluation/policy_accuracy.py', 'mmseg_tr/apis/demo/',
)  # fmt: skip
CLASS_DECORATORS = re.compile(r'dataclass|register')


def long_files() -> list[str]:
    counts = {short(file): len(file.read_text().splitlines()) for file in SOURCES}
    return [f'{name}: {count} lines' for name, count in counts.items() if count > LINES_OF_A_FILE]


def functions(file: Path):
    """(function, the class around it or None) of a file."""
    for node, _ in walk(parse(file)):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                yield child, node if isinstance(node, ast.ClassDef) else None
    for child in parse(file).body:
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child, None


def long_functions() -> list[str]:
    return [
        f'{short(file)}:{function.lineno}: {function.name}() has {length} lines'
        for file in SOURCES
        for function, _ in functions(file)
        if (length := function.end_lineno - function.lineno + 1) > LINES_OF_A_FUNCTION
    ]


def parameters(function: ast.FunctionDef) -> list[str]:
    arguments = function.args
    named = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return [name for name in named if name not in ('self', 'cls')]


def built_from_a_config(owner: ast.ClassDef | None, registered: set[str]) -> bool:
    """Whether a class is an options object, is registered, or is a strategy."""
    if owner is None:
        return False
    decorated = any(CLASS_DECORATORS.search(ast.unparse(decorator)) for decorator in owner.decorator_list)
    bases = {ast.unparse(base) for base in owner.bases}
    return decorated or owner.name in registered or 'Reduction' in bases


def registered_elsewhere() -> set[str]:
    """Classes registered by REGISTRY.register_module(module=NAME)."""
    calls = [node for file in files(PACKAGE) for node in ast.walk(parse(file)) if isinstance(node, ast.Call)]
    given = [
        keyword for call in calls if ast.unparse(call.func).endswith('register_module') for keyword in call.keywords
    ]
    return {ast.unparse(keyword.value) for keyword in given if keyword.arg == 'module'}


def wide_functions() -> list[str]:
    registered = registered_elsewhere()
    return [
        f'{short(file)}:{function.lineno}: {function.name}() has {count} parameters'
        for file in SOURCES
        for function, owner in functions(file)
        if (count := len(parameters(function))) > PARAMETERS
        and not (function.name == '__init__' and built_from_a_config(owner, registered))
    ]


def method_names() -> list[str]:
    """Strings and identifiers that name a method, where methods should say of themselves what they are."""
    spellings = {spelling for name, method in REDUCTIONS.items() for spelling in (name, name.lower(), method.name)}
    spellings -= {*RULES, *ALIASES}  # rules of counting, which several methods share
    wrong = []
    for file in SOURCES:
        if short(file).startswith(NAMES_METHODS):
            continue
        tree = parse(file)
        prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
        for node in ast.walk(tree):
            named = None
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
                named = node.value if node.value in spellings else None
            elif isinstance(node, ast.Name | ast.Attribute | ast.alias | ast.ClassDef | ast.FunctionDef):
                name = getattr(node, 'id', None) or getattr(node, 'attr', None) or node.name
                named = name if name.split('.')[-1] in REDUCTIONS else None
            if named:
                wrong.append(f'{short(file)}:{node.lineno}: {named!r}')
    return wrong


def large_folders() -> list[str]:
    lines = {file: len(file.read_text().splitlines()) for file in modules().values()}
    total = sum(lines.values())
    folders = {folder for file in lines for folder in file.parents if folder.is_relative_to(ROOT / PACKAGE)} - {
        ROOT / PACKAGE
    }
    shares = {
        short(folder): sum(count for file, count in lines.items() if folder in file.parents) / total
        for folder in folders
    }
    return [f'{name}: {share:.1%} of the package' for name, share in shares.items() if share > FOLDER_SHARE]


@pytest.mark.parametrize('broken', [long_files, long_functions, wide_functions, method_names, large_folders])
def test_code_keeps_its_limits(broken):
    assert broken() == []

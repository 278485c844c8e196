"""What every test run shares: how many golden cases ran, and whether any is missing.

A parity test carries ``@pytest.mark.golden(family=..., case=..., kind=...)`` for the one case it compares. The count is
taken from the tests' reports, so that it also holds when several processes share the work.
"""

import json
import os
from collections import Counter, defaultdict
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PARITY = HERE / 'parity'


def golden_root() -> Path:
    """The folder the environment names, else the one beside the checkout, else the committed subset."""
    named = os.environ.get('MMSEG_TR_GOLDEN')
    if named:
        return Path(named)
    beside = HERE.parents[1] / 'shared' / 'golden'
    return beside if beside.is_dir() else HERE / 'golden'


def pending_kinds() -> dict:
    """The kinds of cases that are not delivered yet, with what is missing (tests/parity/harness.py)."""
    if not (PARITY / 'harness.py').is_file():
        return {}
    from tests.parity.harness import PENDING

    return PENDING


def pytest_configure(config):
    if not hasattr(config, 'workerinput'):  # in the process that writes the summary
        config.pluginmanager.register(GoldenCount(config), 'golden-count')


def pytest_collection_modifyitems(items):
    for item in items:
        marker = item.get_closest_marker('golden')
        if marker:
            case = {key: marker.kwargs[key] for key in ('family', 'case', 'kind')}
            item.user_properties.append(('golden', json.dumps(case)))


class GoldenCount:
    """Counts golden cases by what became of them and holds the count against the manifests."""

    def __init__(self, config):
        self.config = config
        self.outcomes = {}  # (family, case) -> (outcome, kind)
        self.missing = {}  # family -> names

    def pytest_runtest_logreport(self, report):
        golden = dict(report.user_properties).get('golden')
        if golden is None or (report.when != 'call' and report.passed):
            return
        golden = json.loads(golden)
        key = golden['family'], golden['case']
        if self.outcomes.get(key, ('',))[0] != 'failed':  # a failing teardown is not undone by its call
            self.outcomes[key] = report.outcome, golden['kind']

    def pytest_sessionfinish(self, session):
        if self.config.option.collectonly or not golden_root().is_dir():
            return
        pending, seen = pending_kinds(), defaultdict(set)
        for (family, case), (outcome, kind) in self.outcomes.items():
            if outcome != 'skipped' or kind in pending:
                seen[family].add(case)
        for family, cases in manifests().items():
            absent = [case for case in cases if case not in seen[family]]
            if absent and self._asked_for(PARITY / f'test_{family}.py'):
                self.missing[family] = absent
        if self.missing and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _asked_for(self, file: Path) -> bool:
        """Whether this run was to go through the whole of a test file."""
        option = self.config.option
        if not file.is_file() or option.keyword or option.markexpr or option.deselect or getattr(option, 'lf', False):
            return False
        here = self.config.invocation_params.dir
        return any((here / arg).resolve() in (file, *file.parents) for arg in self.config.args if '::' not in arg)

    def pytest_terminal_summary(self, terminalreporter):
        if not self.outcomes and not self.missing:
            return
        write, table = terminalreporter.write_line, pending_kinds()
        skipped = [kind for outcome, kind in self.outcomes.values() if outcome == 'skipped']
        pending = Counter(kind for kind in skipped if kind in table)
        kinds = f' ({", ".join(f"{kind}: {number}" for kind, number in sorted(pending.items()))})' if pending else ''
        terminalreporter.section('golden cases')
        write(
            f'golden cases: {len(self.outcomes) - len(skipped)} ran, {pending.total()} pending{kinds}, '
            f'{len(skipped) - pending.total()} skipped, {sum(map(len, self.missing.values()))} missing'
        )
        for kind in sorted(pending):
            write(f'  pending {kind}: {table[kind]}')
        for family, cases in self.missing.items():
            write(f'  missing in {family}: {", ".join(cases)}', red=True)
        later = [family for family in manifests() if not (PARITY / f'test_{family}.py').is_file()]
        if later:
            write(f'  not implemented yet: {", ".join(later)}')


def manifests() -> dict[str, list[str]]:
    """The names of the cases in each family's manifest."""
    found = sorted(golden_root().glob('*/manifest.json'))
    return {file.parent.name: [case['name'] for case in json.loads(file.read_text())['cases']] for file in found}

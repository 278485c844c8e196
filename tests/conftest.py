"""What every test run shares: how many golden cases ran, and whether any is missing.

A parity test carries ``@pytest.mark.golden(family=..., case=..., kind=...)`` for the one case it compares. The count is
taken from the tests' reports, so that it also holds when several processes share the work.
"""

import gc
import json
import os
import signal
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest

# One thread per process, also in those that tests start: they share the cores. Torch reads this when it is imported.
os.environ.setdefault('OMP_NUM_THREADS', '1')

PARITY = Path(__file__).parent / 'parity'


def pytest_configure(config):
    if not hasattr(config, 'workerinput'):  # in the process that writes the summary
        config.pluginmanager.register(GoldenCount(config), 'golden-count')


def pytest_collection_finish():
    """Leave what is loaded by now out of every later collection of garbage, which else takes a tenth of all time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol():
    """Put back what a tool that was interrupted in this process leaves: its own process would have ended."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD)
    handlers, hook = {number: signal.getsignal(number) for number in numbers}, sys.unraisablehook
    try:
        return (yield)
    finally:
        sys.unraisablehook = hook
        for number, handler in handlers.items():
            if handler is not None:
                signal.signal(number, handler)


def pytest_runtest_setup():
    """Leave out the layout of a config's text, which takes half the time of a tiny training."""
    for name in ('mmengine.config.config', 'yapf.yapflib.yapf_api'):  # onedl's imports it when used
        known = getattr(sys.modules.get(name), 'FormatCode', unformatted)
        if known is not unformatted:
            laid_out[name] = known
            sys.modules[name].FormatCode = unformatted


laid_out = {}


def unformatted(text, **_):
    return text, True


@pytest.fixture
def formatted_config_text(monkeypatch):
    """The layout that users see."""
    for name, known in laid_out.items():
        monkeypatch.setattr(f'{name}.FormatCode', known)


def pytest_collection_modifyitems(items):
    # What takes longest begins first, so that at the end one process does not wait long for the other.
    items.sort(key=lambda item: item.path.parent.name not in ('notebooks', 'tools', 'docs'))
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
        self.outcomes[golden['family'], golden['case']] = report.outcome, golden['kind']

    def pytest_sessionfinish(self, session):
        asked = [file.stem.removeprefix('test_') for file in PARITY.glob('test_*.py') if self._asked_for(file)]
        if self.config.option.collectonly or not asked:
            return
        from tests.parity.harness import PENDING

        seen = defaultdict(set)
        for (family, case), (outcome, kind) in self.outcomes.items():
            if outcome != 'skipped' or (family, kind) in PENDING:
                seen[family].add(case)
        for family, cases in manifests().items():
            absent = [case for case in cases if case not in seen[family]]
            if absent and family in asked:
                self.missing[family] = absent
        if self.missing and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _asked_for(self, file: Path) -> bool:
        """Whether this run was to go through the whole of a test file."""
        option = self.config.option
        if option.keyword or option.markexpr or option.deselect or getattr(option, 'lf', False):
            return False
        here = self.config.invocation_params.dir
        return any((here / arg).resolve() in (file, *file.parents) for arg in self.config.args if '::' not in arg)

    def pytest_terminal_summary(self, terminalreporter):
        if not self.outcomes and not self.missing:
            return
        from tests.parity.harness import PENDING

        write = terminalreporter.write_line
        skipped = [(family, kind) for (family, _), (outcome, kind) in self.outcomes.items() if outcome == 'skipped']
        pending = Counter(key for key in skipped if key in PENDING)
        kinds = ', '.join(f'{kind}: {number}' for (_, kind), number in sorted(pending.items()))
        terminalreporter.section('golden cases')
        write(
            f'golden cases: {len(self.outcomes) - len(skipped)} ran, '
            f'{pending.total()} pending{f" ({kinds})" if kinds else ""}, '
            f'{len(skipped) - pending.total()} skipped, {sum(map(len, self.missing.values()))} missing'
        )
        for family, kind in sorted(pending):
            write(f'  pending {family}/{kind}: {PENDING[family, kind]}')
        for family, cases in self.missing.items():
            write(f'  missing in {family}: {", ".join(cases)}', red=True)
        later = [family for family in manifests() if not (PARITY / f'test_{family}.py').is_file()]
        if later:
            write(f'  not implemented yet: {", ".join(later)}')


def manifests() -> dict[str, list[str]]:
    """The names of the cases in each family's manifest."""
    from tests.parity.harness import golden_root

    found = sorted(golden_root().glob('*/manifest.json'))
    return {file.parent.name: [case['name'] for case in json.loads(file.read_text())['cases']] for file in found}

"""Data-loading processes end when a run ends."""

from multiprocessing import active_children

from torch.utils.data import DataLoader

from mmseg_tr.engine.worker_state import end_workers


def test_persistent_workers_end_at_once_and_a_later_pass_starts_new_ones():
    before = set(active_children())
    loader = DataLoader(range(4), batch_size=2, num_workers=2, persistent_workers=True)
    for _ in range(2):
        assert [batch.tolist() for batch in loader] == [[0, 1], [2, 3]]
        assert len(set(active_children()) - before) == 2
        end_workers(loader)
        assert set(active_children()) <= before


def test_a_loader_without_workers_or_without_a_pass_stays_as_it_is():
    for loader in (DataLoader(range(2)), DataLoader(range(2), num_workers=1, persistent_workers=True)):
        end_workers(loader)
        assert loader._iterator is None

"""Unpacking keeps to its folder, replaces nothing, and goes on where it was interrupted."""

import contextlib
import io
import random
import stat
import tarfile
import zipfile

import pytest

from mmseg_tr.datasets.prepare.unpack import unpack
from mmseg_tr.errors import DatasetError


def zipped(path, members):
    with zipfile.ZipFile(path, 'w') as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def tarred(path, members):
    with tarfile.open(path, 'w:gz' if path.suffix == '.gz' else 'w') as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize(('make', 'name'), [(zipped, 'a.zip'), (tarred, 'a.tar'), (tarred, 'a.tar.gz')])
def test_members_lie_where_they_should_and_a_second_run_writes_nothing(make, name, tmp_path):
    archive = make(tmp_path / name, {'top/x.txt': b'x', 'top/y/z.txt': b'zz', 'README': b'r'})
    place = lambda member: member.relative_to('top') if len(member.parts) > 1 else None  # noqa: E731
    written = unpack(archive, tmp_path / 'out', place)
    assert sorted(path.relative_to(tmp_path / 'out').as_posix() for path in written) == ['x.txt', 'y/z.txt']
    (tmp_path / 'out/x.txt').unlink()
    assert unpack(archive, tmp_path / 'out', place) == [tmp_path / 'out/x.txt']


@pytest.mark.parametrize(('make', 'name'), [(zipped, 'a.zip'), (tarred, 'a.tar')])
@pytest.mark.parametrize('bad', ['../evil', '/tmp/evil', 'a/../../evil', 'a\\..\\evil', 'C:/evil'])
def test_member_outside_of_the_folder_is_refused(make, name, bad, tmp_path):
    archive = make(tmp_path / name, {bad: b'x'})
    with pytest.raises(DatasetError, match='points outside'):
        unpack(archive, tmp_path / 'out/inner')
    assert [path.name for path in tmp_path.rglob('*evil*')] == []


def test_links_are_refused(tmp_path):
    with tarfile.open(tmp_path / 'a.tar', 'w') as file:
        info = tarfile.TarInfo('link')
        info.type, info.linkname = tarfile.SYMTYPE, '/etc'
        file.addfile(info)
    info = zipfile.ZipInfo('link')
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    zipped(tmp_path / 'a.zip', {info: '/etc'})
    for name in ('a.tar', 'a.zip'):
        with pytest.raises(DatasetError, match='holds the link or device link'):
            unpack(tmp_path / name, tmp_path / 'out')


def test_file_of_the_user_is_not_replaced(tmp_path):
    archive = zipped(tmp_path / 'a.zip', {'x.txt': b'theirs'})
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out/x.txt').write_bytes(b'mine, and longer')
    with pytest.raises(DatasetError, match='x.txt exists and is not the file in a.zip'):
        unpack(archive, tmp_path / 'out')
    assert (tmp_path / 'out/x.txt').read_bytes() == b'mine, and longer'


def test_damaged_archives_are_named(tmp_path):
    whole = zipped(tmp_path / 'a.zip', {'x.txt': b'x' * 1000}).read_bytes()
    (tmp_path / 'bad.zip').write_bytes(whole.replace(b'xxxx', b'xyxx', 1))
    (tmp_path / 'bad.tar').write_bytes(b'no archive at all')
    for name in ('bad.zip', 'bad.tar'):
        with pytest.raises(DatasetError, match=f'{name} is damaged'):
            unpack(tmp_path / name, tmp_path / 'out')
    assert list((tmp_path / 'out').rglob('*')) == []


def encrypted(path):
    """A zip whose member says that it is encrypted."""
    content = bytearray(zipped(path, {'x.txt': b'x'}).read_bytes())
    for mark, offset in ((b'PK\x03\x04', 6), (b'PK\x01\x02', 8)):
        content[content.index(mark) + offset] |= 1
    path.write_bytes(content)


def unknown_compression(path):
    content = bytearray(zipped(path, {'x.txt': b'x'}).read_bytes())
    for mark, offset in ((b'PK\x03\x04', 8), (b'PK\x01\x02', 10)):
        content[content.index(mark) + offset] = 97
    path.write_bytes(content)


def sparse(path):
    with tarfile.open(path, 'w', format=tarfile.GNU_FORMAT) as file:
        info = tarfile.TarInfo('hole')
        info.type = tarfile.GNUTYPE_SPARSE
        file.addfile(info)


REFUSED = {
    'encrypted.zip': (encrypted, 'encrypted'),
    'compression.zip': (unknown_compression, 'compression 97'),
    'deep.zip': (lambda path: zipped(path, {'d/' * 2000 + 'x': b''}), 'parts'),
    'deep.tar': (lambda path: tarred(path, {'d/' * 2000 + 'x': b''}), 'parts'),
    'name.tar': (lambda path: tarred(path, {'n' * 300: b''}), '255 letters'),
    'sparse.tar': (sparse, 'sparse file hole'),
}


@pytest.mark.parametrize('name', REFUSED)
def test_archives_that_cannot_be_unpacked_are_refused_before_anything_is_written(name, tmp_path):
    make, reason = REFUSED[name]
    make(tmp_path / name)
    with pytest.raises(DatasetError, match=reason) as error:
        unpack(tmp_path / name, tmp_path / 'out')
    assert name in str(error.value)
    assert not (tmp_path / 'out').exists()


def test_archive_that_declares_far_more_than_it_can_hold_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(unpack.__globals__, 'SMALL', 10_000)
    archive = tmp_path / 'a.zip'
    with zipfile.ZipFile(archive, 'w', zipfile.ZIP_DEFLATED) as file:
        file.writestr('zeros', bytes(1_000_000))
    with pytest.raises(DatasetError, match='1000000 bytes'):
        unpack(archive, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_contents_that_do_not_fit_the_disk_are_refused_first(tmp_path, monkeypatch):
    usage = type('Usage', (), dict(free=3))
    monkeypatch.setattr('shutil.disk_usage', lambda _: usage)
    archive = zipped(tmp_path / 'a.zip', {'x': b'four'})
    with pytest.raises(DatasetError, match='free some space'):
        unpack(archive, tmp_path / 'out')
    usage.free = 4
    assert unpack(archive, tmp_path / 'out') == [tmp_path / 'out/x']


def test_a_header_of_gigabytes_takes_no_memory(tmp_path):
    info = tarfile.TarInfo('pax')
    info.type, info.size = tarfile.XHDTYPE, 3 << 30
    (tmp_path / 'a.tar').write_bytes(info.tobuf(tarfile.PAX_FORMAT) + bytes(4096))
    with pytest.raises(DatasetError, match='damaged'):
        unpack(tmp_path / 'a.tar', tmp_path / 'out')


@pytest.mark.parametrize('kind', ['gz', 'bz2', 'xz'])
def test_damage_behind_the_last_member_of_a_compressed_tar_is_noticed(kind, tmp_path):
    path = tmp_path / f'a.tar.{kind}'
    with tarfile.open(path, f'w:{kind}') as file:
        info = tarfile.TarInfo('x')
        info.size = 100_000
        file.addfile(info, io.BytesIO(bytes(100_000)))
    content = bytearray(path.read_bytes())
    content[-6] ^= 1  # in the checksum
    path.write_bytes(content)
    with pytest.raises(DatasetError, match='damaged'):
        unpack(path, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(('make', 'name'), [(zipped, 'a.zip'), (tarred, 'a.tar'), (tarred, 'a.tar.gz')])
def test_changed_bytes_unpack_or_are_refused_in_one_sentence(make, name, tmp_path):
    """Nothing but DatasetError ever leaves, and no file keeps a name that the archive does not hold."""
    whole = make(tmp_path / name, {'x.txt': b'x' * 700, 'y/z.txt': bytes(range(256)) * 4}).read_bytes()
    rng = random.Random(0)
    for turn in range(150):
        content = bytearray(whole)
        for _ in range(rng.randrange(1, 4)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        bad = tmp_path / f'{turn}{name}'
        bad.write_bytes(content[: rng.randrange(1, len(content) + 1)] if turn % 3 == 0 else content)
        with contextlib.suppress(DatasetError):
            unpack(bad, tmp_path / f'out{turn}')
    assert not [path for path in tmp_path.rglob('*') if 'unfinished' in path.name]

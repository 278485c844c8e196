"""Unpacking keeps to its folder, replaces nothing, and goes on where it was interrupted."""

import io
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

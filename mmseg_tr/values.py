"""Settings as people write them: values typed on a command line, code of a config, and what numbers they hold."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

_CLOSING = {'(': ')', '[': ']', '{': '}'}
_WORDS = {'true': True, 'false': False}
_DICT = re.compile(r'dict\s*\(')
_KEY = re.compile(r'\s*(?:"([^"]*)"|\'([^\']*)\'|([\w.+-]+))\s*[:=]')
_SETTING = re.compile(r'\s*[A-Za-z_][\w.]*\s*=')
_NEXT_SETTING = re.compile(r'\s+[A-Za-z_][\w.]*=')


def read_value(text: str) -> Any:
    """Parse `text` as a value; no code in it is run.

    ``8``, ``0.5``, ``true`` and ``None`` are what they look like; ``a,b`` and ``[a, b]`` are lists, ``(a, b)`` is a
    tuple; ``dict(type=ToMe, r=8)``, ``{'type': 'ToMe', 'r': 8}`` and ``{type: ToMe}`` are dicts; ``'8'`` in quotes and
    everything else is text. Raises ValueError for brackets or quotes that do not match.
    """
    reader = _Reader(text)
    try:
        values = reader.items('')
    except RecursionError as error:
        raise ValueError('it is nested too deeply') from error
    if len(values) == 1 and not reader.listed:
        return values[0]
    return values or ''


def read_settings(text: str) -> dict[str, Any]:
    """Return the dict that ``type=ToMe,r=8``, or the same with a blank for the comma, writes.

    ``layers=1,3`` is a list. Raises ValueError for text of another form.
    """
    reader, found = _Reader(text, in_settings=True), {}
    if not _SETTING.match(text):
        raise ValueError('it is not of the form key=value')
    try:
        while not reader.at(''):
            key = _SETTING.match(text, reader.place)
            if key is None:
                raise ValueError(f'a key is missing at {text[reader.place :]!r}')
            reader.place = key.end()
            values = [reader.value()]
            while reader.comma() and not _SETTING.match(text, reader.place) and not reader.at(''):
                values.append(reader.value())
            if values == ['']:
                raise ValueError(f'{key[0].strip()} has no value')
            found[key[0].strip(' =')] = values if len(values) > 1 else values[0]
    except RecursionError as error:
        raise ValueError('it is nested too deeply') from error
    return found


def as_code(value: Any) -> str:
    """Return plain values in the style of configs: dict(a=1)."""
    if isinstance(value, Mapping):
        if all(isinstance(key, str) and key.isidentifier() for key in value):
            return f'dict({", ".join(f"{key}={as_code(part)}" for key, part in value.items())})'
        return f'{{{", ".join(f"{key!r}: {as_code(part)}" for key, part in value.items())}}}'
    if isinstance(value, list):
        return f'[{", ".join(map(as_code, value))}]'
    return repr(value)


def numbers_in(settings: Any, key: str = '') -> Iterator[tuple[str, float]]:
    """Return the numbers in settings, each with the innermost key above it; a seed may be any number and is left
    out."""
    if isinstance(settings, Mapping):
        for name, value in settings.items():
            yield from numbers_in(value, str(name))
    elif isinstance(settings, list | tuple):
        for value in settings:
            yield from numbers_in(value, key)
    elif isinstance(settings, int | float) and key != 'seed':
        yield key, settings


class _Reader:
    """Reads `text` from the left.

    in_settings: a word ends where a blank and the next ``key=`` follow. listed: a comma followed a value outside all
    brackets.
    """

    def __init__(self, text: str, in_settings: bool = False) -> None:
        self.text, self.place, self.in_settings, self.listed = text, 0, in_settings, False

    def items(self, end: str) -> list[Any]:
        """Return values up to the bracket `end`, which is passed, or up to the end of the text."""
        found = []
        while not self.at(end):
            found.append(self.value())
            self.border(end)
        return found

    def pairs(self, end: str) -> dict[str, Any]:
        """Return keys with their values up to the bracket `end`."""
        found = {}
        while not self.at(end):
            key = _KEY.match(self.text, self.place)
            if key is None:
                raise ValueError(f'a key is missing at {self.text[self.place :]!r}')
            self.place = key.end()
            found[next(name for name in key.groups() if name is not None)] = self.value()
            self.border(end)
        return found

    def at(self, end: str) -> bool:
        """Whether the bracket `end`, or without one the end of the text, comes next; passes it."""
        self.skip_blanks()
        if self.place == len(self.text):
            if end:
                raise ValueError(f'{end!r} is missing')
            return True
        if not end or self.text[self.place] != end:
            return False
        self.place += 1
        return True

    def border(self, end: str) -> None:
        """Pass the comma after a value, unless `end` comes next."""
        if self.comma():
            self.listed = self.listed or not end
        elif self.text[self.place : self.place + 1] != end:
            rest = self.text[self.place :]
            raise ValueError(f'{rest[0]!r} closes no bracket' if rest else f'{end!r} is missing')

    def comma(self) -> bool:
        self.skip_blanks()
        found = self.text.startswith(',', self.place)
        self.place += found
        return found

    def skip_blanks(self) -> None:
        while self.place < len(self.text) and self.text[self.place].isspace():
            self.place += 1

    def value(self) -> Any:
        self.skip_blanks()
        start = self.place
        value = self.bracketed()
        rest = self.text[self.place :]
        follows = rest.lstrip()[:1]
        if self.place > start and (follows in (*',)]}', '') or (self.in_settings and _NEXT_SETTING.match(rest))):
            return value
        self.place = start
        return self.word()

    def bracketed(self) -> Any:
        """Return a value in quotes or brackets; for any other nothing is passed."""
        opening, named = self.text[self.place : self.place + 1], _DICT.match(self.text, self.place)
        if named:
            self.place = named.end()
            return self.pairs(')')
        if opening in ('"', "'") and (close := self.text.find(opening, self.place + 1)) > 0:
            value, self.place = self.text[self.place + 1 : close], close + 1
            return value
        if opening not in _CLOSING:
            return None
        self.place += 1
        if opening == '{':
            return self.pairs('}')
        values = self.items(_CLOSING[opening])
        return tuple(values) if opening == '(' else values

    def word(self) -> Any:
        """Return the text up to the next comma or closing bracket that is not inside brackets of its own."""
        start, opened = self.place, []
        while self.place < len(self.text):
            letter = self.text[self.place]
            if letter in _CLOSING:
                opened.append(_CLOSING[letter])
            elif letter in ')]}':
                if not opened:
                    break
                if opened.pop() != letter:
                    raise ValueError(f'{letter!r} closes no bracket')
            elif not opened and (letter == ',' or (self.in_settings and _NEXT_SETTING.match(self.text, self.place))):
                break
            self.place += 1
        if opened:
            raise ValueError(f'{opened[-1]!r} is missing')
        return _scalar(self.text[start : self.place].strip())


def _scalar(word: str) -> Any:
    if word == 'None' or word.lower() in _WORDS:
        return _WORDS.get(word.lower())
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word

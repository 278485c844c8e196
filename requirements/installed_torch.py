"""Print a constraints file in which torch and torchvision are the ones installed here.

usage: python installed_torch.py CONSTRAINTS > OUT

So that whatever is installed next keeps the pair that is there (a CPU build, an older one, a machine's own). What torch
itself requires loses its pin: another torch may want another version (2.6 asks for one sympy and no other).
"""

import re
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, requires, version


def name_of(requirement: str) -> str:
    """The name in a requirement as pip compares it: 'Typing_Extensions>=4.10; ...' gives 'typing-extensions'."""
    return re.sub('[-_.]+', '-', re.split(r'[^\w.-]', requirement.strip())[0].lower())


def main() -> None:
    try:
        freed = {'torch', 'torchvision', *map(name_of, requires('torch') or ())}
    except PackageNotFoundError:
        sys.exit(f'{sys.executable} has no torch: leave out TORCH=system, or install torch there first')
    with open(sys.argv[1], encoding='utf-8') as lines:
        sys.stdout.writelines(line for line in lines if name_of(line) not in freed)
    print(f'torch=={version("torch")}')
    with suppress(PackageNotFoundError):  # pip then chooses the one that belongs to this torch
        print(f'torchvision=={version("torchvision")}')


if __name__ == '__main__':
    main()

"""Print a constraints file with its torch and torchvision replaced by the ones installed here.

usage: python installed_torch.py CONSTRAINTS > OUT

So that whatever is installed next keeps the pair that is there (a CPU build, an older one, a machine's own).
"""

import re
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version


def main() -> None:
    kept = ('torch', 'torchvision')
    with open(sys.argv[1], encoding='utf-8') as lines:
        sys.stdout.writelines(line for line in lines if re.split(r'[=<>~! ;]', line.strip())[0] not in kept)
    try:
        print(f'torch=={version("torch")}')
    except PackageNotFoundError:
        sys.exit(f'{sys.executable} has no torch: leave out TORCH=system, or install torch there first')
    with suppress(PackageNotFoundError):  # pip then chooses the one that belongs to this torch
        print(f'torchvision=={version("torchvision")}')


if __name__ == '__main__':
    main()

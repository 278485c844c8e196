"""What pyproject.toml cannot say: the wheel takes the configs and tools along, where OpenMMLab's mim looks for them."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
CARRIED = ('local_configs', 'tools', 'model-index.yml')


class BuildWithMim(build_py):
    """Copies CARRIED to mmseg_tr/.mim of the build. An editable install finds them in the checkout."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for source, target in self.carried().items():
                self.mkpath(str(target.parent))
                self.copy_file(str(source), str(target))

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        carried = [] if self.editable_mode else [str(target) for target in self.carried().values()]
        return super().get_outputs(include_bytecode) + carried

    def carried(self) -> dict[Path, Path]:
        """Every carried file, and where it goes."""
        folder = Path(self.build_lib) / 'mmseg_tr' / '.mim'
        found = [ROOT / name for name in CARRIED if (ROOT / name).is_file()]
        found += [file for name in CARRIED for file in sorted((ROOT / name).rglob('*')) if file.is_file()]
        return {
            file: folder / file.relative_to(ROOT)
            for file in found
            if '__pycache__' not in file.parts and file.suffix != '.pyc'
        }


setup(cmdclass={'build_py': BuildWithMim})

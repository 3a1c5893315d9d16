"""What setup.cfg can't say: a .pth file beside the packages, so that Python finds the driver wherever Nova lies."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

PTH = "pmuconf-nova.pth"


class BuildWithPth(build_py):
    """Puts the file where packages go; pip records it there and takes it away again."""

    def run(self):
        super().run()
        Path(self.build_lib).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(__file__).with_name(PTH), Path(self.build_lib) / PTH)

    def get_outputs(self, include_bytecode=1):
        return [*super().get_outputs(include_bytecode), str(Path(self.build_lib) / PTH)]


setup(cmdclass={"build_py": BuildWithPth})

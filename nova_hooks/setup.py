"""Installs a .pth file beside the packages, so that Python finds the driver wherever Nova is installed."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

PTH = "pmuconf-nova.pth"


class BuildWithPth(build_py):
    """A build whose output includes the .pth file, so that pip records it and can remove it again."""

    def run(self):
        """Build the packages, and copy the .pth file beside them."""
        super().run()
        Path(self.build_lib).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(__file__).with_name(PTH), Path(self.build_lib) / PTH)

    def get_outputs(self, include_bytecode=1):
        """The files that were built."""
        return [*super().get_outputs(include_bytecode), str(Path(self.build_lib) / PTH)]


setup(cmdclass={"build_py": BuildWithPth})

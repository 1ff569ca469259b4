"""What pyproject.toml cannot say of the package: `models/` and `custom_ops/` beneath it, and its CPU kernels."""

import importlib.util
import shutil
from pathlib import Path

from setuptools import Distribution, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent.resolve()

BENEATH = ("custom_ops", "models")
"""Folders at the top of the repository that are packages of `mindspore_paged`."""

PACKAGES = find_packages(ROOT, include=["mindspore_paged", "mindspore_paged.*"])
for name in BENEATH:
    within = [f"{name}.{package}" for package in find_packages(ROOT / name)]
    PACKAGES += [f"mindspore_paged.{package}" for package in (name, *within)]


def load_kernel_builder():
    """Import custom_ops/build.py by its path: the package that holds it is not installed yet."""
    spec = importlib.util.spec_from_file_location("custom_ops_build", ROOT / "custom_ops" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class BuildWithKernels(build_py):
    """Compile the CPU kernels next to the Python files that load them: of every level for a wheel, else of this CPU."""

    def run(self):
        """Build the Python files, then the libraries of `custom_ops/lib`: in place, and from there into a wheel."""
        super().run()
        builder, place = load_kernel_builder(), ROOT / "custom_ops" / "lib"
        if self.editable_mode:
            builder.build_cpu(place)
            return
        target = Path(self.build_lib).resolve() / "mindspore_paged" / "custom_ops" / "lib"
        target.mkdir(parents=True, exist_ok=True)
        for level in builder.levels_of_machine():
            library = builder.build_cpu(place, level)
            for file in (library, library.with_suffix(".stamp")):  # the stamp tells exports what it is made of
                shutil.copy(file, target)


class MachineCode(Distribution):
    """A distribution of one architecture: its libraries are no modules of Python, which would tell."""

    def has_ext_modules(self):
        """As if there were such modules."""
        return True


class WheelForAnyPython(bdist_wheel):
    """A wheel for every Python that the package runs on: its libraries know of none."""

    def get_tag(self):
        """The platform's, and no Python's ABI."""
        return "py3", "none", super().get_tag()[2]


setup(
    packages=PACKAGES,
    package_dir={f"mindspore_paged.{name}": name for name in BENEATH},
    package_data={
        "mindspore_paged.custom_ops": ["**/*.cc", "**/*.h", "**/*.cpp"],
        "mindspore_paged.serving.page": ["*.html", "*.css", "*.js", "*.svg"],
    },
    cmdclass={"build_py": BuildWithKernels, "bdist_wheel": WheelForAnyPython},
    distclass=MachineCode,
)

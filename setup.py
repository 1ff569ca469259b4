"""The package `mindspore_paged`, with `models/` and `custom_ops/` beneath it and its CPU kernels compiled."""

import importlib.util
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent.resolve()

BENEATH = ("custom_ops", "models")
"""Folders at the top of the repository that are packages of `mindspore_paged`."""

TRACING = ["opentelemetry-sdk>=1.30,<2", "opentelemetry-exporter-otlp-proto-http>=1.30,<2"]

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
    """Compile the CPU kernels next to the Python files that load them."""

    def run(self):
        """Build the Python files, then `custom_ops/lib/libpaged_ops_cpu.so`."""
        super().run()
        package = ROOT / "custom_ops"
        if not self.editable_mode:
            package = Path(self.build_lib).resolve() / "mindspore_paged" / "custom_ops"
        load_kernel_builder().build_cpu(package / "lib")


setup(
    name="mindspore_paged",
    version="0.1.0",
    description="PagedAttention runtime for MindSpore: LLaMA as one static graph over a paged KV cache",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.12",
    packages=PACKAGES,
    package_dir={f"mindspore_paged.{name}": name for name in BENEATH},
    package_data={
        "mindspore_paged.custom_ops": ["**/*.cc", "**/*.h", "**/*.cpp"],
        "mindspore_paged.serving.page": ["*.html", "*.css", "*.js", "*.svg"],
    },
    install_requires=[
        "mindspore==2.9.0",
        "mindformers==1.9.0",
        "numpy<2",
        "setuptools<81",  # mindformers imports pkg_resources
        "aiohttp>=3.10,<4",  # a load on servers: a third of httpx's time for a streamed chunk
        "fastapi>=0.132,<1",
        "gguf==0.19.0",
        "jinja2>=3.1",
        "llguidance>=1.9,<2",
        "matplotlib>=3.8,<4",
        "ml_dtypes>=0.5,<0.6",  # bfloat16 for NumPy; 0.6 asks for NumPy 2
        "prometheus-client>=0.21,<1",
        "protobuf>=4",
        "pydantic>=2.12,<3",
        "pyyaml>=6",
        "safetensors>=0.5",
        "sentencepiece>=0.2,<0.3",
        "tokenizers>=0.22,<0.23",
        "tqdm>=4.66",
        "transformers==4.57.1",  # as mindformers has it: for tokenizers of Hugging Face folders
        "uvicorn>=0.40,<1",
    ],
    extras_require={
        "dev": [
            *("pytest>=8", "pytest-xdist>=3.6", "hypothesis>=6.100", "ruff>=0.9", "import-linter>=2.1"),
            *(
                "httpx>=0.27,<1",
                "jsonschema>=4.20,<5",
                "openai>=2",
                "anthropic>=1",
                "vllm-router>=0.1.17",
                "playwright>=1.50,<2",
                "axe-playwright-python>=0.1.4",
                *TRACING,
            ),
        ],
        "tracing": TRACING,
    },
    entry_points={"console_scripts": ["mindspore-paged = mindspore_paged.cli:kept_main"]},
    cmdclass={"build_py": BuildWithKernels},
)

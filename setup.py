"""What is installed, and what it needs.

The base install is what sources need, too: transformers for configurations, tokenizers and names of tensors. A device
alone needs less, the light set: see `shardnet/process/light_set.py` and docs/light.md. `launch/` is installed as
`shardnet.launch` and `configs/` as the package of data `shardnet.configs_data`; read a file of it with
`importlib.resources.files("shardnet.configs_data").joinpath("clusters/home.yaml").read_text()`.
"""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "shardnet/release.py").read_text(), re.MULTILINE)
assert VERSION, "shardnet/release.py must say __version__"

EXTRAS = {
    "plan": ["pulp>=3,<4", "highspy>=1.8"],  # PuLP 4 carries no solver of its own
    "profile": ["tensorboard>=2.16", "matplotlib>=3.8"],
    "gguf": ["gguf>=0.10"],
    "configs": ["pyyaml>=6"],
    "serve": ["fastapi>=0.120", "uvicorn>=0.35", "prometheus-client>=0.22"],
    "grammar": ["llguidance>=1.6,<2"],  # on the devices that may hold the head
}
DEV = [
    "pytest>=8",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.8",
    "hypothesis>=6.100",
    "ruff>=0.12",
    "mypy>=1.15",
    "types-psutil",
    "types-PyYAML",
    "setuptools>=77",  # tests build wheels with it
    # Clients of the server, as they are, and what throws requests at it; see tests/serve/.
    "openai>=2",
    "litellm>=1.80",
    "openai-agents>=0.10",
    "schemathesis>=4",
    "peft>=0.18",
    "selenium>=4.30",  # drives Debian's Chromium; see tests/page/
]

LAUNCH = ["shardnet.launch", *(f"shardnet.launch.{package}" for package in find_packages("launch"))]

setup(
    name="shardnet",
    version=VERSION.group(1),
    description="One language model over several weak devices: planned from measurements, run as a pipeline",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    packages=[*find_packages(include=["shardnet", "shardnet.*"]), *LAUNCH, "shardnet.configs_data"],
    package_dir={"shardnet.launch": "launch", "shardnet.configs_data": "configs"},
    package_data={
        "shardnet": ["py.typed"],
        "shardnet.quantised.native": ["*.h", "*.c"],
        "shardnet.serve.page": ["static/*"],
        "shardnet.launch.termux": ["*.sh"],
        "shardnet.configs_data": ["**/*.yaml", "**/*.json", "**/*.md", "**/*.txt"],
    },
    # The blocks of transformers and the private parts of torch RPC are pinned to what was tried.
    install_requires=[
        "torch>=2.8,<2.14",
        "transformers>=5.20,<5.24",
        "accelerate>=1.2",
        "safetensors>=0.5",
        "numpy>=1.26",
        "psutil>=5.9",
        "typer>=0.26,<0.29",  # the next one brings pydantic along: see shardnet/process/light_set.py
        "rich>=13.7",
        "cryptography>=42",
        "spake2>=0.9",
        "segno>=1.6",
        "zeroconf>=0.130",
    ],
    extras_require={**EXTRAS, "dev": DEV, "all": sorted({need for needs in EXTRAS.values() for need in needs})},
    entry_points={
        "console_scripts": [
            "shardnet = shardnet.launch.cli:main",
            "shardnet-run = shardnet.launch.launcher.run:main",
        ]
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3 :: Only",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)

"""Packaging: `pip install .`, with extras for converting, testing, and accelerators."""

from pathlib import Path

from setuptools import find_packages, setup

# 2.6 is the oldest that transformers and diffusers use. docs/dependencies.md has the versions that were tested.
TORCH = "torch>=2.6,<3"
PLOT, T5 = "matplotlib", "sentencepiece"
RAY, GCS, C2PA = "ray", ["etils[epath]", "gcsfs"], "c2pa-python"

setup(
    name="its_jax",
    version="0.2.0",
    description="Images that Sound in JAX: spectrograms that look like one prompt and sound like another",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    # The wheel holds the configs inside the package; a clone has them beside it.
    packages=[*find_packages(include=["its_jax", "its_jax.*", "convert"]), "its_jax.configs"],
    package_dir={"its_jax.configs": "configs"},
    entry_points={"console_scripts": ["its-jax = its_jax.runtime.console:main"]},
    package_data={
        "its_jax": ["py.typed"],
        "its_jax.configs": ["*.txt"],
        "its_jax.tiny": ["weights/**"],
        "its_jax.gallery": ["web/*"],
        "its_jax.versus": ["web/*"],
    },
    install_requires=[
        "absl-py",
        "filelock",
        "flax>=0.11.2",
        "huggingface_hub",
        "imageio-ffmpeg",  # for systems without an ffmpeg that can encode videos
        "jax>=0.7.2",
        "ml_collections",
        "numpy>=2.0",
        "optax",
        "orbax-checkpoint>=0.12.4",
        "pillow",
        "pyloudnorm",
        "safetensors",
        "scipy",
        "soundfile",
        "tensorstore",
        "tqdm",
        "transformers>=5.0",
    ],
    extras_require={
        "convert": [TORCH, "diffusers"],  # PyTorch reads .bin, .pt and .ckpt files; --check compares with both
        "plot": [PLOT],  # the plot of its_jax.evaluate
        "eval": [PLOT, TORCH, "torch-fidelity", "torchvggish"],  # its plot, and the networks of FID and FAD
        "t5": [T5],  # tokenizers of DeepFloyd IF, which paints pixels: its_jax.colorize, method=sds
        "ray": [RAY],  # --engine=ray of sweeps
        "gcs": GCS,  # gs:// as a work folder
        "c2pa": [C2PA],  # its_jax.sign
        "test": [
            C2PA,
            PLOT,
            T5,
            "build",
            "diffusers",
            "gcp-storage-emulator",
            "ipykernel",
            "librosa",
            "mypy",
            "nbclient",
            "playwright",
            "pytest",
            "pytest-xdist",
            "ruff",
            "setuptools>=77",  # with `build`, for the wheel that a test looks into
            "torch==2.13.0",  # One version computes what tests compare with, so that a new release breaks none of them.
            "torchmetrics",
            RAY,
            *GCS,
        ],
        "cuda": ["jax[cuda12]"],
        "tpu": ["jax[tpu]"],
    },
)

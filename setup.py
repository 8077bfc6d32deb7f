"""Packaging: `pip install .`, with extras for converting, testing, and accelerators."""

from pathlib import Path

from setuptools import find_packages, setup

TORCH = "torch==2.13.0"  # the reference version; an open range would pull in whatever is newest
RAY, GCS = "ray", ["etils[epath]", "gcsfs"]

setup(
    name="its_jax",
    version="0.1.0",
    description="Images that Sound in JAX: spectrograms that look like one prompt and sound like another",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["its_jax", "its_jax.*", "convert"]),
    package_data={"its_jax.tiny": ["weights/**"], "its_jax.gallery": ["web/*"], "its_jax.versus": ["web/*"]},
    install_requires=[
        "absl-py",
        "filelock",
        "flax>=0.12.0",
        "huggingface_hub",
        "imageio-ffmpeg",
        "jax>=0.7.2",
        "matplotlib",
        "ml_collections",
        "numpy>=2.0",
        "optax",
        "orbax-checkpoint>=0.12.4",
        "pillow",
        "safetensors",
        "scipy",
        "sentencepiece",  # reads T5's tokenizer
        "soundfile",
        "tensorstore",
        "tqdm",
        "transformers>=5.0",
    ],
    extras_require={
        "convert": [TORCH, "diffusers"],  # PyTorch reads .bin, .pt and .ckpt files; --check compares with both
        "eval": [TORCH, "torch-fidelity", "torchvggish"],  # the networks of FID and FAD, for its_jax.evaluate
        "ray": [RAY],  # --engine=ray of sweeps
        "gcs": GCS,  # gs:// as a work folder
        "test": [
            TORCH,
            "diffusers",
            "gcp-storage-emulator",
            "librosa",
            "playwright",
            "pytest",
            "pytest-xdist",
            "ruff",
            "torchmetrics",
            RAY,
            *GCS,
        ],
        "cuda": ["jax[cuda12]"],
        "tpu": ["jax[tpu]"],
    },
)

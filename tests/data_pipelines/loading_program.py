"""A program: loads batches as one host of several and prints each as a line of JSON, until it is ended.

python -m tests.data_pipelines.loading_program ARGUMENTS_JSON [STATE_JSON]
"""

import hashlib
import itertools
import json
import sys

from data_pipelines.loader import make_loader
from mmduplex_jax.text_tokenizer import TextTokenizer
from tests.data_pipelines.conftest import WORDS


def digests(batch) -> list[str]:
    """A hash of each sample's arrays."""
    names = sorted(batch)
    return [
        hashlib.sha256(b"".join(batch[name][row].tobytes() for name in names)).hexdigest()[:16]
        for row in range(len(batch["index"]))
    ]


def main() -> None:
    arguments = json.loads(sys.argv[1])
    count = arguments.pop("count", None)
    loader = make_loader(arguments.pop("dirs"), TextTokenizer.word_level(WORDS), **arguments)
    if len(sys.argv) > 2:
        loader.set_state(json.loads(sys.argv[2]))
    for _ in itertools.count() if count is None else range(count):
        batch = next(loader)
        print(json.dumps({"digests": digests(batch), "state": loader.get_state()}), flush=True)
    loader.close()


if __name__ == "__main__":
    main()

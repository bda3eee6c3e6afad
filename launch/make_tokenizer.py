r"""Makes a small text tokenizer from the words of prepared data: a byte-level BPE, which spells any text.

    python -m launch.make_tokenizer --data=data/mine --out=data/mine/tokenizer.json
    python -m launch.train --config=configs/quickstart.py --workdir=runs/mine --config.data.dirs=data/mine \
        --config.text_tokenizer=data/mine/tokenizer.json

For a model that learns to speak from your data alone. The tokenizer of a large language model (`launch.import_weights`)
spells as much, but most of a small model would then be its embedding table: Qwen3's 151,669 tokens at a width of 128
are 19 million parameters beside the 2 million of the quick start.

The table says what each size brings. A word takes a step of the text stream for each token and one for its mark, so
fewer tokens a word let speech be faster; --size is by default the smallest with at most 1.3 tokens a word. The mark
of a sentence's end is in the file (docs/design.md), so that what a model says is shown in sentences.

Exit codes: 0 done; 1 there are no words, or something cannot be read or written; 2 no such flag.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_pipelines.dataset import open_dataset
from data_pipelines.manifest import ShardError
from data_pipelines.samples import spread_records
from mmduplex_jax.stages.config_file import add_json_flag, command_parser, run_main, show
from mmduplex_jax.text_tokenizer import TextTokenizer, advised_size, bpe_sizes


def make(args: argparse.Namespace) -> None:
    """Reads the words, says what sizes bring, and writes the tokenizer.

    Raises:
      ShardError: data cannot be read.
      ValueError: there are no words, or the size is too small.
      OSError: the file cannot be written.
    """
    datasets = [open_dataset(directory.strip()) for directory in args.data.split(",")]
    counts: Counter[str] = Counter()
    clips = 0
    for record in spread_records(datasets):
        clips += 1
        counts.update(word.text for word in record.words)
        counts.update(record.caption.split() if not record.words else ())
    if not counts:
        raise ValueError(f"nothing is said in {clips} clips of {args.data}: there are no words to make tokens of")
    sizes = bpe_sizes(counts)
    advised = advised_size(sizes)
    tokenizer = TextTokenizer.train_bpe(counts, args.size or advised).with_sentence_ends()
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(args.out)
    report: dict[str, Any] = {"clips": clips, "words": counts.total(), "different_words": len(counts)}
    report |= {"advised": advised, "sizes": [one._asdict() for one in sizes], "tokens": tokenizer.base_vocab_size}
    mark = lambda size: "   advised" if size == advised else ""
    lines = [
        f"{counts.total():,} words, {len(counts):,} different, in {clips:,} of {sum(map(len, datasets)):,} clips",
        "  tokens   tokens a word",
        *(f"  {one.size:6,}   {one.tokens_a_word:13.2f}{mark(one.size)}" for one in sizes),
        f"wrote {args.out} of {tokenizer.base_vocab_size:,} tokens: pass --config.text_tokenizer={args.out}",
    ]
    show(args, report, "\n".join(lines))


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code; errors are one line."""
    flags = command_parser("launch.make_tokenizer", __doc__, compiles=False)
    add = flags.add_argument
    add("--data", metavar="DIR", required=True, help="data that launch.prepare wrote; several with commas")
    add("--out", metavar="FILE", required=True, help="the tokenizer.json to write")
    add("--size", type=int, metavar="TOKENS", help="of the vocabulary at most; as advised where it is not given")
    add_json_flag(flags, "write the table here as JSON")
    return run_main(flags, argv, make, {OSError: 1, ShardError: 1, ValueError: 1})


if __name__ == "__main__":
    sys.exit(main())

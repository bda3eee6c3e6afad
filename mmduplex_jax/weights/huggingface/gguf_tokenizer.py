"""The tokenizer of a GGUF file as a `tokenizer.json` of the tokenizers library.

Byte-level BPE (`gpt2`: SmolLM, Llama 3, Qwen) has its merges in the file, but of how text is split before them only a
name; the patterns behind the names are those of the models' own `tokenizer.json`. The BPE of SentencePiece (`llama`:
Llama 2) has scores, from which the order of its merges follows.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

from mmduplex_jax.text_tokenizer import TextTokenizer
from mmduplex_jax.weights.huggingface.reader import WeightsError

# Kinds of tokens (`tokenizer.ggml.token_type`).
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
_SPACE = "▁"
_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3 = _QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")


def _split_by(pattern: str) -> Any:
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _gpt2() -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


# How text is split, by `tokenizer.ggml.pre`; and whether a piece that is a token needs no merges.
_SPLITTERS: Mapping[str, Callable[[], Any]] = {
    "gpt-2": _gpt2,
    "smollm": lambda: pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _gpt2()]),
    "llama-bpe": lambda: _split_by(_LLAMA3),
    "llama3": lambda: _split_by(_LLAMA3),
    "qwen2": lambda: _split_by(_QWEN2),
}
_WHOLE_PIECES = ("llama-bpe", "llama3")
_NFC = ("qwen2",)


def text_tokenizer(fields: Mapping[str, Any], where: object) -> TextTokenizer | None:
    """The tokenizer that a file's fields describe; None where it describes none.

    Args:
      fields: of the file, `tokenizer.ggml.…` among them.
      where: the file, for messages.

    Raises:
      WeightsError: of a kind that is not read; says which are.
    """
    get = lambda key, otherwise=None: fields.get(f"tokenizer.ggml.{key}", otherwise)
    kind, tokens = get("model"), get("tokens")
    if kind in (None, "none") or not tokens:
        return None
    kinds = get("token_type") or [NORMAL] * len(tokens)
    if len(kinds) != len(tokens):
        raise WeightsError(f"{where} has {len(tokens)} tokens and kinds of {len(kinds)}: fetch it again")
    if kind == "gpt2":
        tokenizer = _byte_level(tokens, kinds, get("merges") or [], get("pre", "gpt-2"), where)
    elif kind == "llama":
        tokenizer = _sentencepiece(tokens, kinds, get("scores"), get("add_space_prefix", True), where)
    else:
        raise WeightsError(
            f"{where}: tokenizer.ggml.model is {kind!r}; read are 'gpt2' and 'llama'. A tokenizer.json beside the file "
            "takes its place"
        )
    marks = [
        AddedToken(token, special=kind == CONTROL, normalized=False)
        for token, kind in zip(tokens, kinds, strict=True)
        if kind in (CONTROL, USER_DEFINED)
    ]
    tokenizer.add_tokens(marks)
    return TextTokenizer(tokenizer)


def _vocabulary(tokens: Sequence[str], kinds: Sequence[int]) -> dict[str, int]:
    """Ids by token; those that only fill up the embedding are left out."""
    return {token: number for number, (token, kind) in enumerate(zip(tokens, kinds, strict=True)) if kind != UNUSED}


def _byte_level(
    tokens: Sequence[str], kinds: Sequence[int], merges: Sequence[str], pre: str, where: object
) -> Tokenizer:
    if pre not in _SPLITTERS:
        raise WeightsError(
            f"{where}: tokenizer.ggml.pre is {pre!r}; known ways of splitting text are {', '.join(_SPLITTERS)}. A "
            "tokenizer.json beside the file takes its place"
        )
    pairs = []
    for merge in merges:
        left, _, right = merge.partition(" ")
        pairs.append((left, right))
    try:
        tokenizer = Tokenizer(BPE(_vocabulary(tokens, kinds), pairs, ignore_merges=pre in _WHOLE_PIECES))
    except Exception as error:  # the library raises bare Exception
        raise WeightsError(f"{where}: its tokenizer is damaged ({error}): fetch it again") from error
    tokenizer.pre_tokenizer = _SPLITTERS[pre]()
    tokenizer.decoder = decoders.ByteLevel()
    if pre in _NFC:
        tokenizer.normalizer = normalizers.NFC()
    return tokenizer


def _sentencepiece(
    tokens: Sequence[str], kinds: Sequence[int], scores: Sequence[float] | None, prefix: bool, where: object
) -> Tokenizer:
    if scores is None or len(scores) != len(tokens):
        raise WeightsError(f"{where}: a tokenizer of kind 'llama' has a score for each token: fetch it again")
    vocabulary = _vocabulary(tokens, kinds)
    merges = []
    for token, number in vocabulary.items():
        if kinds[number] != NORMAL:
            continue
        parts = [(token[:i], token[i:]) for i in range(1, len(token))]
        pairs = [pair for pair in parts if pair[0] in vocabulary and pair[1] in vocabulary]
        # SentencePiece merges what gives the token of the highest score, however it comes about.
        merges += [(-scores[number], number, vocabulary[left], (left, right)) for left, right in pairs]
    unknown = next((token for token, kind in zip(tokens, kinds, strict=True) if kind == UNKNOWN), None)
    model = BPE(
        vocabulary,
        [pair for *_, pair in sorted(merges)],
        unk_token=unknown,
        fuse_unk=True,
        byte_fallback=BYTE in kinds,
    )
    tokenizer = Tokenizer(model)
    steps = [normalizers.Prepend(_SPACE)] if prefix else []
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return tokenizer

"""The codec of a model that speaks: found beside the model, or read from a folder that is named."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn

from mmduplex_jax.codec.codec import param_shapes
from mmduplex_jax.codec.config import CodecConfig
from mmduplex_jax.typing import PyTree
from mmduplex_jax.weights import portable
from mmduplex_jax.weights.notice import NOTICE_FILE, notice_behind

# Where a model's folder, a portable checkpoint or a workdir, has its codec.
CODEC_FOLDER = "codec"
CODEC_HELP = f"the codec that makes its codes heard: a training of one, exported or not, or imported weights (default: \
the folder {CODEC_FOLDER} in the checkpoint)"


class CodecWeights(NamedTuple):
    """A codec.

    Attributes:
      config: its shape.
      params: unboxed, as NumPy arrays.
      metadata: what a portable checkpoint says of it, but for what `portable.save` writes itself.
      notice: whose licences it is under; "" where nothing says.
    """

    config: CodecConfig
    params: PyTree
    metadata: Mapping[str, Any]
    notice: str


def find_codec(model: str | Path) -> Path | None:
    """The folder of a model's codec, where it has one beside it."""
    folder = Path(model) / CODEC_FOLDER
    return folder if folder.is_dir() else None


def load_codec(folder: str | Path) -> CodecWeights:
    """Reads a codec.

    Args:
      folder: a portable checkpoint (`launch.export`) or a workdir of stage `codec`, or weights that
        `launch.import_weights` wrote.

    Raises:
      FileNotFoundError: there is none of these.
      ValueError: it is damaged, or is no codec.
    """
    folder = Path(folder)
    if portable.is_portable(folder):
        params, metadata = portable.load(folder)
        known = {name: metadata[name] for name in portable.REQUIRED}
    else:
        params, known = _from_orbax(folder)
    values = known["config"]
    if values.get("stage") != "codec":
        raise ValueError(f"{folder} is of stage {values.get('stage')!r}: a codec is of stage 'codec'")
    config = CodecConfig.from_mapping(portable.with_tuples(values["codec"]))
    params = params["codec"]
    portable.check(params, nn.unbox(param_shapes(config)), f"{folder} against the codec that its config describes")
    written = folder / NOTICE_FILE
    notice = written.read_text(encoding="utf-8") if written.is_file() else notice_behind(values)
    return CodecWeights(config, params, known, notice)


def _from_orbax(folder: Path) -> tuple[PyTree, dict[str, Any]]:
    """Parameters as a training has them, and metadata as `portable.REQUIRED` names it."""
    # Orbax takes seconds to import.
    from mmduplex_jax.weights.checkpoint import is_weights, load_params, read_weights

    if is_weights(folder):
        params, metadata = read_weights(folder)
        if metadata.get("kind") != "codec":
            raise ValueError(f"{folder} holds weights of kind {metadata.get('kind')!r}, not a codec's")
        config = {"stage": "codec", "codec": metadata["architecture"]}
        return {"codec": params}, {"config": config, "tokenizer": {}, "steps": 0, "data": {}, "scores": {}}
    try:
        params, metadata = load_params(folder)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"no codec in {folder}: neither one that `launch.export` wrote, nor a workdir of stage `codec`, nor "
            "weights of `launch.import_weights`"
        ) from error
    data = {"config": metadata["config"].get("data"), "fingerprint": metadata.get("data_fingerprint")}
    known = {"config": metadata["config"], "tokenizer": {}, "steps": metadata["step"], "data": data, "scores": {}}
    return params, known


def save_codec(model: str | Path, codec: CodecWeights, *, dtype: str, max_bytes: int) -> int:
    """Writes a codec as a portable checkpoint into a model's folder; an older one there is replaced.

    Args:
      model: the folder of the model.
      dtype, max_bytes: as of `portable.save`.

    Returns:
      Its size in bytes.
    """
    folder = Path(model) / CODEC_FOLDER
    size = portable.save(folder, {"codec": codec.params}, codec.metadata, dtype=dtype, max_bytes=max_bytes)
    if codec.notice:
        (folder / NOTICE_FILE).write_text(codec.notice, encoding="utf-8")
    return size


def remove_codec(model: str | Path) -> None:
    """Takes the codec of an older export out of a model's folder."""
    folder = Path(model) / CODEC_FOLDER
    if portable.is_portable(folder):
        shutil.rmtree(folder)

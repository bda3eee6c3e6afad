"""`cross`: text layers attend to a projected video stream, through gates that may start at zero (Flamingo)."""

from typing import Any, ClassVar

from mmduplex_jax.layers.kv_cache import KVCache
from mmduplex_jax.layers.transformer import empty_cross_cache, layer_pairs
from mmduplex_jax.models.fusion.protocol import VideoStreamFusion
from mmduplex_jax.typing import Array


class Cross(VideoStreamFusion):
    """Every `cross_every`-th layer of the text has keys and values of its own."""

    cross_attention: ClassVar[bool] = True

    @property
    def readers(self) -> int:
        return self.language.config.text.groups

    def pairs(self, keys: Array, values: Array) -> Any:
        return layer_pairs(self.language.config.text, keys, values)

    def empty_projected(self, batch: int, size: int) -> KVCache:
        return empty_cross_cache(self.language.config.text, batch, size)

    def text_hidden(self, text: Array, step: Array, cross_mask: Array, pairs: Any, cache: KVCache | None, active: Any):
        given = {"cross_mask": cross_mask, "keys_values": pairs}
        if cache is None:
            return None, self.language.read(text, **given)
        return self.language.append(cache, text, step, active, **given)

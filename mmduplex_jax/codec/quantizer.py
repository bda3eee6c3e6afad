"""Residual vector quantisation (Zeghidour et al., 2021), split in two as in Mimi: semantic codes beside acoustic ones.

Both parts quantise the same latent, each in its own projection, and their outputs are added. A codebook is kept as what
training averages: how often an entry is used, and the sum of what it stood for; an entry is their quotient
(kyutai-labs/moshi e6a55d2, quantization/core_vq.py).
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmduplex_jax.codec.config import CodecConfig
from mmduplex_jax.layers.dense import dense
from mmduplex_jax.typing import Array, Float, Int32

USAGE_MIN = 1e-5  # as in moshi: an entry that was never used is its sum over this


class Codebooks(NamedTuple):
    """`J` codebooks of `V` entries.

    Attributes:
      sums: float32 `[J, V, E]`, moving sum of the vectors that an entry stood for.
      usage: float32 `[J, V]`, moving count of them.
      initialized: float32 `[J]`, 1 where training has given it entries.
    """

    sums: Float[Array, "J V E"]
    usage: Float[Array, "J V"]
    initialized: Float[Array, "J"]

    @property
    def entries(self) -> Float[Array, "J V E"]:
        return self.sums / jnp.maximum(self.usage, USAGE_MIN)[..., None]


def nearest(entries: Float[Array, "V E"], x: Float[Array, "... E"]) -> Int32[Array, "..."]:
    """The entry at the least Euclidean distance, the first of those that are as near."""
    products = jnp.matmul(x, entries.T, precision="highest")
    return jnp.argmin(jnp.square(entries).sum(axis=-1) - 2 * products, axis=-1).astype(jnp.int32)


class ResidualQuantizer(nn.Module):
    """A quantiser of `J` codebooks, each of what those before it left over.

    Attributes:
      codebooks: J.
    """

    config: CodecConfig
    codebooks: int

    def setup(self):
        c, plain = self.config, nn.initializers.zeros_init()
        own = lambda name, *shape: self.param(name, nn.with_logical_partitioning(plain, (None,) * len(shape)), shape)
        books, size = self.codebooks, c.codebook_size
        self.books = Codebooks(
            own("sums", books, size, c.codebook_width), own("usage", books, size), own("initialized", books)
        )
        self.project_in = dense(c.codebook_width, (None, "feature"), name="project_in")
        self.project_out = dense(c.width, (None, "feature"), name="project_out")

    def encode(self, latents: Float[Array, "B S D"], codebooks: int | None = None) -> Int32[Array, "B S J"]:
        """Codes of the first `codebooks` codebooks (None: of all)."""

        def one(left: Array, entries: Array) -> tuple[Array, Array]:
            code = nearest(entries, left)
            return left - entries[code], code

        _, codes = jax.lax.scan(one, self.project_in(latents.astype(jnp.float32)), self.books.entries[:codebooks])
        return jnp.moveaxis(codes, 0, -1)

    def decode(self, codes: Int32[Array, "B S J"]) -> Float[Array, "B S D"]:
        """What the codes stand for; NaN for a code that no codebook has."""
        entries = self.books.entries[: codes.shape[-1]]
        # Not a gather's own rule, which takes the last entry for a code beyond it and counts backward below zero.
        codes = jnp.where(codes < 0, entries.shape[1], codes)
        found = jax.vmap(lambda table, code: table.at[code].get(mode="fill", fill_value=jnp.nan), (0, -1))(
            entries, codes
        )
        return self.project_out(found.sum(axis=0))


class SplitQuantizer(nn.Module):
    """Latents to codes and back; the semantic codes come first."""

    config: CodecConfig

    def setup(self):
        c = self.config
        self.semantic = ResidualQuantizer(c, c.semantic_codebooks)
        self.acoustic = ResidualQuantizer(c, c.codebooks - c.semantic_codebooks)

    def encode(self, latents: Float[Array, "B S D"], codebooks: int | None = None) -> Int32[Array, "B S J"]:
        """The first `codebooks` codes (None: all).

        Raises:
          ValueError: there are fewer, or it would cut the semantic ones.
        """
        c = self.config
        codebooks = c.codebooks if codebooks is None else codebooks
        if not c.semantic_codebooks <= codebooks <= c.codebooks:
            raise ValueError(f"a codec gives {c.semantic_codebooks} to {c.codebooks} codes a step, not {codebooks}")
        codes = self.semantic.encode(latents)
        acoustic = codebooks - c.semantic_codebooks
        return jnp.concatenate([codes, self.acoustic.encode(latents, acoustic)], axis=-1) if acoustic else codes

    def decode(self, codes: Int32[Array, "B S J"]) -> Float[Array, "B S D"]:
        """What the codes stand for; `J` may be any number that `encode` gives."""
        first, rest = jnp.split(codes, [self.config.semantic_codebooks], axis=-1)
        latents = self.semantic.decode(first)
        return latents + self.acoustic.decode(rest) if rest.shape[-1] else latents

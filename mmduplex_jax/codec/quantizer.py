"""Residual vector quantisation (Zeghidour et al., 2021), split in two as in Mimi: semantic codes beside acoustic ones.

Both parts quantise the same latent, each in its own projection, and their outputs are added. A codebook is kept as what
training averages: how often an entry is used, and the sum of what it stood for; an entry is their quotient
(kyutai-labs/moshi e6a55d2, quantization/core_vq.py).
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmduplex_jax.codec.config import CodecConfig
from mmduplex_jax.layers.dense import dense
from mmduplex_jax.typing import Array, Bool, Float, Int32

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


class Seen(NamedTuple):
    """What codebooks were asked for in a batch, or in some: sums over all vectors of the batch, on whatever devices.

    Attributes:
      sums: float32 `[J, V, E]`, of the vectors that an entry stood for.
      counts: float32 `[J, V]`, of these vectors.
      drawn: float32 `[J, V, E]`, vectors drawn from the batch, for entries that are hardly used to begin anew with.
      vectors: float32 `[J]`, how many there were.
    """

    sums: Float[Array, "J V E"]
    counts: Float[Array, "J V"]
    drawn: Float[Array, "J V E"]
    vectors: Float[Array, "J"]


def together(seen: Seen, later: Seen) -> Seen:
    """What was seen in both; drawn from the later one, if it has vectors at all."""
    drawn = jnp.where((later.vectors > 0)[:, None, None], later.drawn, seen.drawn)
    return Seen(seen.sums + later.sums, seen.counts + later.counts, drawn, seen.vectors + later.vectors)


def moved(books: Codebooks, seen: Seen, decay: float, restart_below: float) -> Codebooks:
    """Codebooks after a batch: moving averages, as k-means a batch at a time (van den Oord et al., 2017, appendix).

    A codebook begins with vectors of the first batch in which the one before it was there already, as before that
    there is nothing sensible left over for it (moshi e6a55d2, quantization/core_vq.py, which runs k-means there). An
    entry that is used less than `restart_below` times as often as the mean one begins anew with a vector of the batch.

    Args:
      decay: how much of an average stays.
    """
    fair = seen.vectors / books.usage.shape[1]
    begun = books.initialized > 0
    ready = jnp.concatenate([jnp.ones(1, bool), begun[:-1]])
    begins = ready & ~begun & (seen.vectors > 0)
    usage = decay * books.usage + (1 - decay) * seen.counts
    sums = decay * books.sums + (1 - decay) * seen.sums
    mean = usage.mean(axis=1)
    expired = begun[:, None] & (usage < restart_below * mean[:, None]) & (seen.vectors > 0)[:, None]
    anew = begins[:, None] | expired
    weight = jnp.where(begins, fair, mean)[:, None]
    usage = jnp.where(anew, weight, usage)
    sums = jnp.where(anew[..., None], weight[..., None] * seen.drawn, sums)
    left = ~(begun | begins)[:, None]  # as it was made
    return Codebooks(
        jnp.where(left[..., None], books.sums, sums),
        jnp.where(left, books.usage, usage),
        jnp.where(begins, 1.0, books.initialized),
    )


class Learned(NamedTuple):
    """What a quantiser gives in training.

    Attributes:
      latents: `[B, S, D]`, quantised; gradients pass as if they were not (straight through; Bengio et al., 2013).
      commitment: mean squared distance of what each codebook is asked for to its answer, through which the encoder
        learns to stay near the entries.
      codes: int32 `[B, S, J]`.
      seen: for `moved`.
    """

    latents: Float[Array, "B S D"]
    commitment: Float[Array, ""]
    codes: Int32[Array, "B S J"]
    seen: Seen


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

    def unquantized(self, latents: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        """Latents through both projections and no codebook: what codes without end would stand for."""
        return self.project_out(self.project_in(latents.astype(jnp.float32)))

    def learn(
        self,
        latents: Float[Array, "B S D"],
        levels: Int32[Array, "B"],
        exact: Bool[Array, "B"],
        valid: Bool[Array, "B"],
        rng: Array,
    ) -> Learned:
        """Quantises in training.

        Args:
          levels: codebooks whose answers are added, of each row (quantiser dropout; Zeghidour et al., 2021). All
            codebooks learn from all rows.
          exact: rows that are not quantised at all (Défossez et al., 2024, section 3.3.1), which teaches the decoder.
          valid: rows that count.
          rng: decides which vectors are drawn.
        """
        x = self.project_in(latents.astype(jnp.float32))
        batch, steps, width = x.shape
        size, total = self.config.codebook_size, jnp.maximum(valid.sum() * steps, 1)
        weight = jnp.repeat(valid, steps).astype(jnp.float32)
        order = jnp.argsort(~jnp.repeat(valid, steps), stable=True)  # valid vectors first

        def one(carry: tuple[Array, Array], item: tuple[Array, Array, Array]) -> tuple[Any, Any]:
            (left, answer), (entries, level, key) = carry, item
            flat = jax.lax.stop_gradient(left).reshape(-1, width)
            code = nearest(entries, flat)
            found = entries[code].reshape(left.shape)
            distance = (jnp.square(left - found).mean(axis=-1) * valid[:, None]).sum() / total
            sums = jnp.zeros_like(entries).at[code].add(flat * weight[:, None])
            counts = jnp.zeros(size).at[code].add(weight)
            place = (jax.random.uniform(key, (size,)) * total).astype(jnp.int32)
            answer = answer + jnp.where((level < levels)[:, None, None], found, 0)
            return (left - found, answer), (distance, code.reshape(batch, steps), sums, counts, flat[order[place]])

        entries = jax.lax.stop_gradient(self.books.entries)
        keys = jax.random.split(rng, self.codebooks)
        items = (entries, jnp.arange(self.codebooks), keys)
        (_, answer), (distance, codes, sums, counts, drawn) = jax.lax.scan(one, (x, jnp.zeros_like(x)), items)
        answer = x + jax.lax.stop_gradient(jnp.where(exact[:, None, None], x, answer) - x)
        vectors = jnp.full(self.codebooks, weight.sum())
        return Learned(
            self.project_out(answer), distance.mean(), jnp.moveaxis(codes, 0, -1), Seen(sums, counts, drawn, vectors)
        )


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

    def unquantized(self, latents: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        """See `ResidualQuantizer.unquantized`."""
        return self.semantic.unquantized(latents) + self.acoustic.unquantized(latents)

    def learn(
        self,
        latents: Float[Array, "B S D"],
        codebooks: Int32[Array, "B"],
        exact: Bool[Array, "B"],
        valid: Bool[Array, "B"],
        rng: Array,
    ) -> tuple[Float[Array, "B S D"], Float[Array, ""], Int32[Array, "B S J"], dict[str, Seen]]:
        """Quantises in training: latents, commitment, all codes, and what each part has seen, by its name.

        Args:
          codebooks: how many codes of a step count, of each row; the semantic ones always do.
          exact, valid, rng: as of `ResidualQuantizer.learn`.
        """
        semantic, total = self.config.semantic_codebooks, self.config.codebooks
        keys = jax.random.split(rng)
        first = self.semantic.learn(latents, jnp.full_like(codebooks, semantic), exact, valid, keys[0])
        rest = self.acoustic.learn(latents, codebooks - semantic, exact, valid, keys[1])
        commitment = (semantic * first.commitment + (total - semantic) * rest.commitment) / total
        codes = jnp.concatenate([first.codes, rest.codes], axis=-1)
        return first.latents + rest.latents, commitment, codes, {"semantic": first.seen, "acoustic": rest.seen}

"""MM-Duplex: full-duplex video commentary in JAX."""

__version__ = "0.1.0"

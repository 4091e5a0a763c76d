"""brainjax: see what a brain saw. Contrast, attend and diffuse in JAX."""

__version__ = '0.1.0'

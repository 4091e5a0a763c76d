"""Replays golden numbers of the original PyTorch code: `python -m brainjax.parity FILE.npz ...`."""

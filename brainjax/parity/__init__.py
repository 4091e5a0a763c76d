"""Replays golden numbers of the original PyTorch code: `brainjax parity FILE.npz ...`."""

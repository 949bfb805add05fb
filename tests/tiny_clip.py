"""The small CLIP with random weights of examples/clip_pairs.py, for tests."""

import importlib.util
from pathlib import Path

_path = Path(__file__).parent.parent / "examples" / "clip_pairs.py"
_spec = importlib.util.spec_from_file_location("clip_pairs", _path)
clip_pairs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(clip_pairs)

COLOURS = clip_pairs.COLOURS
build = clip_pairs.tiny_clip

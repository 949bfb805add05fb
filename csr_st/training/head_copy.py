"""Copy a head with other settings or weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from csr_st.head import SparseCSRHead


@torch.no_grad()
def changed(
    head: SparseCSRHead, settings: Mapping[str, Any], weights: Mapping[str, Tensor]
) -> SparseCSRHead:
    """A copy of a head, on its device, with other settings and other or additional parameters."""
    copy = SparseCSRHead(**{**head.get_config_dict(), **settings})
    kept = {**dict(head.named_parameters()), "decoder_weight": head.decoder_weight, **weights}
    for name, parameter in copy.named_parameters():
        parameter.copy_(kept[name])
    return copy.to(head.pre_bias.device)

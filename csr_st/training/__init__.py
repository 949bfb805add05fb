"""Train a head on cached vectors: the loop, the loss, early stopping and checkpoints."""

from csr_st.training.adapting import Adapted, adapt, calibrate
from csr_st.training.loop import TrainResult, train
from csr_st.training.modalities import train_pairs
from csr_st.training.tokens import reweigh, train_tokens

__all__ = [
    "Adapted",
    "TrainResult",
    "adapt",
    "calibrate",
    "reweigh",
    "train",
    "train_pairs",
    "train_tokens",
]

"""Train a head on cached vectors: the loop, the loss, early stopping and checkpoints."""

from csr_st.training.loop import TrainResult, train
from csr_st.training.modalities import train_pairs

__all__ = ["TrainResult", "train", "train_pairs"]

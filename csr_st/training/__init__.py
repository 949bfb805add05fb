"""Training a head on cached vectors: the loop, the loss and what survives a kill."""

from csr_st.training.loop import TrainResult, train
from csr_st.training.modalities import train_pairs

__all__ = ["TrainResult", "train", "train_pairs"]

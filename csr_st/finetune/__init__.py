"""Train a head with a plain `SentenceTransformerTrainer`: alone, with its backbone, or with LoRA.

For a head on a frozen backbone `csr_st.train` is many times faster, as it embeds each text once.
This is for training the backbone too, and for users who have a trainer script already.
"""

from csr_st.finetune.callback import CSRCallback
from csr_st.finetune.loss import HEAD_PARAMETERS, CSRLoss
from csr_st.finetune.start import attach_new_head

__all__ = ["HEAD_PARAMETERS", "CSRCallback", "CSRLoss", "attach_new_head"]

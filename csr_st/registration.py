"""Lets sentence-transformers load saved heads without ``trust_remote_code``.

sentence-transformers resolves the classes in a model's ``modules.json`` through a mapping of
already known ones before it asks for trust. Only this package's own, already imported classes are
put there, so the gate stays shut for everything else.
"""

from __future__ import annotations

import logging

from sentence_transformers.base.model import BaseModel

from csr_st.head import SparseCSRHead
from csr_st.vectors import VectorInput

logger = logging.getLogger(__name__)

CLASS_REFERENCE = "csr_st.head.SparseCSRHead"
VECTOR_REFERENCE = "csr_st.vectors.VectorInput"


def register() -> bool:
    """Make `SparseCSRHead` and `VectorInput` known to sentence-transformers.

    Returns:
        Whether this sentence-transformers has the hook. Without it, models load with
        ``trust_remote_code=True``.
    """
    known = getattr(BaseModel, "_module_classes", None)
    if known is None:
        logger.debug("no class mapping in sentence-transformers: pass trust_remote_code=True")
        return False
    BaseModel._module_classes = {
        **known,
        CLASS_REFERENCE: SparseCSRHead,
        VECTOR_REFERENCE: VectorInput,
    }
    return True

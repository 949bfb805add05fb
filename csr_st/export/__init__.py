"""Export a model as an ONNX or OpenVINO graph (`export_model`), and run it (`ExportedModel`)."""

from csr_st.export.agreement import Agreement
from csr_st.export.exporting import Exported, export_model
from csr_st.export.model import ExportedModel

__all__ = ["Agreement", "Exported", "ExportedModel", "export_model"]

"""Models as graphs for other runtimes, ONNX and OpenVINO, and such a graph at work."""

from csr_st.export.agreement import Agreement
from csr_st.export.exporting import Exported, export_model
from csr_st.export.model import ExportedModel

__all__ = ["Agreement", "Exported", "ExportedModel", "export_model"]

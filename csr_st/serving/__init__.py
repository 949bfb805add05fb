"""A model and an index over HTTP: what `csr-st serve` runs, and an app to mount in another.

Needs ``csr-st[serve]``: FastAPI, uvicorn and prometheus-client.
"""

from csr_st.search.engines.base import require
from csr_st.serving.limits import Limits

for _module in ("fastapi", "prometheus_client", "uvicorn"):
    require(_module, "serve")

from csr_st.serving.app import create_app  # noqa: E402 - after the error that names the extra
from csr_st.serving.running import Served, serve  # noqa: E402

__all__ = ["Limits", "Served", "create_app", "serve"]

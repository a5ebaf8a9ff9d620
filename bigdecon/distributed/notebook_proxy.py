"""The way of a browser to a port of the machine where a notebook runs: through the server's proxy."""

from __future__ import annotations

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path

__all__ = ["proxied_link"]


def proxied_link() -> str | None:
    """Give the template of the link to the dashboard, with {port} in it; None where there is no proxy.

    JupyterHub says where its proxy is. Of a plain Jupyter server it is known by the file that the server
    left for this kernel's user; jupyter-server-proxy has to be installed there.
    """
    prefix = os.environ.get("JUPYTERHUB_SERVICE_PREFIX") or _own_server()
    return f"{prefix.rstrip('/')}/proxy/{{port}}/status" if prefix else None


def _own_server() -> str:
    """Find the base URL of the plain Jupyter server that started this kernel; "" if there is none."""
    if "ipykernel" not in sys.modules or find_spec("jupyter_server_proxy") is None:
        return ""
    from jupyter_core.paths import jupyter_runtime_dir

    described = Path(jupyter_runtime_dir()) / f"jpserver-{os.environ.get('JPY_PARENT_PID')}.json"
    try:
        return str(json.loads(described.read_text())["base_url"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""

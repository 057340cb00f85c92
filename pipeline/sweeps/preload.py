"""What the server that forks processes imports once, for all of them.

The garbage collector is off meanwhile, and what was imported is frozen: the processes share its memory, and neither
they nor the server search it for garbage when they end.
"""

from __future__ import annotations

import gc
from importlib import import_module

gc.disable()
for _name in ("pipeline.runs.stack", "mlflow.tracking", "mlflow.store.tracking.sqlalchemy_store"):
    import_module(_name)
gc.freeze()
gc.enable()

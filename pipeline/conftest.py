"""Files whose examples are not tested.

`pipeline.py` cannot be imported, which is its purpose. Examples of finite networks need torch, which has gigabytes:
they are left out where it is not, unless parts are required.
"""

import importlib.util
import os

collect_ignore = ["pipeline.py"]
if importlib.util.find_spec("torch") is None and not os.environ.get("CNTK_REQUIRE_REAL"):
    collect_ignore.append("cntk_pipeline/finite")

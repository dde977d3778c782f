"""A few values out of many, evenly spaced."""

import numpy as np

from cntk_pipeline.storage.tiled_array import Array


def take_evenly(values: Array, most: int) -> Array:
    """Take at most ``most`` values, at least one, evenly spaced and with the first and the last.

    Examples
    --------
    >>> import numpy as np
    >>> take_evenly(np.arange(10), 4), take_evenly(np.arange(3), 4)
    (array([0, 3, 6, 9]), array([0, 1, 2]))
    """
    places = np.linspace(0, len(values) - 1, max(1, min(most, len(values))))
    return values[np.unique(places.round().astype(int))]

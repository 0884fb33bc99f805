"""What compiled code is given."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def read_only(values: NDArray[Any], kind: type[np.generic] | None = None) -> NDArray[Any]:
    """Return values as kernels take them: contiguous, and not to be written to.

    Numba compiles a kernel for each layout of its arrays, a second each time. What lies so already is not copied.
    """
    lying = np.ascontiguousarray(values, kind).view()
    lying.flags.writeable = False
    return lying

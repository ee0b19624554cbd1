"""Work for a GPU, recorded once and then started as a whole."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["GraphRecorder"]

_WARM_UP = 2  # libraries choose their kernels, and reserve memory, in the first runs


class GraphRecorder:
    """Records functions as CUDA graphs, which share their memory: they never run side by side.

    Args:
        device: A GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    @torch.inference_mode()
    def __call__(self, work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """Records a function.

        Args:
            work: Reads and writes tensors that stay where they are; may run several times.

        Returns:
            Does the same; its result is overwritten by the next run of any recorded function.
        """
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            for _ in range(_WARM_UP):
                work()
        current.wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the device meanwhile.
        with torch.cuda.graph(
            graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
        ):
            result = work()

        def replay() -> Tensor:
            graph.replay()
            return result

        return replay

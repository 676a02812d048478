"""Layer inputs that wait in pinned host memory between forward and backward, copied beside the computation."""

import torch


class Store:
    """One pinned buffer a layer, grown to the longest row seen; copies run on a stream of their own.

    put() hands a tensor over; get() gives it back on the GPU and starts fetching the input of the layer below, which
    backward asks for next.
    """

    def __init__(self, device: torch.device, layers: int):
        self.device = device
        self.stream = torch.cuda.Stream(device)
        self.buffers: list[torch.Tensor | None] = [None] * layers
        self.coming: dict[int, tuple[torch.Tensor, torch.cuda.Event]] = {}
        self.shapes: dict[int, torch.Size] = {}

    def put(self, index: int, h: torch.Tensor) -> int:
        if self.buffers[index] is None or self.buffers[index].numel() < h.numel():
            self.buffers[index] = torch.empty(h.numel(), dtype=h.dtype, pin_memory=True)
        self.shapes[index] = h.shape
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            self.buffers[index][: h.numel()].copy_(h.flatten(), non_blocking=True)
        h.record_stream(self.stream)  # its memory is not given away before the copy ends
        return index

    def get(self, index: int) -> torch.Tensor:
        if index not in self.coming:
            self._fetch(index)
        h, ready = self.coming.pop(index)
        torch.cuda.current_stream(self.device).wait_event(ready)
        h.record_stream(torch.cuda.current_stream(self.device))
        if index - 1 in self.shapes:
            self._fetch(index - 1)
        return h

    def _fetch(self, index: int) -> None:
        shape = self.shapes.pop(index)
        # the stream's own copies are in order, so that a buffer is filled before it is read
        with torch.cuda.stream(self.stream):
            h = torch.empty(shape, device=self.device, dtype=self.buffers[index].dtype)
            h.copy_(self.buffers[index][: shape.numel()].view(shape), non_blocking=True)
            ready = torch.cuda.Event()
            ready.record(self.stream)
        self.coming[index] = (h, ready)

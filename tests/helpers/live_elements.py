"""How many elements of tensors live at once while something is computed."""

import weakref

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveElements(TorchDispatchMode):
    """The most elements that lived at once, of all that operations have made."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, tuple[int, int]] = {}  # storage: elements, tensors on it
        self.peak = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor) and function.namespace == "aten":
                storage = tensor.untyped_storage()
                _, tensors = self.live.get(storage.data_ptr(), (0, 0))
                elements = storage.nbytes() // tensor.element_size()
                self.live[storage.data_ptr()] = elements, tensors + 1
                weakref.finalize(tensor, self.forget, storage.data_ptr())
        self.peak = max(self.peak, sum(elements for elements, _ in self.live.values()))
        return output

    def forget(self, storage: int) -> None:
        elements, tensors = self.live.pop(storage)
        if tensors > 1:
            self.live[storage] = elements, tensors - 1

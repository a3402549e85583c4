"""What kernels may assume of the memory of weights and pages."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from mlc_llm.weights.memory import ALIGNMENT, HUGE_PAGE, PAGE, huge_empty, side_by_side


@pytest.mark.parametrize("shape", [(0,), (1,), (3, 5), (1 << 18,), (1 << 19,), (3, 1 << 20)])
def test_every_array_is_aligned_for_vector_loads(shape: tuple[int, ...]) -> None:
    array = huge_empty(shape, "float32")
    assert array.shape == shape
    assert array.dtype == np.float32
    assert array.ctypes.data % (HUGE_PAGE if array.nbytes >= HUGE_PAGE else ALIGNMENT) == 0
    array[...] = 1
    assert array.sum() == array.size


def test_arrays_side_by_side_are_aligned_and_do_not_overlap() -> None:
    wanted = [((3, 5), "float16"), ((0,), "int32"), ((1 << 20,), "float32"), ((7,), "uint8")]
    arrays = side_by_side(wanted)
    assert [(array.shape, array.dtype) for array in arrays] == wanted
    assert all(array.ctypes.data % PAGE == 0 for array in arrays if array.nbytes >= HUGE_PAGE)
    assert all(array.ctypes.data % ALIGNMENT == 0 for array in arrays)
    for number, array in enumerate(arrays):
        array[...] = number
    assert [set(array.ravel().tolist()) for array in arrays] == [{0}, set(), {2}, {3}]


def test_arrays_side_by_side_leave_no_room_between_them_but_the_rest_of_a_page() -> None:
    first, second = side_by_side([((HUGE_PAGE + 1,), "uint8"), ((HUGE_PAGE + 1,), "uint8")])
    assert second.ctypes.data - first.ctypes.data == HUGE_PAGE + PAGE


def test_memory_lives_as_long_as_a_view_of_it() -> None:
    array = huge_empty((HUGE_PAGE,), "uint8")
    array[...] = 7
    view = array[1000:1003]
    del array
    gc.collect()
    assert view.tolist() == [7, 7, 7]


def test_memory_is_freed_with_the_last_view() -> None:
    array = huge_empty((HUGE_PAGE,), "uint8")
    base = array
    while isinstance(base, np.ndarray) and base.base is not None:
        base = base.base
    freed = weakref.ref(base if not isinstance(base, memoryview) else base.obj)
    del array, base
    gc.collect()
    assert freed() is None

"""x"""


def split_range(first: int, last: int, calls: int) -> list[int]:
    """Where steps first, ..., last - 1 begin and end if they are made in so many calls, or fewer: rising."""
    return sorted({first + round((last - first) * i / calls) for i in range(calls + 1)})

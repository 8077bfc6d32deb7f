"""Durations in words."""


def format_duration(seconds: float) -> str:
    """Returns a rough duration in words: '40 s', '12 min', '3.5 h', '2.1 days'."""
    for size, unit, digits in ((86400, "days", 1), (3600, "h", 1), (60, "min", 0)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.{digits}f} {unit}"
    return f"{seconds:.0f} s"

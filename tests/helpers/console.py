"""The commands of the package, `python -m its_jax.NAME`."""

COMMANDS = (
    "sample",
    "sweep",
    "top",
    "evaluate",
    "colorize",
    "benchmark",
    "sign",
    "sheet",
    "gallery",
    "versus",
    "video",
)
COMMANDS += ("tiny.train", "tiny.evaluate", "runtime.list_configs")

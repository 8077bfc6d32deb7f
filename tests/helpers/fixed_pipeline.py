"""Pipelines that are injected in place of real ones."""


class FixedPipeline:
    """Returns one program, whatever is requested, so that tests share what is compiled.

    Attributes:
      program: what `compile` returns. requests: the options of each request.
    """

    def __init__(self, program):
        self.program, self.requests = program, []

    def compile(self, settings, **options):
        self.requests.append(options)
        return self.program


class NoPipeline:
    """Fails the test that compiles anything."""

    def compile(self, settings, **options):
        raise AssertionError("nothing should be loaded or compiled")


class Wrapped:
    """A program that behaves like another one, except for what a subclass overrides."""

    def __init__(self, program):
        self._program = program

    def __getattr__(self, name):
        return getattr(self._program, name)

    def __call__(self, batch, *args, **options):
        return self._program(batch, *args, **options)

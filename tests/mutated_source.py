"""A plugin of pytest (`-p tests.mutated_source`): a module of the package is imported with another text in it.

MUTATED_SOURCE: JSON of the module's name, a text in it, and what stands in its place.
"""

import json
import os
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import SourceFileLoader
from importlib.util import find_spec

VARIABLE = "MUTATED_SOURCE"


class MutatedLoader(SourceFileLoader):
    """Compiles the other text, and never what was compiled before."""

    def get_code(self, fullname):
        """The module's code; raises ValueError where the text is not there."""
        _, text, mistake = json.loads(os.environ[VARIABLE])
        source = self.get_data(self.path).decode()
        if text not in source:
            raise ValueError(f"{fullname} has not {text!r}")
        return compile(source.replace(text, mistake), self.path, "exec")


class Finder(MetaPathFinder):
    """Finds that one module, where the others do."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname != json.loads(os.environ[VARIABLE])[0]:
            return None
        sys.meta_path.remove(self)
        try:
            spec = find_spec(fullname)
        finally:
            sys.meta_path.insert(0, self)
        spec.loader = MutatedLoader(fullname, spec.origin)
        return spec


if VARIABLE in os.environ:
    sys.meta_path.insert(0, Finder())

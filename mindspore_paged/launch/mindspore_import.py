"""MindSpore's import, which is most of what a small model's start takes: what no model here needs is left for later.

Of some four seconds on a busy core almost two go into what training, other devices and the garbage collector want:

- its libraries: all are linked at once, each symbol looked for in thirty of them. The one with most symbols is linked
  alone before, in a fifth of the time;
- parts of SciPy, for metrics and data sets: they come when the first of their functions is used;
- tables of the operators of Ascend's AI CPUs, hundreds of modules: not where there is no Ascend;
- the collector, which looks at all modules again and again, and finds nothing.
"""

import ctypes
import gc
import importlib.util
import os
import pkgutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

MINDSPORE = "mindspore"
LINKED_FIRST = "lib/libmindspore_ops.so"
USED_LATER = ("scipy", "scipy.io", "scipy.linalg", "scipy.ndimage", "scipy.sparse")
OF_ASCEND = "mindspore.ops._op_impl.aicpu"
SIGNS_OF_ASCEND = ("ASCEND_HOME_PATH", "ASCEND_OPP_PATH", "ASCEND_TOOLKIT_HOME")
PLACES_OF_ASCEND = (Path("/usr/local/Ascend"), Path("/dev/davinci_manager"))


def make_it_quick() -> None:
    """Have MindSpore imported so, whoever imports it first; nothing where that has happened already."""
    if MINDSPORE not in sys.modules and not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


@contextmanager
def collector_paused() -> Iterator[None]:
    """No garbage is looked for while the block runs."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class _Finder(MetaPathFinder):
    """Finds MindSpore once, where the others do, and has it loaded in another way."""

    def find_spec(self, fullname, path=None, target=None) -> ModuleSpec | None:
        if fullname != MINDSPORE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(MINDSPORE)
        if spec is not None and spec.loader is not None:
            spec.loader = _QuickLoader(spec.loader)
        return spec


class _QuickLoader(Loader):
    def __init__(self, loader: Loader):
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__.loader = module.__loader__ = self._loader
        with collector_paused(), _set_aside():
            _link_first(Path(module.__file__).parent)
            self._loader.exec_module(module)


def _link_first(folder: Path) -> None:
    with suppress(OSError):  # another build, without it
        ctypes.PyDLL(str(folder / LINKED_FIRST))


@contextmanager
def _set_aside() -> Iterator[None]:
    """Others' modules in the place of those that nobody needs now; only the tables' stays when the block has run."""
    later = [] if any(name in sys.modules for name in USED_LATER) else [_LaterModule(name) for name in USED_LATER]
    sys.modules.update({module.__name__: module for module in later})
    if not _may_have_ascend():
        sys.modules.setdefault(OF_ASCEND, _Nothing(OF_ASCEND))
    try:
        yield
    finally:
        for module in later:
            sys.modules.pop(module.__name__, None)


def _may_have_ascend() -> bool:
    return any(name in os.environ for name in SIGNS_OF_ASCEND) or any(place.exists() for place in PLACES_OF_ASCEND)


class _Nothing(ModuleType):
    """A module without anything in it."""

    __all__ = ()


class _LaterModule(ModuleType):
    """A module of things that are fetched when they are used."""

    def __init__(self, name: str):
        super().__init__(name)
        self.__path__ = []

    def __getattr__(self, name: str) -> "_Later":
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return _Later(f"{self.__name__}.{name}")


class _Later:
    """What `name` says, a module or something in one: imported when something of it is used, or it is called."""

    def __init__(self, name: str):
        self._name = name

    def __getattr__(self, name: str):
        return getattr(pkgutil.resolve_name(self._name), name)

    def __call__(self, *arguments, **options):
        return pkgutil.resolve_name(self._name)(*arguments, **options)

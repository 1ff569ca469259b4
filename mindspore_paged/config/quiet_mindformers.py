"""Importing MindFormers without what it does to the process that imports it."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from mindspore_paged.files import scratch_folder

# MindFormers asks for it at each message, not only when it is imported.
_LOG_VARIABLE = "LOG_MF_PATH"


@contextmanager
def quiet_mindformers() -> Iterator[None]:
    """Let MindFormers be imported and used without its `output/log` folder, its chatter and its hook on warnings."""
    disabled_before = logging.root.manager.disable
    with scratch_folder("mindformers-log-") as folder, warnings.catch_warnings():
        chosen_by_user = _LOG_VARIABLE in os.environ
        os.environ.setdefault(_LOG_VARIABLE, str(folder))
        warnings.simplefilter("ignore")
        logging.disable(max(disabled_before, logging.WARNING))
        try:
            yield
        finally:
            logging.disable(disabled_before)
            if not chosen_by_user:
                del os.environ[_LOG_VARIABLE]

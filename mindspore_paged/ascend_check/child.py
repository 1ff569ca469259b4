"""The process that runs a group's checks, and tells by a pipe what it begins and what it finds."""

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from mindspore_paged.ascend_check.groups import BUILT_IN_TIMES, GROUPS, TIMED_GROUPS, Check, Target, checks_of
from mindspore_paged.config import config_from_dict

BEGUN, FOUND, FAILED, COMPLETE = "begun", "found", "failed", "complete"
"""The keys of what is told, a line of JSON each: a check's operator and shape, a finding, why it failed; at the end."""
START = "start of"
"""What stands for the operator before the first check."""
LONGEST_REASON = 300
OPERATOR_SAYS = "Error message is "


def main() -> int:
    """Run the checks of a group from number `first` on; returns 0, or 1 behind the first that fails."""
    parser = argparse.ArgumentParser()
    parser.add_argument("group", choices=(*GROUPS, *TIMED_GROUPS))
    parser.add_argument("first", type=int)
    parser.add_argument("pipe", type=int)
    parser.add_argument("backend")
    parser.add_argument("repeats", type=int)
    parser.add_argument("library", type=Path, nargs="?")
    options = parser.parse_args()
    os.set_inheritable(options.pipe, False)  # the end of this process is the end of what it tells
    with open(options.pipe, "w", encoding="utf-8", buffering=1) as pipe:
        target = Target(options.backend, options.library, options.repeats)
        return run(options.group, options.first, target, lambda told: print(json.dumps(told), file=pipe))


def run(group: str, first: int, target: Target, tell: Callable[[dict], None]) -> int:
    """The same in this process: a device that failed once does nothing right any more, so one failure ends it."""
    try:
        set_device(target, infer_boost=group == BUILT_IN_TIMES)
        checks = checks_of(group, target)
    except Exception as error:  # noqa: BLE001 - what MindSpore and the driver raise is what is asked for
        tell({BEGUN: (START, f"MindSpore for {target.backend}")})
        tell({FAILED: reason_of(error)})
        return 1
    for check in checks[first:]:
        if not _succeeds(check, tell):
            return 1
    tell({COMPLETE: group})
    return 0


def set_device(target: Target, infer_boost: bool) -> None:
    """Put MindSpore on the backend's device; its own PagedAttention is there with infer_boost only."""
    import mindspore as ms

    from mindspore_paged.engine.building.context import set_context

    set_context(config_from_dict({"cache": {"kv_cache_dtype": "float16"}, "runtime": {"ops_backend": target.backend}}))
    if infer_boost:
        ms.set_context(jit_config={"jit_level": "O0", "infer_boost": "on"})


def _succeeds(check: Check, tell: Callable[[dict], None]) -> bool:
    tell({BEGUN: (check.operator, check.shape)})
    try:
        for finding in check.run():
            tell({FOUND: asdict(finding)})
    except Exception as error:  # noqa: BLE001 - the same
        tell({FAILED: reason_of(error)})
        return False
    return True


def reason_of(error: Exception) -> str:
    """The first line of an error that says something: MindSpore draws rules, and names the library before it."""
    lines = (line.strip() for line in str(error).splitlines() if any(map(str.isalpha, line)))
    line = next(lines, type(error).__name__)
    return (line.partition(OPERATOR_SAYS)[2] or line)[:LONGEST_REASON]


if __name__ == "__main__":
    sys.exit(main())

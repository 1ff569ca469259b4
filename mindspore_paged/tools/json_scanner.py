"""Where a JSON value that comes in pieces ends."""

import re

_IN_STRING = re.compile(r'["\\]')
_OUTSIDE = re.compile(r'["{}\[\]]')


class JsonScanner:
    """Counts brackets outside of strings; what stands between them is not looked at. depth: those that are open."""

    def __init__(self, depth: int = 0):
        self.depth = depth
        self._in_string = False
        self._escaped = False

    def advance(self, text: str, at: int, until: int) -> tuple[int, bool]:
        """Go on from text[at]; returns where it stopped, and whether a bracket that closes there left `until` open."""
        while at < len(text):
            if self._escaped:
                self._escaped = False
                at += 1
                continue
            found = (_IN_STRING if self._in_string else _OUTSIDE).search(text, at)
            if found is None:
                return len(text), False
            at, character = found.end(), found[0]
            if character == "\\":
                self._escaped = True
            elif character == '"':
                self._in_string = not self._in_string
            elif character in "{[":
                self.depth += 1
            else:
                self.depth -= 1
                if self.depth == until:
                    return at, True
        return at, False

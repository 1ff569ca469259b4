"""The table in the documentation and the classes say the same."""

import re
from pathlib import Path

from mindspore_paged import errors

TABLE = (Path(__file__).parents[1] / "docs" / "errors.md").read_text(encoding="utf-8")


def test_every_error_has_a_code_of_its_own_and_stands_in_the_table():
    classes = {e.__name__: e.code for e in vars(errors).values() if isinstance(e, type) and e is not errors.PagedError}
    assert all(issubclass(getattr(errors, name), errors.PagedError) for name in classes)
    documented = {name: code for code, name in re.findall(r"^\| `(\w+)` \| `(\w+)` \|", TABLE, re.MULTILINE)}
    assert documented == classes
    assert len(set(classes.values())) == len(classes)

import pytest

from mindspore_paged.errors import ConfigError
from mindspore_paged.script import exit_code_of


def raising(error):
    def work():
        raise error

    return work


@pytest.mark.parametrize(("given", "code"), [(None, 0), (0, 0), (1, 1)])
def test_the_works_own_code_is_kept(given, code):
    assert exit_code_of(lambda: given) == code


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ConfigError("no model"), 2, "error: no model\n"),
        (FileNotFoundError(2, "Not there", "x.json"), 2, "error: [Errno 2] Not there: 'x.json'\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_what_a_user_can_put_right_is_one_line(capsys, error, code, line):
    assert exit_code_of(raising(error)) == code
    assert capsys.readouterr().err == line


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        exit_code_of(raising(ZeroDivisionError()))

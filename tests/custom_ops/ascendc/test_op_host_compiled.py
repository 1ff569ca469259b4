"""op_host and the headers that it shares with the kernels, as the compilers of other CANNs see them."""

import re
import subprocess

import pytest

from mindspore_paged.custom_ops.build import find_compiler
from tests.custom_ops.ascendc.op_host_calls import OP_HOST, OP_KERNEL, compile_driver, run

MACRO = "PAGED_OPS_HOST_DEVICE"
FUNCTION = re.compile(r"^(?P<before>[A-Za-z][\w:<> ]*?)\b(?P<name>\w+)\((?P<parameters>[^;{}]*)\) \{", re.MULTILINE)


def included(files):
    """All headers of op_kernel that these files include, by themselves or by others."""
    found, ahead = set(), list(files)
    while ahead:
        names = re.findall(r'#include "(?:\.\./op_kernel/)?(\w+\.h)"', ahead.pop().read_text())
        new = {OP_KERNEL / name for name in names if (OP_KERNEL / name).is_file()} - found
        found |= new
        ahead += new
    return found


SHARED = included(OP_HOST.glob("*.cpp"))


def functions_for_both_sides():
    """Those of shared headers that a kernel calls, by itself or by another of them: file, name, what stands before."""
    functions = {
        match["name"]: (file, match["before"]) for file in SHARED for match in FUNCTION.finditer(file.read_text())
    }
    bodies = {
        name: file.read_text().partition(f" {name}(")[2].partition("\n}")[0] for name, (file, _) in functions.items()
    }
    ahead = [re.sub("//.*", "", file.read_text()) for file in OP_KERNEL.iterdir() if file not in SHARED]
    found = {}
    while ahead:
        text = ahead.pop()
        for name in functions.keys() - found.keys():
            if re.search(rf"\b{name}\(", text):
                found[name] = functions[name]
                ahead.append(bodies[name])
    return found


def test_what_kernels_call_of_the_hosts_headers_is_marked_for_both():
    """Ascend C compiles host and device apart: a kernel may call nothing that is the host's alone."""
    found = functions_for_both_sides()
    assert {"SoftmaxStateFloats", "CubeExchangeBytes", "PaddedScales"} <= found.keys()
    unmarked = [f"{file.name}: {name}" for name, (file, before) in found.items() if MACRO not in before]
    assert unmarked == []


def test_the_mark_is_huaweis_for_its_compiler_and_nothing_for_others():
    text = f"{(OP_KERNEL / 'host_device.h').read_text()}\n{MACRO} constexpr int One() {{ return 1; }}\n"
    for flags, mark in (["-D__CCE__"], "[host, aicore] "), ([], ""):
        command = [*find_compiler(), "-x", "c++", "-E", "-P", *flags, "-"]
        preprocessed = subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout
        assert preprocessed.strip() == f"{mark}constexpr int One() {{ return 1; }}"


@pytest.mark.parametrize("flags", [[], ["-DCANN_WITHOUT_SET_BLOCK_DIM"]])
def test_blocks_are_set_by_whichever_call_there_is(tmp_path, flags):
    driver = compile_driver(tmp_path / "driver", [OP_HOST / "read_blocks_custom.cpp"], *flags)
    launch, said = run(driver, "ReadBlocksCustom")
    assert (launch["block_dim"], said) == (12, "")

"""custom_ops/build_ascend.py, against a tree that looks like CANN and a tool that looks like MindSpore's."""

import os
import re
import subprocess
import sys
from pathlib import Path

import mindspore as ms
import pytest

from mindspore_paged.config import config_from_dict
from mindspore_paged.custom_ops import build, build_ascend, targets
from mindspore_paged.custom_ops.build_ascend import ascend_op_package, use_ascend_op_package
from mindspore_paged.custom_ops.build_ascend import build_ascend as run_build
from mindspore_paged.custom_ops.ops import PagedAttention, ReadBlocks
from mindspore_paged.custom_ops.process_folder import REFUSAL, WRAPPERS
from mindspore_paged.custom_ops.targets import require_backend
from mindspore_paged.engine.building.context import set_context
from mindspore_paged.errors import ConfigError

# Takes the arguments of MindSpore's tool and writes where that writes: beside itself and into the working directory.
# With `fail` among the op_host sources the compilation fails; with `no_package` nothing is installed.
FAKE_TOOL = """
import argparse, pathlib, sys
parser = argparse.ArgumentParser()
parser.add_argument("-o", "--op_host_path", type=pathlib.Path)
parser.add_argument("-k", "--op_kernel_path", type=pathlib.Path)
for flag in ("vendor_name", "soc_version", "ascend_cann_package_path", "install_path"):
    parser.add_argument("--" + flag, required=True)
options = parser.parse_args()
assert pathlib.Path("start.sh").is_file()
assert not options.op_host_path.is_symlink() and not options.op_kernel_path.is_symlink()
project = pathlib.Path(__file__).resolve().parent / "CustomProject"
project.mkdir()
pathlib.Path("build.log").write_text("".join(f"line {i}\\n" for i in range(100)))
assert sys.stdin.read() == ""
if (options.op_host_path / "fail.cpp").exists():
    sys.exit(1)
if not (options.op_host_path / "no_package.cpp").exists():
    package = pathlib.Path(options.install_path) / "vendors" / options.vendor_name
    package.mkdir(parents=True)
    sources = sorted(p.name for p in [*options.op_host_path.iterdir(), *options.op_kernel_path.iterdir()])
    (package / "record").write_text("\\n".join([options.soc_version, options.ascend_cann_package_path, *sources]))
"""


@pytest.fixture
def cann(tmp_path, monkeypatch):
    """A folder with what a build needs of CANN; no other CANN is found."""
    root = tmp_path / "cann"
    for folder in ("compiler/ccec_compiler/bin", *build_ascend.TEMPLATES[0]):
        (root / folder).mkdir(parents=True)
    compiler = root / "compiler" / "ccec_compiler" / "bin" / "bisheng"
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    programs = tmp_path / "programs"
    programs.mkdir()
    for program in ("cmake", "bash"):
        (programs / program).symlink_to("/bin/sh")
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.delenv("ASCEND_HOME_PATH", raising=False)
    monkeypatch.setattr(build_ascend, "CANN_PLACES", (tmp_path / "absent", tmp_path / "absent too"))
    return root


@pytest.fixture
def sources(tmp_path):
    root = tmp_path / "ascendc"
    for file in ("op_host/one_custom.cpp", "op_kernel/one_custom_tiling.h", "emulator/kernel_operator.h"):
        (root / file).parent.mkdir(parents=True)
        (root / file).write_text("\n")
    return root


@pytest.fixture
def tool(tmp_path):
    """MindSpore's tool; read-only, as in a wheel that an administrator installed."""
    folder = tmp_path / "custom_compiler"
    folder.mkdir()
    (folder / "setup.py").write_text(FAKE_TOOL)
    (folder / "start.sh").write_text("")
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o755)


@pytest.fixture
def no_package(tmp_path, monkeypatch):
    """Nothing is built, and nothing is in the environment."""
    monkeypatch.setattr(build_ascend, "DEFAULT_PACKAGES", tmp_path / "ascend")
    for name in ("ASCEND_CUSTOM_OPP_PATH", "ASCEND_OPP_PATH", WRAPPERS, REFUSAL):
        monkeypatch.setenv(name, "")  # so that it is taken back, whoever sets it
        monkeypatch.delenv(name)


class TestBuild:
    def test_installs_the_package_and_leaves_the_tool_alone(self, cann, sources, tool, tmp_path):
        package = run_build(tmp_path / "out", None, cann, sources=sources, tool=tool)
        assert package == tmp_path / "out" / "vendors" / "mindspore_paged"
        record = (package / "record").read_text().splitlines()
        assert record == ["ascend910b", str(cann), "one_custom.cpp", "one_custom_tiling.h"]
        assert sorted(os.listdir(tool)) == ["setup.py", "start.sh"]
        assert os.listdir(tmp_path / "out" / "vendors") == ["mindspore_paged"]

    def test_a_new_package_replaces_the_old_one_and_a_failed_build_does_not(self, cann, sources, tool, tmp_path):
        package = run_build(tmp_path / "out", "ascend910_93", cann, sources=sources, tool=tool)
        (package / "stale").write_text("")
        run_build(tmp_path / "out", "ascend910b", cann, sources=sources, tool=tool)
        assert os.listdir(package) == ["record"]
        (sources / "op_host" / "fail.cpp").write_text("")
        with pytest.raises(build.BuildError):
            run_build(tmp_path / "out", "ascend910_93", cann, sources=sources, tool=tool)
        assert (package / "record").read_text().startswith("ascend910b\n")
        assert os.listdir(package.parent) == ["mindspore_paged"]

    def test_a_failed_build_shows_the_end_of_its_log(self, cann, sources, tool, tmp_path):
        (sources / "op_host" / "fail.cpp").write_text("")
        with pytest.raises(build.BuildError) as caught:
            run_build(tmp_path / "out", None, cann, sources=sources, tool=tool)
        first, *log = str(caught.value).splitlines()
        assert first == "compiling the Ascend operators failed with exit code 1; the log ends:"
        assert log == [f"line {i}" for i in range(70, 100)]

    def test_a_tool_that_installs_nothing_is_not_believed(self, cann, sources, tool, tmp_path):
        (sources / "op_host" / "no_package.cpp").write_text("")
        with pytest.raises(build.BuildError, match="ended well, but did not install"):
            run_build(tmp_path / "out", None, cann, sources=sources, tool=tool)

    @pytest.mark.parametrize("soc", ["ascend310p", "Ascend910B"])
    def test_another_chip_is_refused(self, cann, soc):
        with pytest.raises(build.BuildError, match=f"^--soc is '{soc}'; it must be ascend910b or ascend910_93$"):
            run_build(soc=soc, cann=cann)

    def test_a_path_that_the_tools_scripts_would_split_is_refused(self, cann, sources, tool, tmp_path, monkeypatch):
        with pytest.raises(
            build.BuildError, match=r"^--output is '.*with space'; the compiler tool takes only letters"
        ):
            run_build(tmp_path / "with space", None, cann, sources=sources, tool=tool)
        spaced = cann.rename(tmp_path / "CANN 8")
        with pytest.raises(build.BuildError, match=r"^--cann is '.*CANN 8'; the compiler tool"):
            run_build(tmp_path / "out", None, spaced, sources=sources, tool=tool)

    def test_command_prints_what_to_export(self, cann, sources, tool, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(build_ascend.build_ascend, "__kwdefaults__", {"sources": sources, "tool": tool})
        arguments = [
            "--backend",
            "ascend",
            "--cann",
            str(cann),
            "--output",
            str(tmp_path / "out"),
            "--soc",
            "ascend910_93",
        ]
        assert build.main(arguments) == 0
        package = tmp_path / "out" / "vendors" / "mindspore_paged"
        assert capsys.readouterr().out == f"export ASCEND_CUSTOM_OPP_PATH={package}:$ASCEND_CUSTOM_OPP_PATH\n"
        assert (package / "record").read_text().startswith("ascend910_93\n")


class TestWhatIsMissing:
    def error_of(self, *arguments, capsys):
        assert build.main(["--backend", "ascend", *map(str, arguments)]) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.count("\n") == 1
        return printed.err.removeprefix("error: ").rstrip()

    def test_no_cann_at_all(self, cann, tmp_path, capsys):
        message = self.error_of(capsys=capsys)
        assert message.startswith("no CANN: ASCEND_HOME_PATH is not set and neither ")
        assert f"{tmp_path / 'absent'} nor {tmp_path / 'absent too'} exists" in message
        assert "--cann" in message

    def test_a_cann_that_is_not_there(self, cann, tmp_path, monkeypatch, capsys):
        assert (
            self.error_of("--cann", tmp_path / "x", capsys=capsys)
            == f"no CANN: --cann {tmp_path / 'x'} is not a folder"
        )
        monkeypatch.setenv("ASCEND_HOME_PATH", "/absent")
        assert self.error_of(capsys=capsys) == "no CANN: ASCEND_HOME_PATH is /absent, which is not a folder"

    def test_the_order_of_places(self, cann, tmp_path, monkeypatch):
        places = [tmp_path / name for name in ("given", "home", "usual")]
        for place in places:
            place.mkdir()
        monkeypatch.setattr(build_ascend, "CANN_PLACES", (tmp_path / "absent", places[2]))
        assert build_ascend.find_cann(None) == places[2]
        monkeypatch.setenv("ASCEND_HOME_PATH", str(places[1]))
        assert build_ascend.find_cann(None) == places[1]
        assert build_ascend.find_cann(places[0]) == places[0]

    def test_every_missing_tool_is_named_at_once(self, cann, tmp_path, monkeypatch, capsys):
        (cann / "compiler/ccec_compiler/bin/bisheng").unlink()
        (cann / build_ascend.TEMPLATES[0][1]).rmdir()
        monkeypatch.setenv("PATH", str(tmp_path))
        assert self.error_of("--cann", cann, capsys=capsys) == (
            f"CANN in {cann} cannot compile operators: the compiler bisheng or ccec, cmake, bash, "
            "the project template tools/op_project_templates/ascendc/customize not found"
        )

    def test_mindspores_sample_project_stands_in_for_the_template(self, cann):
        (cann / build_ascend.TEMPLATES[0][1]).rmdir()
        (cann / build_ascend.TEMPLATES[1][0]).mkdir(parents=True)
        build_ascend.check_tools(cann)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--soc", "ascend910b"], "--soc is for --backend ascend only; --backend is cpu"),
            (["--backend", "ascend_emulator", "--output", "x"], "--output is for --backend ascend only"),
            (["--backend", "ascend", "--isa", "all"], "--isa is for --backend cpu only; --backend is ascend"),
        ],
    )
    def test_options_of_another_backend_are_refused(self, arguments, message, capsys):
        assert build.main(arguments) == 2
        assert capsys.readouterr().err.startswith(f"error: {message}")


def test_the_installed_wheel_has_the_tool():
    """The one that this MindSpore brings takes the arguments that are given to the fake."""
    text = (build_ascend.find_tool() / "setup.py").read_text()
    for flag in ('"-o"', '"-k"', "--vendor_name", "--soc_version", "--ascend_cann_package_path", "--install_path"):
        assert flag in text
    for soc in build_ascend.SOCS:
        assert f'"{soc}"' in text
    assert "install.log" in text
    assert "build.log" in text


class TestPackage:
    def test_none_says_what_to_run(self, no_package):
        with pytest.raises(
            build.BuildError, match=r"are not built: .* is missing; run `python -m .* --backend ascend`$"
        ):
            ascend_op_package()
        with pytest.raises(ConfigError, match="the Ascend operators are not built"):
            require_backend("ascend")

    def test_the_built_one_is_put_before_others_in_the_environment(self, no_package, tmp_path, monkeypatch):
        package = tmp_path / "ascend" / "vendors" / "mindspore_paged"
        package.mkdir(parents=True)
        with pytest.raises(build.BuildError, match="ASCEND_OPP_PATH is not set; source CANN's set_env.sh"):
            use_ascend_op_package()
        assert "ASCEND_CUSTOM_OPP_PATH" not in os.environ
        monkeypatch.setenv("ASCEND_OPP_PATH", "/opp")
        monkeypatch.setenv("ASCEND_CUSTOM_OPP_PATH", "/other")
        for _ in range(2):
            assert use_ascend_op_package() == package
            assert os.environ["ASCEND_CUSTOM_OPP_PATH"] == f"{package}:/other"

    def test_one_that_the_user_exported_is_taken(self, no_package, tmp_path, monkeypatch):
        package = tmp_path / "elsewhere" / "vendors" / "mindspore_paged"
        package.mkdir(parents=True)
        monkeypatch.setenv("ASCEND_OPP_PATH", "/opp")
        monkeypatch.setenv("ASCEND_CUSTOM_OPP_PATH", f"/other:{package}")
        assert use_ascend_op_package() == package
        assert os.environ["ASCEND_CUSTOM_OPP_PATH"] == f"/other:{package}"

    @pytest.mark.parametrize(
        "path", ["/opt/opp-8/cann/opp", "/cann/opp/latest", "/home/stopped/cann/opp", "/cann/oppo"]
    )
    def test_a_cann_that_mindspore_would_cut_in_the_wrong_place_is_refused(
        self, no_package, tmp_path, monkeypatch, path
    ):
        """It takes what stands before the first "opp" of $ASCEND_OPP_PATH for CANN's folder."""
        (tmp_path / "ascend" / "vendors" / "mindspore_paged").mkdir(parents=True)
        monkeypatch.setenv("ASCEND_OPP_PATH", path)
        with pytest.raises(ConfigError, match=f"^ASCEND_OPP_PATH is {path}; it must end with /opp and have no other"):
            require_backend("ascend")
        assert "ASCEND_CUSTOM_OPP_PATH" not in os.environ

    @pytest.mark.parametrize("path", ["/usr/local/Ascend/ascend-toolkit/latest/opp", "/cann/opp/", "/opp"])
    def test_what_set_env_sets_is_cut_in_the_right_place(self, path):
        build_ascend.check_opp_path(path)
        assert path.split("opp")[0].rstrip("/") == str(Path(path).parent).rstrip("/")

    def test_the_package_is_named_before_the_device_is_set(self, no_package, tmp_path, monkeypatch):
        """CANN reads where packages are when the device is set up, and never again."""
        package = tmp_path / "ascend" / "vendors" / "mindspore_paged"
        package.mkdir(parents=True)
        monkeypatch.setenv("ASCEND_OPP_PATH", "/opp")
        named = []
        monkeypatch.setattr(ms, "set_device", lambda _: named.append(os.environ.get("ASCEND_CUSTOM_OPP_PATH")))
        monkeypatch.setattr(ms, "set_context", lambda **_: None)
        sections = {"model": {"name": "tiny", "dtype": "float16"}}
        set_context(config_from_dict({**sections, "runtime": {"ops_backend": "ascend", "device_target": "Ascend"}}))
        assert named == [str(package)]

    def test_a_device_in_use_that_does_not_know_the_package_is_refused(self, no_package, tmp_path, monkeypatch):
        package = tmp_path / "ascend" / "vendors" / "mindspore_paged"
        package.mkdir(parents=True)
        monkeypatch.setenv("ASCEND_OPP_PATH", "/opp")
        monkeypatch.setattr(targets.hal, "is_initialized", lambda device: device == "Ascend")
        with pytest.raises(ConfigError, match="MindSpore has used the device already; create the LLM before that"):
            require_backend("ascend")
        monkeypatch.setenv("ASCEND_CUSTOM_OPP_PATH", str(package))
        require_backend("ascend")

    def test_operators_are_named_as_in_the_package(self, no_package, tmp_path, monkeypatch):
        (tmp_path / "ascend" / "vendors" / "mindspore_paged").mkdir(parents=True)
        monkeypatch.setenv("ASCEND_OPP_PATH", "/opp")
        monkeypatch.setenv("ASCEND_CUSTOM_OPP_PATH", "")
        assert PagedAttention(1.0, "ascend").op.func == "aclnnPagedAttentionCustom"
        assert ReadBlocks("ascend").op.func == "aclnnReadBlocksCustom"


def test_the_module_run_by_hand_knows_its_own_errors():
    """`-m` loads build.py beside the module that the other builders import."""
    command = [sys.executable, "-m", "mindspore_paged.custom_ops.build", "--backend", "ascend", "--cann", "/absent"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "error: no CANN: --cann /absent is not a folder\n"


@pytest.mark.parametrize(
    ("name", "inputs", "attributes"),
    [
        ("ReshapeAndCache", ["key", "value", "key_cache", "value_cache", "slot_mapping"], []),
        (
            "PagedAttention",
            ["query", "key_cache", "value_cache", "block_table", "rows", "context_lens"],
            [("scale", "Float"), ("window", "Int")],
        ),
        ("CopyBlocks", ["key_cache", "value_cache", "pairs"], []),
        ("ReadBlocks", ["key_cache", "value_cache", "block_ids"], []),
        ("WriteBlocks", ["key_cache", "value_cache", "pages", "block_ids"], [("layer", "Int")]),
    ],
)
def test_the_ops_of_the_package_take_what_ops_py_gives(name, inputs, attributes):
    """In one order: MindSpore passes operands by their place, tensors first."""
    snake = re.sub(r"(?<!^)([A-Z])", r"_\1", name).lower()
    text = (build_ascend.ASCENDC_SOURCES / "op_host" / f"{snake}_custom.cpp").read_text()
    assert f"OP_ADD({name}Custom);" in text
    assert re.findall(r'this->Input\("(\w+)"\)', text) == inputs
    assert re.findall(r'this->Attr\("(\w+)"\).*?\.(Float|Int)\(\)', text) == attributes
    assert not set(re.findall(r'this->Output\("(\w+)"\)', text)) & set(inputs)  # would be one argument, in and out


def test_every_source_is_in_the_installed_package():
    """setup.py lists patterns: a new suffix would be left out of wheels."""
    patterns = {".h", ".cc", ".cpp"}
    modules = {".py", ".pyc"}  # packages bring their own
    files = Path(build_ascend.ASCENDC_SOURCES).rglob("*")
    sources = [file for file in files if file.is_file() and file.suffix not in modules]
    assert {file.suffix for file in sources} <= patterns

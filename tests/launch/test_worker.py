import pytest

from mindspore_paged.errors import ConfigError
from mindspore_paged.launch import worker
from mindspore_paged.launch.worker import Worker, current_worker, is_scheduler

MSRUN = {
    "MS_ROLE": "MS_WORKER",
    "MS_WORKER_NUM": "4",
    "RANK_ID": "3",
    "MS_SCHED_HOST": "10.0.0.7",
    "MS_SCHED_PORT": "8118",
}


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in (*MSRUN, "RANK_SIZE", worker.CONTROL_PORT_VARIABLE, "MS_TOPO_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)
    current_worker.cache_clear()
    yield
    current_worker.cache_clear()


def under_msrun(monkeypatch, **changes):
    for name, value in (MSRUN | changes).items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)


def test_without_msrun_there_is_one_rank_and_no_supervisor():
    assert current_worker() == Worker(rank=0, size=1, host="127.0.0.1", port=0)
    assert not current_worker().supervised
    assert not is_scheduler()


def test_a_worker_of_msrun_is_what_its_environment_says(monkeypatch):
    under_msrun(monkeypatch)
    assert current_worker() == Worker(rank=3, size=4, host="10.0.0.7", port=8119)
    assert current_worker().supervised


def test_the_launcher_can_choose_the_supervisors_port(monkeypatch):
    under_msrun(monkeypatch, **{worker.CONTROL_PORT_VARIABLE: "9000"})
    assert current_worker().port == 9000


def test_the_scheduler_is_no_worker(monkeypatch):
    under_msrun(monkeypatch, MS_ROLE="MS_SCHED", RANK_ID="0")
    assert is_scheduler()
    assert not current_worker().supervised


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"RANK_ID": None}, "--node_rank"),
        ({"RANK_ID": "4"}, "RANK_ID is 4, not one of the job's 4 ranks"),
        ({"RANK_ID": "x"}, "RANK_ID must be an integer, but is 'x'"),
        ({"MS_SCHED_PORT": ""}, "MS_SCHED_PORT must be an integer, but is ''"),
        ({"MS_SCHED_PORT": "65535"}, "MS_SCHED_PORT is 65535; it must be a port from 1 to 65534"),
        ({"MS_SCHED_PORT": "-7"}, "MS_SCHED_PORT is -7; it must be a port from 1 to 65534"),
        ({worker.CONTROL_PORT_VARIABLE: "70000"}, "CONTROL_PORT is 70000; it must be a port from 1 to 65535"),
    ],
)
def test_an_environment_that_makes_no_sense_is_refused(monkeypatch, changes, message):
    under_msrun(monkeypatch, **changes)
    with pytest.raises(ConfigError, match=message):
        current_worker()


@pytest.mark.parametrize(("given", "seconds"), [(None, 600.0), ("30", 30.0), ("-1", 1e9)])
def test_the_time_to_start_is_msruns(monkeypatch, given, seconds):
    under_msrun(monkeypatch, MS_TOPO_TIMEOUT=given)
    assert worker.start_limit() == seconds


def test_the_own_address_is_the_one_on_the_way_to_the_supervisor():
    assert Worker(0, 2, "127.0.0.1", 8119).own_address() == "127.0.0.1"

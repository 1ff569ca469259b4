"""The group's collectives: MindSpore's communicator, which every process of a job joins once."""

from typing import TYPE_CHECKING

import mindspore as ms
from mindspore import communication

from mindspore_paged.engine.execution.ranks.place import Place
from mindspore_paged.errors import ConfigError
from mindspore_paged.launch import supervision

if TYPE_CHECKING:  # an exported model is run without the models' code
    from mindspore_paged.models.parallel import OneRank, RankGroup

_joined: set[Place] = set()  # MindSpore's communicator is the process's: what is joined there cannot be left again


def join_group(place: Place) -> None:
    """Wait for all workers of the job, and join those of this place's group.

    It comes before the first Tensor of a model: Ascend takes no communicator later. Raises ConfigError in a process
    that was in a group before: its other ranks are gone.
    """
    parallel = place.parallel
    if place in _joined:
        raise ConfigError(
            f"this process made an LLM of {parallel.size} ranks before; the other ranks ended with it, so that a "
            "script under msrun can make only one"
        )
    supervision.report_group(place.ranks)
    if place.worker.supervised and not communication.GlobalComm.INITED:
        communication.init()
    if parallel.size == 1:
        return
    _joined.add(place)
    if not _is_world(place):  # by its members alone: MindSpore refuses the others
        communication.create_group(_name(place), list(place.ranks))


def collectives_of(place: Place) -> "OneRank | RankGroup":
    """How the ranks of this place's group, which was joined, exchange what they compute."""
    from mindspore_paged.models.parallel import ONE_RANK, RankGroup

    parallel = place.parallel
    if parallel.size == 1:
        return ONE_RANK
    on_cpu = ms.get_context("device_target") == "CPU"
    return RankGroup(_name(place), parallel.rank, parallel.size, _is_world(place), in_order=on_cpu)


def _is_world(place: Place) -> bool:
    return place.parallel.size == place.worker.size


def _name(place: Place) -> str:
    return communication.GlobalComm.WORLD_COMM_GROUP if _is_world(place) else f"replica_{place.replica}"

"""The group's collectives: MindSpore's communicator, which every process of a job joins once."""

from mindspore import communication

from mindspore_paged.engine.ranks.place import Place
from mindspore_paged.errors import ConfigError
from mindspore_paged.launch import supervision
from mindspore_paged.models.parallel import ONE_RANK, OneRank, RankGroup

_joined: set[Place] = set()  # MindSpore's communicator is the process's: what is joined there cannot be left again


def join_group(place: Place) -> RankGroup | OneRank:
    """Wait for all workers of the job, and return how those of this place's group exchange what they compute.

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
        return ONE_RANK
    _joined.add(place)
    if parallel.size == place.worker.size:
        return RankGroup(communication.GlobalComm.WORLD_COMM_GROUP, parallel.rank, parallel.size, is_world=True)
    name = f"replica_{place.replica}"
    communication.create_group(name, list(place.ranks))  # by its members alone: MindSpore refuses the others
    return RankGroup(name, parallel.rank, parallel.size, is_world=False)

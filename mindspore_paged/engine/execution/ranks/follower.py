"""What the ranks other than the leader do: whatever it says, until it sends them home."""

from dataclasses import replace

from mindspore_paged.engine.execution.ranks.calls import STEPS, RankRunner, check_call, perform
from mindspore_paged.engine.execution.ranks.channel import FollowerChannel
from mindspore_paged.launch import states, supervision


def follow(runner: RankRunner, channel: FollowerChannel) -> None:
    """Do this rank's part of every call until the leader closes the channel.

    A StepError is an outcome like others, and the leader's to judge. Raises GroupError if the leader is gone, or asks
    for what this rank cannot do in step with it.
    """
    number = 0
    supervision.report_state(number, states.WAITING_FOR_PLAN)
    while (call := channel.receive()) is not None:
        number += 1
        check_call(runner, call, number)
        supervision.report_state(number, states.IN_THE_GRAPH)
        outcome = perform(runner, call)
        if call.method in STEPS:  # every rank has the same: the leader takes its own
            outcome = replace(outcome, result=None)
        channel.answer(outcome)
        supervision.report_state(number, states.WAITING_FOR_PLAN)
    channel.close()

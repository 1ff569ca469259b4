from mindspore_paged.engine.scheduling.swap_cost import SwapCost


def test_moving_twice_is_weighed_against_computing_again():
    cost = SwapCost()
    assert cost.is_worth_saving(16)  # nothing is known yet
    cost.observe_pages(4, 0.04)  # 10 ms a page
    assert cost.is_worth_saving(16)
    cost.observe_tokens(100, 0.1)  # 1 ms a token: 16 ms a page, moving it twice takes 20
    assert not cost.is_worth_saving(16)
    assert cost.is_worth_saving(32)


def test_the_means_follow():
    cost = SwapCost()
    cost.observe_pages(1, 0.010)
    cost.observe_tokens(1, 0.001)
    for _ in range(50):
        cost.observe_pages(1, 0.001)
    assert cost.is_worth_saving(16)


def test_a_fixed_mode_does_not_compare():
    for mode, answer in (("always", True), ("never", False)):
        cost = SwapCost(mode)
        cost.observe_pages(1, 1.0 if answer else 1e-9)
        cost.observe_tokens(1, 1e-9 if answer else 1.0)
        assert cost.is_worth_saving(16) is answer
